"""Full fine-tuning by PyTorch's DistributedDataParallel over gloo, one rank, on the model and the batches that `ci/bench wire` made.

ddp.py MODEL METHOD STEPS OUT with METHOD exact, bf16 or powersgd-RANK; rank 0 writes a line of JSON with the seconds of each step to OUT.
Started by mpirun, of which it knows rank and size alone: what travels goes through gloo.
"""

import json
import os
import sys
import time

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.nn.parallel import DistributedDataParallel
from transformers import LlamaForCausalLM

folder, method, steps, out = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
rank, ranks = int(os.environ["OMPI_COMM_WORLD_RANK"]), int(os.environ["OMPI_COMM_WORLD_SIZE"])
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
dist.init_process_group("gloo", rank=rank, world_size=ranks)

model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
model.config.use_cache = False
# Over gloo the chained sums of several PowerSGD buckets meet in another order on each rank and end the job ("collective mismatch"):
# it gets one bucket.
one_bucket = {"bucket_cap_mb": 4096} if method.startswith("powersgd") else {}
if one_bucket:
    dist._DEFAULT_FIRST_BUCKET_BYTES = 4096 << 20
model = DistributedDataParallel(model, **one_bucket)
if method == "bf16":
    model.register_comm_hook(None, default_hooks.bf16_compress_hook)
elif method != "exact":
    # As ours: from the second step on, with error feedback and a warm start.
    state = powerSGD_hook.PowerSGDState(
        None, matrix_approximation_rank=int(method.split("-")[1]), start_powerSGD_iter=2, min_compression_rate=2
    )
    model.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-4, weight_decay=0.0)

batches = load_file(f"{folder}/batches.safetensors")["batches"]
seconds, losses = [], []
for step in range(steps):
    batch = batches[step % len(batches)]
    share = batch[rank * len(batch) // ranks : (rank + 1) * len(batch) // ranks]
    dist.barrier()
    started = time.perf_counter()
    loss = model(input_ids=share, labels=share).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=False)
    dist.barrier()
    seconds.append(time.perf_counter() - started)
    losses.append(loss.item())
if rank == 0:
    with open(out, "w", encoding="utf-8") as file:
        json.dump({"seconds": seconds, "losses": losses}, file)
dist.destroy_process_group()
