"""llama.cpp, through llama-cpp-python's low-level API, as one process per measurement.

  llama_cpp_peer.py info
  llama_cpp_peer.py quantize IN OUT TYPE THREADS
  llama_cpp_peer.py perplexity MODEL TEXT WINDOWS THREADS FLASH(0|1) REPACK(0|1) UBATCH

Prints one JSON object.
"""

import ctypes
import importlib.metadata
import json
import resource
import sys
import time

import llama_cpp as api
import numpy as np

WINDOW = 512
# Windows that are decoded at a time.
TOGETHER = 4


@api.llama_log_callback
def silent(level, text, user):
    pass


def main():
    api.llama_log_set(silent, ctypes.c_void_p(0))
    api.llama_backend_init()
    job, *arguments = sys.argv[1:]
    print(json.dumps({"info": info, "quantize": quantize, "perplexity": perplexity}[job](*arguments)))


def info():
    return {
        "version": importlib.metadata.version("llama-cpp-python"),
        "system": api.llama_print_system_info().decode(),
    }


def put(params, **settings):
    """Sets what must be there: ctypes would take any name."""
    names = {name for name, *_ in params._fields_}
    for name, value in settings.items():
        if name not in names:
            raise SystemExit(f"this llama-cpp-python has no {name}")
        setattr(params, name, value)


def quantize(source, target, name, threads):
    params = api.llama_model_quantize_default_params()
    params.nthread = int(threads)
    params.ftype = getattr(api, "LLAMA_FTYPE_MOSTLY_" + name)
    before = resource.getrusage(resource.RUSAGE_SELF)
    start = time.perf_counter()
    code = api.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(params))
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_SELF)
    user, system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
    if code != 0:
        raise SystemExit(f"llama_model_quantize: {code}")
    return {"wall": wall, "user": user, "system": system, "peak": peak()}


def perplexity(path, text, windows, threads, flash, repack, ubatch):
    """Perplexity by the field's convention: the second half of each window is scored. The wall time
    is that of `llama_decode` alone: loading, tokenizing and the softmax are not counted."""
    model_params = api.llama_model_default_params()
    put(model_params, use_extra_bufts=repack == "1")
    model = api.llama_model_load_from_file(path.encode(), model_params)
    if not model:
        raise SystemExit(f"cannot load {path}")
    vocab = api.llama_model_get_vocab(model)
    tokens = tokenize(vocab, open(text, "rb").read())
    windows = min(int(windows), len(tokens) // WINDOW)
    if windows == 0:
        raise SystemExit(f"{text} does not fill a window")
    chunks = tokens[: windows * WINDOW].reshape(windows, WINDOW).copy()
    if api.llama_vocab_get_add_bos(vocab):
        chunks[:, 0] = api.llama_vocab_bos(vocab)

    params = api.llama_context_default_params()
    params.n_ctx = WINDOW * TOGETHER
    params.n_batch = WINDOW * TOGETHER
    params.n_ubatch = int(ubatch)
    params.n_seq_max = TOGETHER
    params.n_threads = params.n_threads_batch = int(threads)
    put(params, flash_attn_type=int(flash), kv_unified=False, no_perf=True)
    context = api.llama_init_from_model(model, params)
    if not context:
        raise SystemExit("cannot make a context")
    size = api.llama_vocab_n_tokens(vocab)
    batch = api.llama_batch_init(WINDOW * TOGETHER, 0, 1)
    # The first pass maps the weights and plans the graph.
    decode(context, batch, chunks[:1, :32])
    wall, loss, scored = 0.0, 0.0, 0
    for first in range(0, windows, TOGETHER):
        group = chunks[first : first + TOGETHER]
        wall += decode(context, batch, group)
        logits = np.ctypeslib.as_array(api.llama_get_logits(context), (len(group) * (WINDOW // 2), size))
        # The last position of a window has nothing to predict.
        logits = logits.reshape(len(group), WINDOW // 2, size)[:, :-1]
        expected = group[:, WINDOW // 2 + 1 :]
        loss += negative_log_likelihood(logits, expected)
        scored += expected.size
    return {
        "wall": wall,
        "tokens": windows * WINDOW,
        "perplexity": float(np.exp(loss / scored)),
        "peak": peak(),
    }


def tokenize(vocab, text):
    room = len(text) + 16
    tokens = (api.llama_token * room)()
    count = api.llama_tokenize(vocab, text, len(text), tokens, room, True, False)
    return np.array(tokens[:count], dtype=np.int32)


def decode(context, batch, windows):
    """Seconds for some windows at once, with the logits of each one's second half."""
    api.llama_memory_clear(api.llama_get_memory(context), True)
    count = 0
    for sequence, window in enumerate(windows):
        for position, token in enumerate(window):
            batch.token[count] = int(token)
            batch.pos[count] = position
            batch.n_seq_id[count] = 1
            batch.seq_id[count][0] = sequence
            batch.logits[count] = position >= len(window) // 2
            count += 1
    batch.n_tokens = count
    start = time.perf_counter()
    code = api.llama_decode(context, batch)
    api.llama_synchronize(context)
    if code != 0:
        raise SystemExit(f"llama_decode: {code}")
    return time.perf_counter() - start


def negative_log_likelihood(logits, expected):
    total = 0.0
    for rows, tokens in zip(logits, expected):
        largest = rows.max(axis=1)
        sums = np.exp(rows - largest[:, None]).sum(axis=1, dtype=np.float64)
        total += float(np.sum(largest + np.log(sums) - rows[np.arange(len(tokens)), tokens]))
    return total


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


main()
