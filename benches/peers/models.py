"""Models to measure on: made ones of any size, and the trained fixture."""

import subprocess

import gguf
import numpy as np

# Embedding, blocks, heads, key-value heads, feed-forward.
SHAPES = {
    "0.1b": (768, 12, 12, 12, 2048),
    "0.3b": (2048, 4, 32, 4, 5632),
    "1.1b": (2048, 22, 32, 4, 5632),
    "7b": (4096, 32, 32, 32, 11008),
}
VOCABULARY = 32000


def fixture(llq, repository, folder):
    """The trained model of the repository as F16."""
    path = folder / "tiny-f16.gguf"
    if not path.exists():
        checkpoint = repository / "fixtures/tiny-llama-2/hf"
        subprocess.run([llq, "convert", checkpoint, "-o", path, "--outtype", "f16", "--quiet"], check=True)
    return path


def made(shape, tiny, folder):
    """A model of F16 weights from a normal distribution, with the fixture's vocabulary, filled up to
    32,000 tokens."""
    path = folder / f"made-{shape}-f16.gguf"
    if path.exists():
        return path
    partial = path.with_suffix(".partial")
    embedding, blocks, heads, kv_heads, feed_forward = SHAPES[shape]
    head = embedding // heads
    writer = gguf.GGUFWriter(partial, "llama")
    writer.add_context_length(2048)
    writer.add_embedding_length(embedding)
    writer.add_block_count(blocks)
    writer.add_feed_forward_length(feed_forward)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_dimension_count(head)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    write_vocabulary(writer, gguf.GGUFReader(tiny))

    matrices = [("token_embd", VOCABULARY, embedding), ("output", VOCABULARY, embedding)]
    norms = ["output_norm"]
    for block in range(blocks):
        name = f"blk.{block}."
        matrices += [
            (name + "attn_q", embedding, embedding),
            (name + "attn_k", head * kv_heads, embedding),
            (name + "attn_v", head * kv_heads, embedding),
            (name + "attn_output", embedding, embedding),
            (name + "ffn_gate", feed_forward, embedding),
            (name + "ffn_up", feed_forward, embedding),
            (name + "ffn_down", embedding, feed_forward),
        ]
        norms += [name + "attn_norm", name + "ffn_norm"]
    for name, rows, cols in matrices:
        writer.add_tensor_info(name + ".weight", [rows, cols], np.dtype(np.float16), rows * cols * 2)
    for name in norms:
        writer.add_tensor_info(name + ".weight", [embedding], np.dtype(np.float32), embedding * 4)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()

    random = np.random.default_rng(1)
    pool = (random.standard_normal(1 << 24, dtype=np.float32) * 0.02).astype(np.float16)
    for _, rows, cols in matrices:
        first = random.integers(0, pool.size // 2)
        writer.write_tensor_data(np.resize(pool[first:], (rows, cols)))
    for _ in norms:
        writer.write_tensor_data(np.ones(embedding, dtype=np.float32))
    writer.close()
    partial.rename(path)
    return path


def write_vocabulary(writer, reader):
    """The tokens, scores and types of another file, then unused tokens up to the full size."""

    def field(key):
        return reader.fields["tokenizer.ggml." + key].contents()

    tokens, scores, types = field("tokens"), field("scores"), field("token_type")
    missing = range(len(tokens), VOCABULARY)
    writer.add_tokenizer_model(field("model"))
    writer.add_token_list(list(tokens) + [f"<unused {index}>" for index in missing])
    writer.add_token_scores(list(scores) + [-1e6 for _ in missing])
    writer.add_token_types(list(types) + [int(gguf.TokenType.UNUSED) for _ in missing])
    writer.add_bos_token_id(field("bos_token_id"))
    writer.add_eos_token_id(field("eos_token_id"))
    writer.add_vocab_size(VOCABULARY)


def weights(path):
    """Weights of all tensors, and of the matrices that a token passes: all but the embedding."""
    counts = {tensor.name: int(tensor.n_elements) for tensor in gguf.GGUFReader(path).tensors}
    return sum(counts.values()), sum(counts.values()) - counts["token_embd.weight"]


def squared_error(path, reference):
    """Σ (weight - reference weight)² over all matrices."""
    expected = {tensor.name: tensor for tensor in gguf.GGUFReader(reference).tensors}
    total = 0.0
    for tensor in gguf.GGUFReader(path).tensors:
        if len(tensor.shape) < 2:
            continue
        found, right = (gguf.quants.dequantize(t.data, t.tensor_type) for t in (tensor, expected[tensor.name]))
        total += float(np.sum(np.square(found.astype(np.float64) - right)))
    return total
