"""How fast `loract shard` and Hugging Face's datasets make the same dialogues ready: python3 ci/prepare.py LORACT FOLDER [--megabytes N] [--tokenizer NAME]...

FOLDER gets the dialogues of .deps/data/chitchat.jsonl, repeated up to N MB (1,000 if not said otherwise), and the tokenizer and chat template of the demo's
model. Both tokenise with them at 512 tokens and write the result: `loract shard` with marks of what is trained, which `datasets` does without, `Dataset.map`
in two processes and batches of 1,000. Then `loract shard` is killed half-way and begun again, and must come to the same bytes.

With --tokenizer, as often as you like, a tokenizer of .deps/tokenizers and its template: processor seconds of both are compared, and what `loract shard` needs for
a single record of 66 MB.
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
    loaded, busy = time.time(), busy_so_far()
    rows = rows.map(tokenised, batched=True, num_proc=2, remove_columns=rows.column_names, cache_file_name=f"{out}/mapped.arrow")
    mapped = time.time()
    some = [rows[index]["input_ids"] for index in range(min(len(rows), 2000))]
    tokens = sum(len(ids) for batch in rows.with_format("arrow").iter(1000) for ids in batch["input_ids"])
    print(json.dumps({"load": loaded - start, "map": mapped - loaded, "rows": len(rows), "tokens": tokens, "some": digest(some), "busy_before": busy}))


def busy_so_far():
    """Processor seconds of this process and those that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


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
    parser.add_argument("--tokenizer", action="append", default=[], metavar="NAME")
    given = parser.parse_args()
    given.folder = (given.folder / "prepare").resolve()
    given.folder.mkdir(parents=True, exist_ok=True)
    sys.exit(0 if (processors(given) if given.tokenizer else against_datasets(given)) else 1)


def dialogues(given):
    """The file of dialogues; its MB and how many there are."""
    lines = DIALOGUES.read_bytes()
    file = given.folder / f"dialogues-{given.megabytes}.jsonl"
    times = max(1, round(given.megabytes * 1e6 / len(lines)))
    if not file.exists() or file.stat().st_size != times * len(lines):
        with open(file, "wb") as data:
            for _ in range(times):
                data.write(lines)
    megabytes, count = file.stat().st_size / 1e6, times * lines.count(b"\n")
    print(f"{megabytes:,.0f} MB of JSONL, {count:,} dialogues, the first {LENGTH} tokens of each\n", flush=True)
    return file, megabytes


def shard_command(given, model, file):
    """What prepares a file with a model: a function of the run's name and more words."""
    config = given.folder / f"{model.name}.toml"
    config.write_text(f'[model]\npath = "{model}"\n[lora]\n[data]\ntrain = "{file}"\neval_samples = 0\nsequence_length = {LENGTH}\n')
    return lambda name, *more: [given.loract, "shard", "--json", str(config), "--set", f"run.dir={given.folder / name}", *more]


def mapped_by_datasets(given, model, file):
    """What datasets says of its work, and `watched` of it."""
    out = given.folder / "datasets"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    output, *rest = watched([sys.executable, __file__, "--with-datasets", str(model), str(file), str(out)])
    return json.loads(output), *rest


def processors(given):
    """Processor seconds beside datasets.map, by tokenizer; and the memory for a record of 66 MB."""
    import data_parity

    file, megabytes = dialogues(given)
    long = given.folder / "one-record.jsonl"
    words = "The lake rests below a ridge of grey stone, where boats drift past the reeds. " * 850_000
    long.write_text(json.dumps({"messages": [{"role": "user", "content": "Go on."}, {"role": "assistant", "content": words}]}) + "\n")
    print("| tokenizer | loract shard, processor s | datasets.map, processor s | ratio | seconds | seconds of map | ids equal | MB for one record of "
          f"{long.stat().st_size / 1e6:.0f} MB |\n|---|---:|---:|---:|---:|---:|---|---:|")
    fine = True
    for name in given.tokenizer:
        model = data_parity.model_folder(data_parity.TOKENIZERS / name, None, given.folder / name)
        shard = shard_command(given, model, file)
        for run in ("ours", "same", "long"):
            shutil.rmtree(given.folder / run, ignore_errors=True)
        _, seconds, busy, _ = watched(shard("ours"))
        theirs, _, their_busy, _ = mapped_by_datasets(given, model, file)
        their_busy -= theirs["busy_before"]
        output, *_ = watched(shard("same", "--set", "data.loss_on=all", "--set", "data.max_samples=2000"))
        same = digest(samples(given.folder / "same/data/train.safetensors", json.loads(output)["train"]["samples"])) == theirs["some"]
        _, _, _, peak = watched(shard_command(given, model, long)("long"))
        fine &= same
        print(f"| {name} | {busy:.1f} | {their_busy:.1f} | {their_busy / busy:.2f} | {seconds:.1f} | {theirs['map']:.1f} | {'yes' if same else 'NO'} | "
              f"{peak:.0f} |", flush=True)
    return fine


def against_datasets(given):
    out = given.folder
    model = out / "model"
    if not model.exists():
        gguf, adapter = TOP / ".deps/models/SmolLM2-135M-Instruct.Q4_1.gguf", TOP / "tests/fixtures/golden/adapter_final"
        command = [given.loract, "merge", "--json", "--model", gguf, "--adapter", adapter, "--out", model, "--dtype", "bf16"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    file, megabytes = dialogues(given)
    shard = shard_command(given, model, file)
    for name in ("ours", "again", "same"):
        shutil.rmtree(out / name, ignore_errors=True)
    output, seconds, busy, peak = watched(shard("ours"))
    ours = json.loads(output)
    print("| | seconds | MB of JSONL/s | tokens/s | cores busy | MB of memory, largest process |\n|---|---:|---:|---:|---:|---:|")
    row = lambda name, seconds, tokens, busy, peak: print(
        f"| {name} | {seconds:.1f} | {megabytes / seconds:.2f} | {tokens / seconds:,.0f} | {busy} | {peak} |", flush=True
    )
    row("loract shard, all of it", seconds, ours["train"]["tokens"], f"{busy / seconds:.2f}", f"{peak:.0f}")

    theirs, whole, hf_busy, hf_peak = mapped_by_datasets(given, model, file)
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
    return same and agree


if sys.argv[1] == "--with-datasets":
    with_datasets(*sys.argv[2:])
else:
    main()
