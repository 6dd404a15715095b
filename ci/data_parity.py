"""Whether `loract shard` prepares the tokens and marks that transformers would: python ci/data_parity.py LORACT FOLDER [--only NAME]... [--fresh]

Each real tokenizer with its own chat template, and each template of TRL with a tokenizer that fits, gets the conversations of ci/data_corpus.py. Ids are compared
with `apply_chat_template` of transformers, marks of what is trained with those of ci/data_expected.py, which is independent of ours. Then prompts with completions
are encoded by each tokenizer, and must decode to themselves. What differs goes to FOLDER/data/differences/NAME.jsonl, and must have a name among EXCEPTIONS.
What transformers makes is kept in FOLDER/data/expected until templates, tokenizers, conversations or the reference change.
"""

import argparse
import fnmatch
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["TRANSFORMERS_NO_ADVISORY_WARNINGS"] = "1"

import data_corpus
import data_expected
import data_tokenizers
from data_compare import Row, around, marked, more_than, placed, shown, text_of, total

TOP = Path(__file__).resolve().parent.parent
TOKENIZERS = TOP / ".deps/tokenizers"
LENGTH = 1 << 17  # tokens of the longest sample
OWN = {
    "llama2": "llama2", "llama3": "llama3", "llama3_1": "llama3", "gemma3": "gemma", "gemini": "gemma", "qwen3": "chatml", "deepseek_v3": "deepseek",
    "olmo": "olmo", "olmo2": "olmo", "smollm2": "chatml",
}
# Templates of TRL by the begin of their name: tokenizer (none: SmolLM2's with the family's tokens added) and family. The first that fits.
TRL = (
    ("qwen", "qwen3", "chatml"), ("llama3", "llama3_1", "llama3"), ("gemma4", None, "gemma4"), ("diffusion_gemma", None, "gemma4"), ("gemma", "gemma3", "gemma"),
    ("deepseek", "deepseek_v3", "deepseek"), ("gptoss", "gptoss", "gptoss"), ("cohere", None, "cohere"), ("phi3", None, "phi3"), ("glm4", None, "glm4"),
    ("lfm2", None, "lfm2"), ("nemotron", None, "nemotron"), ("llava", None, "llava"), ("idefics3", None, "idefics3"), ("smolvlm", None, "smolvlm"), ("muse", None, "muse"),
)
# (template, case, what differs, why that is right): patterns as of file names, and "ids", "marks", "refused by ours only" or "rendered by ours only".
DROPS = "the template drops tool calls, and an empty turn would be trained in their place"
FORMS = "a call has the form that the template reads: arguments as JSON in a string, no content as an empty string or as null"
PARTS = "parts of text are their text, where transformers prints a Python list or fails"
EXCEPTIONS = (
    *(("*", case, "refused by ours only", DROPS) for case in ("*call*", "arguments *", "result*", "two steps*")),
    *(("*", case, what, PARTS) for case in ("one part", "parts") for what in ("ids", "rendered by ours only")),
    *(("glm4moe.jinja", "*", what, "the last turn gets the token at which the model stops, as in TRL's training template") for what in ("ids", "marks")),
    ("*", "begins with the assistant", "marks", "no prompt says where the header of a first turn ends"),
    ("muse_glimmer*", "reasoning without answer", "marks", "the template ends the thought and the empty answer each with a token of its own"),
    *((name, "two calls at once", "marks", "the header of a second answer of tools is not the model's") for name in ("gemma4*", "diffusion_gemma*")),
    *(
        ("diffusion_gemma_training.jinja", case, "marks", "its {% generation %} blocks leave out a header that its prompt does not write")
        for case in ("*call*", "arguments *", "result*", "two steps")
    ),
    ("*", "reasoning without answer", "refused by ours only", "the template drops thoughts, and an empty turn would be trained in their place"),
    *(("*", case, "rendered by ours only", FORMS) for case in ("*call*", "arguments *", "result*", "two steps*")),
)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("loract")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", action="append", default=[], help="only the templates whose name this is, or matches as *.jinja would")
    parser.add_argument("--fresh", action="store_true", help="ask transformers again")
    given = parser.parse_args()
    bench = Bench(given.loract, (given.folder / "data").resolve(), given.fresh)
    wanted = lambda name: not given.only or any(fnmatch.fnmatch(name, pattern) for pattern in given.only)
    names = [combination for combination in combinations() if wanted(combination[0])]
    if not names and not any(wanted(f"pairs/{name}") for name in tokenizers()):
        sys.exit(f"no template is called {', '.join(given.only)}")
    fine = bench.conversations(names)
    fine &= bench.pairs([name for name in tokenizers() if wanted(f"pairs/{name}")])
    sys.exit(0 if fine else 1)


def tokenizers():
    return sorted(folder.name for folder in TOKENIZERS.iterdir() if (folder / "tokenizer.json").exists())


def combinations():
    """(name, tokenizer or none, file of the template or none, family)."""
    import importlib.util

    for name, family in OWN.items():
        yield name, name, None, family
    trl = Path(importlib.util.find_spec("trl").submodule_search_locations[0]) / "chat_templates"
    for file in sorted(trl.glob("*.jinja")):
        begin = next((entry for entry in TRL if file.name.startswith(entry[0])), None)
        if begin is None:
            sys.exit(f"{file.name} of TRL has no tokenizer and family in {__file__}")
        yield file.name, begin[1], file, begin[2]


class Bench:
    def __init__(self, loract, folder, fresh):
        self.loract, self.folder, self.fresh = loract, folder, fresh
        self.loaded = {}
        self.seconds = {"transformers": 0.0, "loract": 0.0}
        (folder / "expected").mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder / "differences", ignore_errors=True)
        self.records = list(data_corpus.conversations())

    # --- conversations

    def conversations(self, names):
        rows, fine = [], True
        if names:
            print("| tokenizer / template | rendered by transformers | ids equal | marks equal | without a reference | refused by both | refused by ours only | exceptions |")
            print("|---|---:|---:|---:|---:|---:|---:|---|")
        for name, tokenizer, template, family in names:
            expected, model = self.expected(name, tokenizer, template, family), self.model(name, tokenizer, template, family)
            row = self.compared(name, expected, self.ours(name, model, self.files(family)))
            fine &= row.fine
            rows.append(row)
            print(row.line(), flush=True)
        if len(rows) > 1:
            print(total(rows).line())
            print(f"\ntransformers took {self.seconds['transformers']:.0f} s, loract shard {self.seconds['loract']:.0f} s")
        if not fine:
            print(f"what differs: {self.folder / 'differences'}")
        if any(name.endswith("_training.jinja") for name, *_ in names):
            self.second_opinion(names)
        return fine

    def files(self, family):
        """The conversations, each in a file of its own, so that each that is refused is named."""
        parts = data_expected.FAMILIES[family].parts
        folder = self.folder / ("conversations-in-parts" if parts else "conversations")
        folder.mkdir(exist_ok=True)
        files = []
        for index, (name, record) in enumerate(self.records):
            file = folder / f"{index:03}-{re.sub('[^a-z0-9]+', '-', name.lower())}.jsonl"
            line = json.dumps(data_corpus.in_parts(record) if parts else record, ensure_ascii=False) + "\n"
            if not file.exists() or file.read_text() != line:
                file.write_text(line)
            files.append(file)
        return files

    def source(self, tokenizer, family):
        """The folder of a tokenizer; one that was lent is made."""
        if tokenizer is not None:
            return TOKENIZERS / tokenizer
        folder, kind = self.folder / "lent" / family, data_expected.FAMILIES[family]
        data_tokenizers.lent(TOKENIZERS / "smollm2", folder, [*kind.tokens, *kind.stops], kind.bos, kind.eos)
        return folder

    def reference(self, tokenizer, template, family):
        folder = self.source(tokenizer, family)
        text = template.read_text() if template else None
        made = data_expected.Reference(folder, text, family, self.loaded.get(folder))
        if folder not in self.loaded:
            self.loaded = {folder: made.shared()}  # one at a time: some are large
        return made

    def expected(self, name, tokenizer, template, family):
        folder = self.source(tokenizer, family)
        texts = [template.read_text() if template else "", *(file.read_text() for file in sorted(folder.iterdir()) if file.suffix == ".jinja")]
        dated = any("strftime_now" in text for text in texts) and time.strftime("%F")
        modules = [Path(module.__file__).read_text() for module in (data_corpus, data_expected)]
        stamps = [(file.name, file.stat().st_size) for file in sorted(folder.iterdir()) if file.suffix in (".json", ".jinja")]
        key = hashlib.sha256(json.dumps([texts, modules, stamps, dated]).encode()).hexdigest()
        file = self.folder / "expected" / f"{name}.json"
        if not self.fresh and file.exists():
            found = json.loads(file.read_text())
            if found["key"] == key:
                return found["cases"]
        start = time.time()
        reference, parts = self.reference(tokenizer, template, family), data_expected.FAMILIES[family].parts
        cases = [reference.expect(data_corpus.in_parts(record) if parts else record) for _, record in self.records]
        self.seconds["transformers"] += time.time() - start
        file.write_text(json.dumps({"key": key, "cases": cases}))
        return cases

    def model(self, name, tokenizer, template, family):
        return model_folder(self.source(tokenizer, family), template, self.folder / "models" / name)

    def ours(self, name, model, files):
        """What `loract shard` makes of files of one record each: by place, (ids, marks), or why it is refused."""
        made, left = {}, list(range(len(files)))
        for _ in range(4):
            found = self.shard(name, model, [files[index] for index in left])
            if isinstance(found, tuple):
                reasons, samples, dropped = found
                made |= {index: reasons[files[index]] for index in left if files[index] in reasons}
                kept = [index for index in left if files[index] not in reasons]
                if len(kept) == len(samples):
                    return made | dict(zip(kept, samples))
                return made | {"rest": (kept, samples)}
            # A failure of the whole: once more without the record at which it was met.
            met = re.search(r"\(met at (\S+?):\d+\)", found)
            at = next((index for index in left if met and files[index].name in met.group(1)), None)
            if at is None:
                break
            made[at] = found
            left.remove(at)
        return made | {index: f"the run failed: {found}" for index in left}

    def shard(self, name, model, files):
        run = self.folder / "run"
        shutil.rmtree(run, ignore_errors=True)
        config = self.folder / "run.toml"
        config.write_text(
            f'[run]\ndir = "{run}"\n[model]\npath = "{model}"\n[lora]\n[data]\ntrain = {json.dumps([str(file) for file in files])}\n'
            f'eval_samples = 0\nsequence_length = {LENGTH}\nbad_lines = "skip"\nshuffle = false\n'
        )
        start = time.time()
        ended = subprocess.run([self.loract, "shard", "--json", config], capture_output=True, text=True)
        self.seconds["loract"] += time.time() - start
        if ended.returncode != 0:
            return ended.stderr.strip().splitlines()[-1] if ended.stderr.strip() else f"exit code {ended.returncode}"
        report = json.loads(ended.stdout)["report"]
        reasons = {Path(bad["path"]): bad["first"][0]["problem"] for bad in report.get("bad", [])}
        return reasons, samples(run / "data/train.safetensors"), report["dropped"]

    def compared(self, name, expected, ours):
        row = Row(name)
        ours = placed(ours, expected)
        # One way to mark holds for all conversations of a template.
        ways = dict.fromkeys(way for case in expected for way in case.get("marks", ()))
        fits = lambda way: sum(isinstance(ours.get(i), tuple) and marked(case, way) == ours[i][1] for i, case in enumerate(expected) if case.get("marks"))
        way = max(ways, key=fits, default="definition")
        differences = []
        for index, ((case, _), expect) in enumerate(zip(self.records, expected)):
            found = ours.get(index, "it is missing")
            what, detail = row.count(expect, found, way)
            if what is None:
                continue
            reason = next((why for template, pattern, kind, why in EXCEPTIONS if fnmatch.fnmatch(name, template) and fnmatch.fnmatch(case, pattern) and kind == what), None)
            if reason:
                row.exceptions[reason] = row.exceptions.get(reason, 0) + 1
            else:
                row.fine = False
            differences.append({"case": case, "what": what, "exception": reason, "detail": detail, "expect": expect, "found": found})
        if differences:
            self.write(name, differences, way)
        row.way = way
        return row

    def write(self, name, differences, way):
        from tokenizers import Tokenizer

        (self.folder / "differences").mkdir(exist_ok=True)
        folder = self.folder / "models" / name
        raw = Tokenizer.from_file(str(folder / "tokenizer.json"))
        with open(self.folder / "differences" / f"{name}.jsonl", "w") as file:
            for difference in differences:
                expect, found = difference.pop("expect"), difference.pop("found")
                if "ids" in expect:
                    difference["transformers"] = shown(raw, expect["ids"], marked(expect, way))
                if isinstance(found, tuple):
                    difference["ours"] = shown(raw, *found)
                file.write(json.dumps(difference, ensure_ascii=False) + "\n")

    def second_opinion(self, names):
        """The marks of TRL's training templates against the definition's for the plain ones, where both write the same tokens."""
        print("\n| training template of TRL | conversations with the same tokens | blocks equal | but for what follows the stop | and for what the prompt opens | "
              "blocks that take in the header | otherwise |\n|---|---:|---:|---:|---:|---:|---|")
        for name, tokenizer, template, family in names:
            if not name.endswith("_training.jinja"):
                continue
            plain = template.with_name(name.replace("_training", ""))
            if not plain.exists():
                continue
            counts, otherwise = dict.fromkeys(("same", "equal", "tail", "opened", "header"), 0), []
            base = self.expected(plain.name, tokenizer, plain, family)
            for (case, _), mine, theirs in zip(self.records, base, self.expected(name, tokenizer, template, family)):
                if mine.get("ids") is None or mine.get("ids") != theirs.get("ids") or "definition" not in mine["marks"]:
                    continue
                counts["same"] += 1
                if "block" not in theirs["marks"]:
                    counts["header"] += 1
                    continue
                how = more_than(marked(mine, "definition"), marked(theirs, "block"))
                if how is None:
                    otherwise.append(case)
                else:
                    counts[how] += 1
            print(f"| {name} | {' | '.join(map(str, counts.values()))} | {len(otherwise)} {', '.join(otherwise[:6])} |")

    # --- prompts and completions

    def pairs(self, names):
        if not names:
            return True
        all_fine, records = True, list(data_corpus.pairs())
        print("\n| tokenizer | pairs | bos + prompt + completion + eos | trained: completion + eos | refused |\n|---|---:|---:|---:|---:|")
        folder = self.folder / "pairs"
        folder.mkdir(exist_ok=True)
        files = []
        for index, (prompt, completion) in enumerate(records):
            files.append(folder / f"{index:03}.jsonl")
            files[-1].write_text(json.dumps({"prompt": prompt, "completion": completion}, ensure_ascii=False) + "\n")
        for name in names:
            # MiniLM's tokenizer has no eos and forgets case and white space.
            if name == "minilm":
                continue
            reference = data_expected.Reference(TOKENIZERS / name, "-")
            ours = placed(self.ours(f"pairs-{name}", self.model(f"pairs-{name}", name, None, "chatml"), files), [{}] * len(files))
            exact = trained = refused = 0
            differences = []
            for index, (prompt, completion) in enumerate(records):
                found = ours.get(index, "it is missing")
                if not isinstance(found, tuple):
                    refused += 1
                    differences.append({"case": [prompt, completion], "what": found})
                    continue
                want = around(reference, prompt, completion)
                got = (text_of(reference, found[0]), text_of(reference, [id_ for id_, flag in zip(*found) if flag]))
                exact += got[0] == want[0]
                trained += got[1] == want[1]
                if got != want:
                    differences.append({"case": [prompt, completion], "what": "pair", "expected": want, "ours": got, "ids": found[0]})
            if differences:
                all_fine = False
                (self.folder / "differences").mkdir(exist_ok=True)
                text = "".join(json.dumps(difference, ensure_ascii=False) + "\n" for difference in differences)
                (self.folder / "differences" / f"pairs-{name}.jsonl").write_text(text)
            print(f"| {name} | {len(records)} | {exact} | {trained} | {refused} |", flush=True)
        return all_fine


def ids(vocabulary):
    """Ids of a vocabulary: a map, or a list of tokens with scores."""
    return vocabulary.values() if isinstance(vocabulary, dict) else [len(vocabulary) - 1]


def samples(file):
    """(ids, marks) of each sample of prepared data."""
    from safetensors.numpy import load_file

    data = load_file(file)
    starts, tokens, trained = (data[name].tolist() for name in ("sample_starts", "tokens", "trained"))
    return [(tokens[a:b], [bool(flag) for flag in trained[a:b]]) for a, b in zip(starts, starts[1:])]


def model_folder(source, template, folder):
    """A folder with a tokenizer, a template if not its own, and the least of a model."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for file in source.iterdir():
        if file.suffix == ".json" or file.suffix == ".jinja" and template is None:
            (folder / file.name).symlink_to(file)
    if template is not None:
        (folder / "chat_template.jinja").symlink_to(template)
    size = source / ".size"  # reading large vocabularies takes its time
    if not size.exists():
        parts = json.loads((source / "tokenizer.json").read_text())
        size.write_text(str(1 + max([*ids(parts["model"]["vocab"]), *(token["id"] for token in parts["added_tokens"])])))
    tiny_model(folder, int(size.read_text()) + 64)
    return folder


def tiny_model(folder, vocabulary):
    """A Llama of zeros that is as small as it can be: preparation reads its configuration."""
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1,
        "num_key_value_heads": 1, "head_dim": 8, "vocab_size": vocabulary, "max_position_embeddings": LENGTH, "rms_norm_eps": 1e-6, "rope_theta": 1e4,
        "hidden_act": "silu", "tie_word_embeddings": True, "attention_bias": False, "mlp_bias": False, "torch_dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(config))
    shapes = {"model.embed_tokens.weight": [vocabulary, 8], "model.norm.weight": [8]}
    layer = {"self_attn.q_proj": [8, 8], "self_attn.k_proj": [8, 8], "self_attn.v_proj": [8, 8], "self_attn.o_proj": [8, 8], "mlp.gate_proj": [8, 8],
             "mlp.up_proj": [8, 8], "mlp.down_proj": [8, 8], "input_layernorm": [8], "post_attention_layernorm": [8]}
    shapes |= {f"model.layers.0.{name}.weight": shape for name, shape in layer.items()}
    header, at = {}, 0
    for name, shape in shapes.items():
        size = 4 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(folder / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + at)


if __name__ == "__main__":
    main()
