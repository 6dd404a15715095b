"""How fast `loract shard` and Hugging Face's datasets make the same dialogues ready: python3 ci/prepare.py LORACT FOLDER [--megabytes N]

FOLDER gets the dialogues of .deps/data/chitchat.jsonl, repeated up to N MB (1,000 if not said otherwise), and the tokenizer and chat template of the demo's
model. Both tokenise with them at 512 tokens and write the result: `loract shard` with marks of what is trained, which `datasets` does without, `Dataset.map`
in two processes and batches of 1,000. Then `loract shard` is killed half-way and begun again, and must come to the same bytes.
"""

import argparse
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
DIALOGUES = TOP / ".deps/data/chitchat.jsonl"
LENGTH = 512

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"


def with_datasets(model, file, out):
    """Runs in a process of its own, and says what it took."""
    import datasets
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)

    def tokenised(batch):
        texts = tokenizer.apply_chat_template(batch["messages"], tokenize=False)
        return {"input_ids": tokenizer(texts, truncation=True, max_length=LENGTH, add_special_tokens=False)["input_ids"]}

    start = time.time()
    rows = datasets.load_dataset("json", data_files=file, split="train", cache_dir=f"{out}/cache")
    loaded = time.time()
    rows = rows.map(tokenised, batched=True, num_proc=2, remove_columns=rows.column_names, cache_file_name=f"{out}/mapped.arrow")
    mapped = time.time()
    some = [rows[index]["input_ids"] for index in range(min(len(rows), 2000))]
    tokens = sum(len(ids) for batch in rows.with_format("arrow").iter(1000) for ids in batch["input_ids"])
    print(json.dumps({"load": loaded - start, "map": mapped - loaded, "rows": len(rows), "tokens": tokens, "some": digest(some)}))


def digest(samples):
    return hashlib.sha256(json.dumps(samples).encode()).hexdigest()


def watched(command):
    """Runs a command; its output, seconds, seconds of processors, and the MB of its largest process."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.time()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    output = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    if status != 0:
        sys.exit(f"{' '.join(map(str, command))} failed")
    seconds = time.time() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return output, seconds, busy, usage.ru_maxrss / 1000


def samples(file, count):
    """The first samples of a data set of loract."""
    from safetensors import safe_open

    with safe_open(file, framework="numpy") as data:
        starts = data.get_slice("sample_starts")[: count + 1].tolist()
        tokens = data.get_slice("tokens")[: starts[-1]].tolist()
    return [tokens[start:end] for start, end in zip(starts, starts[1:])]


def sha256(file):
    with open(file, "rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("loract")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--megabytes", type=int, default=1000)
    given = parser.parse_args()
    out = (given.folder / "prepare").resolve()
    out.mkdir(parents=True, exist_ok=True)

    model = out / "model"
    if not model.exists():
        gguf, adapter = TOP / ".deps/models/SmolLM2-135M-Instruct.Q4_1.gguf", TOP / "tests/fixtures/golden/adapter_final"
        command = [given.loract, "merge", "--json", "--model", gguf, "--adapter", adapter, "--out", model, "--dtype", "bf16"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    lines = DIALOGUES.read_bytes()
    file = out / f"dialogues-{given.megabytes}.jsonl"
    times = max(1, round(given.megabytes * 1e6 / len(lines)))
    if not file.exists() or file.stat().st_size != times * len(lines):
        with open(file, "wb") as data:
            for _ in range(times):
                data.write(lines)
    megabytes = file.stat().st_size / 1e6
    dialogues = times * lines.count(b"\n")
    print(f"{megabytes:,.0f} MB of JSONL, {dialogues:,} dialogues, the first {LENGTH} tokens of each\n", flush=True)

    config = out / "prepare.toml"
    config.write_text(f'[model]\npath = "{model}"\n[lora]\n[data]\ntrain = "{file}"\neval_samples = 0\nsequence_length = {LENGTH}\n')
    shard = lambda name, *more: [given.loract, "shard", "--json", str(config), "--set", f"run.dir={out / name}", *more]
    for name in ("ours", "again", "same"):
        shutil.rmtree(out / name, ignore_errors=True)
    output, seconds, busy, peak = watched(shard("ours"))
    ours = json.loads(output)
    print("| | seconds | MB of JSONL a second | tokens a second | cores busy | MB of memory, largest process |\n|---|---:|---:|---:|---:|---:|")
    row = lambda name, seconds, tokens, busy, peak: print(
        f"| {name} | {seconds:.1f} | {megabytes / seconds:.2f} | {tokens / seconds:,.0f} | {busy} | {peak} |", flush=True
    )
    row("loract shard, all of it", seconds, ours["train"]["tokens"], f"{busy / seconds:.2f}", f"{peak:.0f}")

    hf = out / "datasets"
    shutil.rmtree(hf, ignore_errors=True)
    hf.mkdir()
    output, whole, hf_busy, hf_peak = watched([sys.executable, __file__, "--with-datasets", str(model), str(file), str(hf)])
    theirs = json.loads(output)
    row("datasets.map alone", theirs["map"], theirs["tokens"], "-", f"{hf_peak:.0f}")
    row("datasets, with load_dataset", theirs["load"] + theirs["map"], theirs["tokens"], f"{hf_busy / whole:.2f}", f"{hf_peak:.0f}")
    print(f"\nloract shard is {theirs['map'] / seconds:.2f} times as fast as datasets.map alone", flush=True)

    # Whether both have done the same: without marks, no sample is left out for want of a trained token.
    output, *_ = watched(shard("same", "--set", "data.loss_on=all", "--set", "data.max_samples=2000"))
    same = digest(samples(out / "same/data/train.safetensors", json.loads(output)["train"]["samples"])) == theirs["some"]
    print(f"ids of the first 2,000 dialogues: {'the same' if same else 'DIFFERENT'}")

    child = subprocess.Popen(shard("again"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(seconds / 2)
    child.kill()
    child.wait()
    parts = sorted((out / "again/data/train.parts").glob("*.safetensors"))
    _, rest, _, _ = watched(shard("again"))
    agree = sha256(out / "ours/data/train.safetensors") == sha256(out / "again/data/train.safetensors")
    print(f"killed after {seconds / 2:.0f} s with {len(parts)} parts, it took {rest:.1f} s more, to {'the same' if agree else 'DIFFERENT'} bytes")
    sys.exit(0 if same and agree else 1)


if sys.argv[1] == "--with-datasets":
    with_datasets(*sys.argv[2:])
else:
    main()
