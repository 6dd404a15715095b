"""Small sound files for ci/fuzz to begin with. Usage: seeds.py gguf | manifest FOLDER"""
import json
import struct
import sys
from pathlib import Path


def gguf():
    def string(text):
        return struct.pack("<Q", len(text)) + text.encode()

    numbers = {"block_count": 1, "context_length": 32, "embedding_length": 8, "feed_forward_length": 8, "attention.head_count": 2,
               "attention.head_count_kv": 2, "rope.dimension_count": 4}
    metadata = [string("general.architecture") + struct.pack("<I", 8) + string("llama")]
    metadata += [string(f"llama.{key}") + struct.pack("<II", 4, value) for key, value in numbers.items()]
    metadata += [string("llama.attention.layer_norm_rms_epsilon") + struct.pack("<If", 6, 1e-5)]
    tokens = ["a", "b", "ab", "<end>"]
    metadata += [string("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, len(tokens)) + b"".join(map(string, tokens))]
    square = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]
    shapes = {"token_embd": [8, 4], "output_norm": [8], "blk.0.attn_norm": [8], "blk.0.ffn_norm": [8]}
    shapes |= {f"blk.0.{name}": [8, 8] for name in square}
    infos, data = b"", b""
    for name, shape in shapes.items():
        infos += string(f"{name}.weight") + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, len(data))
        count = 1
        for side in shape:
            count *= side
        data += struct.pack(f"<{count}f", *[0.5] * count)
        data += b"\0" * (-len(data) % 32)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(shapes), len(metadata)) + b"".join(metadata) + infos
    return head + b"\0" * (-len(head) % 32) + data


def manifest():
    files = [{"name": "rank-0000.safetensors", "bytes": 10, "sha256": "4e" * 32}]
    return json.dumps({"format": 1, "step": 7, "ranks": 1, "config": {"run.seed": "0", "lora.rank": "8"}, "data": "abc", "eval_loss_before": 1.5,
                       "eval_loss": None, "best": {"step": 7, "eval_loss": 1.25}, "seconds": 2.5, "files": files}, indent=2).encode()


def main():
    what, folder = sys.argv[1], Path(sys.argv[2])
    if what == "gguf":
        (folder / "llama.gguf").write_bytes(gguf())
    else:
        (folder / "manifest.json").write_bytes(manifest())


main()
