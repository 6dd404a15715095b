"""Writes what ci/data_expected.py expects of some templates as one small file, for tests that have no Python: python ci/data_fixture.py FILE

`conversations` are records by name. Each of `templates` has its source, the tokens that are special to it, and by conversation what transformers writes, as the
begin of its SHA-256, and which bytes of it are trained; or null where transformers refuses it. What has no reference is left out.
"""

import hashlib
import importlib.util
import json
import re
import sys
from pathlib import Path

import data_corpus
import data_expected
from data_parity import TRL

TEMPLATES = ("cohere2", "deepseekv3", "gemma3", "glm4moe", "lfm2_2_5", "lfm2_v2", "llama3_1", "llava_next", "nemotron_3_nano", "phi3", "qwen2_5", "qwen3", "qwen3_5_think", "smolvlm")
TOKEN = re.compile(r"<\|[^|<>{}\s]+\|>|<｜[^｜<>{}\s]+｜>|<(?:start|end)_of_\w+>")
ENDS = {"chatml": (None, "<|im_end|>"), "llama3": ("<|begin_of_text|>", "<|eot_id|>"), "gemma": ("<bos>", "<end_of_turn>"), "deepseek": ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>")}


def main(file):
    cases = {name: record for name, record in data_corpus.conversations() if not name.startswith(("long", "result long"))}
    folder = Path(importlib.util.find_spec("trl").submodule_search_locations[0]) / "chat_templates"
    out = ['{"conversations": {\n' + ",\n".join(f"{text(name)}: {text(record)}" for name, record in cases.items()) + '},\n"templates": {']
    out.append(",\n".join(of_template(name, (folder / f"{name}.jinja").read_text(), cases) for name in TEMPLATES) + "}}")
    Path(file).write_text("\n".join(out) + "\n")


def of_template(name, source, cases):
    family_name = next(family for begin, _, family in TRL if name.startswith(begin))
    family = data_expected.FAMILIES[family_name]
    bos, eos = ENDS.get(family_name, (family.bos, family.eos))
    special = sorted({*TOKEN.findall(source), *family.stops, *filter(None, (bos, eos))})
    given = {"source": source, "special_tokens": special, "bos_token": bos, "eos_token": eos, "parts": family.parts}
    expected = [(case, of_case(data_corpus.in_parts(record) if family.parts else record, source, family, bos, eos)) for case, record in cases.items()]
    lines = ",\n".join(f"{text(case)}: {text(what)}" for case, what in expected if what != "unsure")
    return f'{text(name)}: {text(given)[:-1]}, "expected": {{\n{lines}}}}}'


def of_case(record, source, family, bos, eos):
    from transformers.utils.chat_template_utils import render_jinja_template

    options = {"bos_token": bos, "eos_token": eos} | record.get("chat_template_kwargs", {})
    options = {key: value for key, value in options.items() if value is not None}

    def render(messages, open_):
        return render_jinja_template(conversations=[messages], tools=record.get("tools"), chat_template=source, add_generation_prompt=open_, **options)[0][0]

    try:
        whole = render(record["messages"], False)
    except Exception:
        return None
    try:
        exact, _ = data_expected.spans(record, render, family, whole)
    except data_expected.Unsure:
        return "unsure"
    byte = lambda at: len(whole[:at].encode())
    return [hashlib.sha256(whole.encode()).hexdigest()[:12], *([byte(start), byte(end)] for start, end in exact)]


def text(value):
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


if __name__ == "__main__":
    main(sys.argv[1])
