"""PEFT's side of configs/spam.toml: python3 ci/classify.py SEED STEPS, in the root folder; prints {"accuracy": …, "macro_f1": …, "loss": …}.

The same model, split, length, batch size, rank, targets, schedule and optimiser; the order of samples and the draws are PyTorch's.
"""

import json
import os
import random
import sys

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from peft import LoraConfig, TaskType, get_peft_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer

MODEL, LENGTH, BATCH, RATE, WARM_UP = ".deps/models/minilm", 64, 16, 1e-3, 20
LABELS = ["ham", "spam"]
seed, steps = int(sys.argv[1]), int(sys.argv[2])
torch.manual_seed(seed)
torch.set_num_threads(os.cpu_count())


def rows(name):
    with open(f".deps/data/spam-{name}.jsonl", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


tokenizer = AutoTokenizer.from_pretrained(MODEL)


def batch(rows):
    inputs = tokenizer([row["text"] for row in rows], truncation=True, max_length=LENGTH, padding="longest", return_tensors="pt")
    return inputs, torch.tensor([LABELS.index(row["label"]) for row in rows])


def factor(step):
    return (step + 1) / WARM_UP if step < WARM_UP else (steps - step) / (steps - WARM_UP)


model = AutoModelForSequenceClassification.from_pretrained(MODEL, num_labels=len(LABELS))
model = get_peft_model(model, LoraConfig(task_type=TaskType.SEQ_CLS, r=8, lora_alpha=16, lora_dropout=0.0, target_modules="all-linear"))
trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=0.0)
train, test, order = rows("train"), rows("test"), []
model.train()
for step in range(steps):
    if len(order) < BATCH:
        order += random.Random(seed * 1000 + step).sample(range(len(train)), len(train))
    chosen, order = order[:BATCH], order[BATCH:]
    inputs, labels = batch([train[index] for index in chosen])
    loss = torch.nn.functional.cross_entropy(model(**inputs).logits, labels)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    for group in optimizer.param_groups:
        group["lr"] = RATE * factor(step)
    optimizer.step()
    optimizer.zero_grad()
    if (step + 1) % 20 == 0:
        print(f"step {step + 1}: loss {loss.item():.4f}", file=sys.stderr)

model.eval()
counts, sum_of_losses = torch.zeros(2, 2), 0.0
with torch.no_grad():
    for start in range(0, len(test), 50):
        inputs, labels = batch(test[start : start + 50])
        logits = model(**inputs).logits
        sum_of_losses += torch.nn.functional.cross_entropy(logits, labels, reduction="sum").item()
        for label, taken in zip(labels, logits.argmax(-1)):
            counts[label, taken] += 1
right = counts.diagonal()
f1 = (2 * right / (counts.sum(0) + counts.sum(1)).clamp(min=1)).mean()
print(json.dumps({"accuracy": (right.sum() / counts.sum()).item(), "macro_f1": f1.item(), "loss": sum_of_losses / len(test)}))
