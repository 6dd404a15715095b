"""What is checked on a GPU, each by a program of the kit: `ci/gpu check` calls it. Usage: gpu_check.py KIT OUT

Prints one table, writes it to OUT/checks.md, and the output of whatever failed to OUT/failures.log. Exit code 1 if anything failed.
"""

import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

kit, out = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
LIMIT = 300  # seconds, for a check that hangs
CUDA = {"LORACT_TEST_DEVICE": "cuda"}


def test(name, program, *filters, **environment):
    return name, [kit / "tests" / program, *filters, "--test-threads=4"], environment


def checks():
    yield test("the GPU, libtorch's stream on it, its identity", "cuda-lib")
    yield test("side streams, and their order", "autograd-lib", "stream")
    yield test("bytes that the allocator counts", "autograd-memory")
    yield test("kernels: bit for bit as on the CPU", "kernels-lib", "gpu")
    yield test("matrices coded by kernels: as by the CPU", "compression-lib", "kernel_tests")
    for program, name in {
        "compression-coded": "coded activations: laws",
        "compression-methods": "factorisations: laws",
        "compression-laws": "what all codes owe",
        "compression-shared": "projections on shared bases",
        "layers-against_reference": "layers against plain references",
        "layers-attention": "attention, masked, biased, capped",
        "layers-compressed": "gradients through what was saved",
        "layers-deltas": "inputs saved as deltas",
        "layers-dora": "DoRA",
        "layers-experts": "experts",
        "layers-quantized_weight": "quantized weights",
        "layers-activation_store": "the activation store",
        "reduce-shared_basis": "gradients in shared bases",
    }.items():
        yield test(name, program, **CUDA)
    yield test("NCCL, one rank", "collective-ranks", "one_rank_computes_on_a_gpu")
    yield test("NCCL, two ranks on one card", "collective-ranks", "two_ranks_compute_on_one_gpu")
    yield test("gradients summed by NCCL, as the reference", "reduce-ranks")
    fixtures = Path("tests/fixtures")
    for expected in sorted([*fixtures.glob("hf/*/expected.safetensors"), *fixtures.glob("encoders/*/expected.safetensors")]):
        if expected.parent.name != "sentences":
            name = f"recorded {expected.parent.name}: logits, loss, gradients"
            yield name, [kit / "bin" / "loract", "verify", expected.parent, expected, "--device", "cuda"], {}


def run(check):
    name, command, environment = check
    started = time.monotonic()
    try:
        done = subprocess.run(
            [str(word) for word in command], env=os.environ | environment, text=True, capture_output=True, timeout=LIMIT, check=False
        )
        text, code = done.stdout + done.stderr, done.returncode
    except subprocess.TimeoutExpired as expired:
        text, code = f"{expired.stdout or b''}{expired.stderr or b''}", "no end"
    counted = re.search(r"test result: \w+\. (\d+) passed; (\d+) failed", text)
    verdict = f"{counted[1]} passed" if counted and code == 0 else "passed" if code == 0 else "FAILED"
    if code == 0 and counted and counted[1] == "0":
        verdict = "FAILED: no such test"
    if verdict.startswith("FAILED"):
        with open(out / "failures.log", "a") as log:
            log.write(f"=== {name}\n{command}\n{code}\n{text}\n")
        failures = re.findall(r"^test (\S+) \.\.\. FAILED", text, re.M)
        verdict += f" ({code}) {', '.join(failures)}"
    return name, verdict, time.monotonic() - started


with ThreadPoolExecutor(max(2, min(8, (os.cpu_count() or 2) // 2))) as pool:
    rows = list(pool.map(run, checks()))
table = ["| check | | seconds |", "|---|---|---:|", *(f"| {name} | {verdict} | {seconds:.1f} |" for name, verdict, seconds in rows)]
(out / "checks.md").write_text("\n".join(table) + "\n")
print("\n".join(table))
sys.exit(any("FAILED" in verdict for _, verdict, _ in rows))
