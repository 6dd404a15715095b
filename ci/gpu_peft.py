"""The work of `ci/gpu train`, by PEFT: gpu_peft.py MODEL BATCHES plain|checkpointing STEPS WARM. The last line printed is JSON."""

import json
import statistics
import sys
import time

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

folder, file, way, steps, warm = *sys.argv[1:4], int(sys.argv[4]), int(sys.argv[5])
torch.manual_seed(0)
model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, attn_implementation="sdpa").cuda()
model.config.use_cache = False
if way == "checkpointing":
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.enable_input_require_grads()
model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", lora_dropout=0.0, task_type="CAUSAL_LM"))
model.train()
trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.0, fused=True)
batches = load_file(file)["batches"].cuda()

seconds, losses, peak = [], [], 0
for step in range(steps):
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    loss = model(input_ids=batches[step], labels=batches[step]).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    losses.append(loss.item())
    torch.cuda.synchronize()
    seconds.append(time.perf_counter() - started)
    peak = max(peak, torch.cuda.max_memory_allocated())
print(json.dumps({"seconds": statistics.median(seconds[warm:]), "peak": peak, "losses": losses}))
