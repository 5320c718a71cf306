"""Makes golden_errors.csv: what the field's standard tool loses on the fixture model.

    python make_golden_errors.py

Needs `gguf` and `numpy`, and the developers' shared/ beside the checkout. Sums over a tensor do not
change with the row permutation of GGUF's query and key matrices, but the rows must be matched.
"""

import json
import struct
from pathlib import Path

import numpy as np
from gguf import GGUFReader, quants

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
FILES = {"Q2_K": "q2_k", "Q3_K": "q3_k_s", "Q4_K": "q4_k_s", "Q5_K": "q5_k_s", "Q6_K": "q6_k"}
HEADS = {"attn_q": 8, "attn_k": 4}
NAMES = {
    "token_embd": "model.embed_tokens", "output": "lm_head", "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}


def checkpoint():
    data = (ROOT / "fixtures/tiny-llama-2/hf/model.safetensors").read_bytes()
    length, = struct.unpack_from("<Q", data)
    tensors = {}
    for name, info in json.loads(data[8:8 + length]).items():
        if name != "__metadata__":
            start, end = (8 + length + offset for offset in info["data_offsets"])
            upper = np.frombuffer(data[start:end], np.uint16).astype(np.uint32)
            tensors[name] = (upper << 16).view(np.float32).reshape(info["shape"])
    return tensors


def source_name(name):
    parts = name.removesuffix(".weight").split(".")
    prefix = f"model.layers.{parts[1]}." if parts[0] == "blk" else ""
    return f"{prefix}{NAMES[parts[-1]]}.weight"


def permuted(weights, name):
    heads = HEADS.get(name.split(".")[-2])
    if heads is None:
        return weights
    rows, cols = weights.shape
    return weights.reshape(heads, 2, rows // heads // 2, cols).swapaxes(1, 2).reshape(rows, cols)


def main():
    model = checkpoint()
    lines = ["type,tensor,plain,by_energy,by_square,by_magnitude,by_group_rms"]
    for name, file in FILES.items():
        reader = GGUFReader(ROOT.parent / f"shared/golden/gguf/{file}-pure.gguf")
        for tensor in reader.tensors:
            if tensor.tensor_type.name != name:
                continue
            source = source_name(tensor.name)
            x = permuted(model[source], tensor.name).astype(np.float64).reshape(-1, 256)
            y = quants.dequantize(tensor.data, tensor.tensor_type).reshape(-1, 256)
            e2 = (y - x) ** 2
            energy = (x * x).mean(1, keepdims=True)
            group_rms = np.sqrt((x * x).reshape(-1, 8, 32).mean(2)).repeat(32, 1)
            factors = [1, energy, x * x, abs(x), group_rms]
            sums = [(factor * e2).sum() for factor in factors]
            lines.append(",".join([name, source] + [f"{s:.6e}" for s in sums]))
    (HERE / "golden_errors.csv").write_text("\n".join(lines) + "\n")


main()
