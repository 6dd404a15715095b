"""A LoRA of a Llama of 1.1 billion random weights in bf16 on one GPU, by Loract in several ways and by PEFT: `ci/gpu train` calls it.

Usage: gpu_train.py KIT OUT [ways|batches]. `ways` compares the ways to keep activations on one batch; `batches` trains with the largest batch that
`loract plan` gives 24 GB, and PEFT with the largest that its own bytes at 4 and 8 rows leave room for. Prints tables, and writes them to OUT; logs
of what failed go there, too.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

kit, out = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
STEPS, WARM, TOKENS = 12, 4, 2048
SHAPE = "hidden=2048 layers=22 mlp=5632 heads=32 kv_heads=4 vocab=32000 batch=8 tokens=2048 dtype=bf16".split()
WAYS = {
    "none": "sites=none",
    "checkpoint": "sites=checkpoint",
    "layer, 8 bits": "sites=layer method=quantized bits=8",
    "layer, coded, 2 bits": "sites=layer method=coded bits=2",
    "layer, coded differences, 2 bits": "sites=layer method=coded bits=2 delta=true basis=none",
    "sublayer, coded, 4 bits": "sites=sublayer method=coded bits=4",
}
DEFAULT = "layer, 8 bits"
CONFIG = """
[run]
steps = {steps}
batch_size = 8
device = "cuda"
[model]
path = "{model}"
dtype = "bf16"
[lora]
rank = 16
alpha = 32.0
target_modules = "all-linear"
[gradients]
method = "exact"
[data]
train = "{model}/batches.safetensors"
format = "batches"
loss_on = "all"
eval_samples = 0
sequence_length = 2048
[cluster]
ranks = 1
[optimizer]
learning_rate = 1e-3
[schedule]
method = "constant"
warmup_steps = 0
"""


def call(name, command, **environment):
    done = subprocess.run([str(word) for word in command], env=os.environ | environment, text=True, capture_output=True, timeout=240, check=False)
    if done.returncode != 0:
        (out / f"{name}.log").write_text(done.stdout + done.stderr)
        print(f"{name}: failed with {done.returncode}: {(done.stderr or done.stdout)[-1500:]}", file=sys.stderr)
        return None
    return done.stdout


def loract(name, keys, launcher=(), **environment):
    folder = work / name
    sets = [word for key in keys for word in ("--set", key)] + ["--set", f"run.dir={folder}"]
    plan = call(f"{name}-plan", [kit / "bin/loract", "plan", config, "--json", *sets])
    command = [*launcher, kit / "bin/loract", "train", config, "--overwrite", *sets]
    if call(name, command, **environment) is None:
        return None
    steps = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {
        "seconds": statistics.median(step["step_seconds"] for step in steps[min(WARM, len(steps) // 2) :]),
        "peak": max(step["peak_bytes"] for step in steps),
        "kept": steps[-1]["kept_bytes"],
        "plan": plan and json.loads(plan)["peak_bytes"],
        "plan_kept": plan and json.loads(plan)["kept_bytes"],
        "losses": [step["loss"] for step in steps],
    }


def peft(name, way, batches, steps):
    answer = call(name, [sys.executable, "ci/gpu_peft.py", work / "model", batches, way, steps, min(WARM, steps // 2)])
    return answer and json.loads(answer.splitlines()[-1])


def sets(way):
    return [f"activations.{key}" for key in WAYS[way].split()]


def row(name, result, rows=8):
    if result is None:
        return f"| {name} | failed |"
    tokens = rows * TOKENS / result["seconds"]
    plan = f"{result['plan'] / 1e9:.3f} ({100 * (result['plan'] / result['peak'] - 1):+.1f} %)" if result.get("plan") else "-"
    kept = f"{result['kept'] / 1e6:,.1f}" if "kept" in result else "-"
    losses = f"{result['losses'][0]:.4f} → {result['losses'][-1]:.4f}"
    return f"| {name} | {rows} | {1e3 * result['seconds']:.0f} | {tokens:,.0f} | {result['peak'] / 1e9:.3f} | {plan} | {kept} | {losses} |"


def write(name, rows):
    table = [
        "| mode | rows | ms per step | tokens/s | GB at the peak | GB predicted | MB saved | loss |",
        "|---|---:|---:|---:|---:|---:|---:|---|",
        *(row(*one) for one in rows),
    ]
    (out / f"{name}.md").write_text("\n".join(table) + "\n")
    (out / f"{name}.json").write_text(json.dumps(rows))
    print("\n".join(table))
    return all(one[1] is not None for one in rows)


def ways():
    """Each way, on the same batches of 8 rows."""
    rows = [(f"Loract, {name}", loract(name.replace(", ", "-").replace(" ", "-"), sets(name))) for name in WAYS]
    rows.append((f"Loract, {DEFAULT}, on a side stream", loract("side", [*sets(DEFAULT), "activations.stream=side"])))
    rows.append((f"Loract, {DEFAULT}, weights in NF4", loract("nf4", [*sets(DEFAULT), "model.quantization=nf4"])))
    rows += [(f"PEFT, {way}", peft(f"peft-{way}", way, work / "model/batches.safetensors", STEPS)) for way in ["plain", "checkpointing"]]
    # Two ranks on one card, each told that it has a host of its own.
    both = ["mpirun", "--allow-run-as-root", "--oversubscribe", "-n", "2", "sh", "-c", 'NCCL_HOSTID=host-$OMPI_COMM_WORLD_RANK exec "$0" "$@"']
    rows.append((f"Loract, two ranks on the card, {DEFAULT}", loract("nccl", ["cluster.ranks=2", *sets(DEFAULT)], both)))
    return write("train", rows)


def batches(limit=24e9, steps=4):
    """The largest batch in so many bytes."""
    def drawn(count):
        file = work / f"batches-{count}.safetensors"
        save_file({"batches": torch.randint(0, 32000, (steps, count, TOKENS))}, str(file))
        return file

    rows = []
    for way in ["checkpoint", DEFAULT, "layer, coded differences, 2 bits"]:
        answer = call("plan", [kit / "bin/loract", "plan", config, "--json", f"--memory={limit / 1e9:.0f}GB", *(f"--set={key}" for key in sets(way))])
        count = answer and json.loads(answer)["modes"][0]["largest_batch"]
        if count:
            data = [f"data.train={drawn(count)}", f"run.batch_size={count}", f"run.steps={steps}"]
            rows.append((f"Loract, {way}", loract(f"most-{len(rows)}", [*sets(way), *data]), count))
    few, more = (peft(f"peft-{count}", "checkpointing", drawn(count), steps) for count in (4, 8))
    if few and more:
        slope = (more["peak"] - few["peak"]) / 4
        count = int((limit - few["peak"]) / slope) + 4
        rows.append(("PEFT, checkpointing", peft("peft-most", "checkpointing", drawn(count), steps), count))
    return write("batches", rows) and too_much(drawn)


def too_much(drawn):
    """More than a card has: the run ends, and says what would have fitted."""
    count = 8 * (4 + torch.cuda.get_device_properties(0).total_memory // int(21.5e9))
    keys = [f"run.dir={work}/too-much", f"data.train={drawn(count)}", f"run.batch_size={count}", *sets("none")]
    command = [kit / "bin/loract", "train", config, "--overwrite", *(f"--set={key}" for key in keys)]
    done = subprocess.run([str(word) for word in command], text=True, capture_output=True, timeout=240, check=False)
    said = [line for line in done.stderr.splitlines() if "error" in line]
    print(f"\n{count} rows, nothing compressed, exit code {done.returncode}: {said[-1] if said else done.stderr[-500:]}")
    return done.returncode != 0 and any("would have fitted" in line for line in said)


with tempfile.TemporaryDirectory() as folder:
    work = Path(folder)
    call("model", [kit / "bin/random_llama", work / "model", *SHAPE, f"steps={STEPS}"])
    config = work / "run.toml"
    config.write_text(CONFIG.format(steps=STEPS, model=work / "model"))
    wanted = sys.argv[3:] or ["ways", "batches"]
    done = [part() for name, part in (("ways", ways), ("batches", batches)) if name in wanted]
sys.exit(not all(done))
