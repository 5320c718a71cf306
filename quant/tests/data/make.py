"""Makes the test vectors in this folder with the `gguf` package of PyPI (0.19.0).

    python make.py

decode/TYPE.bin     blocks of random bytes with finite scales, then their weights as f32
decode/every_byte.sha256
                    of the weights as f32 of 256 blocks, in which each byte but those of the scales
                    takes every value: byte i of block b is b + 37 i, the scales are 0x1234, 0x2345
encode/weights.f32  blocks of 32 weights: random, constant, ties, zeros, outliers, tiny
encode/TYPE.bin     those weights in TYPE
encode/fixture.sha256
                    of the matrices of fixtures/tiny-llama-2/hf in TYPE, one after another by name
encode/bits.f32     bit patterns for the plain types, among them NaN, infinities, ties
"""

import hashlib
import json
import struct
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as T, quants

HERE = Path(__file__).parent
FIXTURE = HERE.parents[2] / "fixtures/tiny-llama-2/hf/model.safetensors"
# Offsets of the 16-bit fields in a block.
HALVES = {
    T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0],
    T.Q2_K: [80, 82], T.Q3_K: [108], T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208],
}
LEGACY = (T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0)
EDGES = np.array([0.0, -0.0, 6e-8, -6e-5, 65504.0, -65504.0], np.float16)


def decode_vectors(tensor_type):
    # Each type has its own numbers: a new one leaves the others' files as they are.
    rng = np.random.default_rng([2, tensor_type.value])
    weights, size = GGML_QUANT_SIZES[tensor_type]
    count = 16 if weights == 32 else 4
    blocks = rng.integers(0, 256, (count, size), np.uint8)
    for offset in HALVES[tensor_type]:
        halves = rng.normal(0, 0.01, count).astype(np.float16)
        halves[0] = rng.choice(EDGES)
        if weights == 32:
            halves[1:7] = rng.permutation(EDGES)
        blocks[:, offset:offset + 2] = halves.view(np.uint8).reshape(count, 2)
    return blocks.tobytes() + quants.dequantize(blocks, tensor_type).tobytes()


def every_byte(tensor_type):
    _, size = GGML_QUANT_SIZES[tensor_type]
    blocks = (np.arange(256)[:, None] + 37 * np.arange(size)).astype(np.uint8)
    for offset, scale in zip(HALVES[tensor_type], (0x1234, 0x2345)):
        blocks[:, offset:offset + 2] = (scale & 255, scale >> 8)
    return quants.dequantize(blocks, tensor_type).tobytes()


def matrices():
    data = FIXTURE.read_bytes()
    length, = struct.unpack_from("<Q", data)
    for name, info in sorted(json.loads(data[8:8 + length]).items()):
        if len(info.get("shape", [])) == 2:
            start, end = (8 + length + offset for offset in info["data_offsets"])
            upper = np.frombuffer(data[start:end], np.uint16).astype(np.uint32)
            yield (upper << 16).view(np.float32).reshape(info["shape"])


def write_hashes(path, parts_by_type):
    lines = []
    for tensor_type, parts in parts_by_type:
        digest = hashlib.sha256()
        for part in parts:
            digest.update(part)
        lines.append(f"{digest.hexdigest()}  {tensor_type.name}\n")
    path.write_text("".join(lines))


def encode_weights(rng):
    rows = [rng.normal(0, 0.02, 32) for _ in range(12)]
    rows += [rng.normal(0, 1, 32) ** 3 for _ in range(4)]
    rows += [np.zeros(32), np.full(32, 0.25), np.full(32, -3.0)]
    rows += [np.arange(32) - 16, 16 - np.arange(32), np.arange(32) / 2 - 8, (np.arange(32) % 16 - 8) / 2]
    rows += [np.where(np.arange(32) == 7, s * 100.0, 0.001) for s in (1, -1)]
    rows += [np.where(np.arange(32) % 2 == 0, 1.0, -1.0), np.where(np.arange(32) % 2 == 0, -1.0, 1.0)]
    rows += [rng.normal(0, 1e-7, 32), rng.normal(0, 1e-30, 32), rng.normal(0, 2e4, 32)]
    rows += [np.abs(rng.normal(0, 0.02, 32)), -np.abs(rng.normal(0, 0.02, 32))]
    return np.array(rows, np.float32)


def plain_bits(rng):
    patterns = [0, 0x80000000, 0x7f800000, 0xff800000, 0x7fc00000, 0x7f800001, 0xffbfffff, 0x7fffffff,
                0x3f808000, 0x3f818000, 0x3f807fff, 0x3f808001, 0x477fe000, 0x477fefff, 0x477ff000,
                0x33000000, 0x33000001, 0x38801000, 0x387fe000, 0x38803000, 1, 0x007fffff, 0x7f7fffff]
    return np.concatenate([np.array(patterns, np.uint32), rng.integers(0, 2**32, 233, np.uint32)]).view(np.float32)


def main():
    rng = np.random.default_rng(2)
    (HERE / "decode").mkdir(exist_ok=True)
    (HERE / "encode").mkdir(exist_ok=True)
    for tensor_type in HALVES:
        (HERE / "decode" / f"{tensor_type.name}.bin").write_bytes(decode_vectors(tensor_type))
    weights = encode_weights(rng)
    (HERE / "encode" / "weights.f32").write_bytes(weights.tobytes())
    for tensor_type in LEGACY:
        encoded = quants.quantize(weights, tensor_type)
        (HERE / "encode" / f"{tensor_type.name}.bin").write_bytes(encoded.tobytes())
    bits = plain_bits(rng)
    (HERE / "encode" / "bits.f32").write_bytes(bits.tobytes())
    for tensor_type in (T.F16, T.BF16):
        (HERE / "encode" / f"{tensor_type.name}.bin").write_bytes(quants.quantize(bits, tensor_type).tobytes())
    write_hashes(HERE / "decode/every_byte.sha256", ((t, [every_byte(t)]) for t in HALVES))
    encoded = ((t, (quants.quantize(m, t).tobytes() for m in matrices())) for t in LEGACY)
    write_hashes(HERE / "encode/fixture.sha256", encoded)


main()
