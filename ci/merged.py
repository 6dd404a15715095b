"""Whether what `loract merge` writes is, to transformers, the base with its adapter, to PEFT: python3 ci/merged.py LORACT

Every adapter in tests/fixtures/lora, which PEFT wrote, and the recorded one of SmolLM2, whose base is a GGUF file. Logits must agree within 1e-4.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # a base model called "llama" is not looked for

import torch
from peft import PeftConfig, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

TOP = Path(__file__).resolve().parent.parent
FIXTURES = TOP / "tests/fixtures"
TOLERANCE = 1e-4


def merged(base, adapter, folder):
    subprocess.run([sys.argv[1], "merge", "--json", "--model", base, "--adapter", adapter, "--out", folder], check=True, stdout=subprocess.DEVNULL)


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def logits(model):
    ids = torch.arange(24).reshape(2, 12) * 31 % 90 + 3
    with torch.no_grad():
        return model(input_ids=ids).logits


def compare(name, base, adapter, folder):
    ours, plain = logits(load(folder)), load(base)
    unadapted = logits(plain)
    theirs = logits(PeftModel.from_pretrained(plain, adapter).eval())
    apart, changed = (ours - theirs).abs().max().item(), (unadapted - theirs).abs().max().item()
    print(f"| {name} | {changed:.2g} | {apart:.1e} |", flush=True)
    return apart <= TOLERANCE < changed


torch.manual_seed(0)
print("| adapter | it changes a logit by | merged and PEFT differ by |\n|---|---:|---:|")
agree = True
with tempfile.TemporaryDirectory() as place:
    for adapter in sorted(path.parent for path in FIXTURES.glob("lora/*/adapter_config.json")):
        base = FIXTURES / "hf" / PeftConfig.from_pretrained(adapter).base_model_name_or_path
        folder = Path(place) / adapter.name
        merged(base, adapter, folder)
        agree &= compare(adapter.name, base, adapter, folder)
    gguf = TOP / ".deps/models/SmolLM2-135M-Instruct.Q4_1.gguf"
    # An adapter that adds nothing yet gives the base itself.
    for part in ["init", "final"]:
        merged(gguf, FIXTURES / f"golden/adapter_{part}", Path(place) / part)
    agree &= compare("SmolLM2 (GGUF)", Path(place) / "init", FIXTURES / "golden/adapter_final", Path(place) / "final")
    tokenizer = AutoTokenizer.from_pretrained(Path(place) / "final")
    text = tokenizer.apply_chat_template([{"role": "user", "content": "How's 2024?"}], tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)
    words = load(Path(place) / "final").generate(**ids, max_new_tokens=12, do_sample=False)[0, ids["input_ids"].shape[1]:]
    ours = subprocess.run([sys.argv[1], "generate", str(Path(place) / "final"), "--prompt", "How's 2024?", "--max-tokens", "12"], check=True, capture_output=True, text=True)
    theirs = tokenizer.decode(words, skip_special_tokens=True)
    print(f"\nwords of transformers: {theirs!r}\nwords of loract:       {ours.stdout.rstrip(chr(10))!r}")
    agree &= theirs == ours.stdout.rstrip("\n")
sys.exit(0 if agree else "ci/merged.py: a merged model differs")
