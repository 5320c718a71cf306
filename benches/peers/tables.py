"""Markdown tables of a run, put between markers of the page."""

import statistics

import processes

# The bars of the project: at least this ratio.
BARS = {"quantize": 4.0, "bound": 0.7, "perplexity": 1.5, "inspect": 50.0, "candle": 10.0,
        "exact": 0.75, "fast": 0.6}


# Measured on one thread, each program by itself.
ALONE = ["kernels", "numpy", "candle"]


def write(path, record):
    """Replaces what stands between `<!-- peers:SECTION -->` and `<!-- /peers:SECTION -->`, or adds
    it at the end of the page."""
    page = path.read_text()
    for section, result in record.items():
        opening, closing = f"<!-- peers:{section} -->", f"<!-- /peers:{section} -->"
        block = f"{opening}\n{provenance(section, result)}\n\n{RENDER[section](result)}\n{closing}"
        if opening in page and closing in page:
            before, rest = page.split(opening, 1)
            page = before + block + rest.split(closing, 1)[1]
        else:
            page = page.rstrip("\n") + f"\n\n## {TITLES[section]}\n\n{block}\n"
    path.write_text(page)


def provenance(section, result):
    host, versions = result["host"], result["versions"]
    load = host["load"][0] / host["cores"]
    options = result["options"]
    how = (
        "one thread each, the best of some runs"
        if section in ALONE
        else f"{options['threads']} threads, medians of {options['rounds']} alternating rounds, page cache {options['cache']}"
    )
    return (
        f"{host['cpu']}, {host['cores']} cores, {'' if host['avx512'] else 'no '}AVX-512, "
        f"{host['memory'] / 1e9:.0f} GB, {host['date']}; {how}, load "
        f"{load:.1f} per core at the start (that of the sections before it included). "
        + ", ".join(f"{name} {version}" for name, version in versions.items() if name not in ("llq", "llama.cpp built with"))
        + f", {versions['llq']}. `benches/peers/{result['command']}`"
    )


def table(titles, rows):
    lines = ["| " + " | ".join(titles) + " |", "|---|" + "--:|" * (len(titles) - 1)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def against(ratio, bar):
    """A ratio, and whether it reaches the bar."""
    return f"{ratio:.2f} ({'reached' if ratio >= bar else 'missed'}: {bar:g})"


def check(result):
    perplexity = [
        [name, f"{p['llq']:.4f}", f"{p['peer']:.4f}", f"{100 * (p['llq'] / p['peer'] - 1):+.3f} %"]
        for name, p in result["perplexity"].items()
    ]
    errors = [
        [name, f"{e['llq']:.5g}", f"{e['peer']:.5g}", f"{e['llq'] / e['peer']:.3f}", f"{e['bytes'][0] - e['bytes'][1]:+d}"]
        for name, e in result["errors"].items()
    ]
    return (
        "The same figure first: perplexity of `fixtures/tiny-llama-2`, 16 windows of 512 tokens.\n\n"
        + table(["type", "llq `--mode fast`", "llama.cpp", "difference"], perplexity)
        + "\n\nSquared error of all its matrices after quantizing from F16, and the difference of the files.\n\n"
        + table(["type", "llq", "llama.cpp", "ratio", "bytes"], errors)
    )


def quantize(result):
    rows, bounds = [], []
    for name, rounds in result["types"].items():
        ours, theirs = (processes.median(rounds[who]) for who in ("llq", "peer"))
        work = [statistics.median(r["user"] + r["system"] for r in rounds[who]) for who in ("llq", "peer")]
        peaks = [max(r["peak"] for r in rounds[who]) / 1e6 for who in ("llq", "peer")]
        rows.append(
            [name, f"{ours:.2f} s", f"{theirs:.2f} s", against(theirs / ours, BARS["quantize"])
             if "bound" not in rounds else f"{theirs / ours:.2f}",
             f"{work[1] / work[0]:.2f}", f"{peaks[0]:.0f} MB", f"{peaks[1]:.0f} MB"]
        )
        if "bound" in rounds:
            cat, written, synced = (processes.median(rounds["bound"], key) for key in ("cat", "write", "write_sync"))
            bounds.append(
                [name, f"{ours:.2f} s", f"{cat:.2f} s", f"{written:.2f} s", f"{synced:.2f} s",
                 f"{(cat + written) / ours:.2f}", against((cat + synced) / ours, BARS["bound"])]
            )
    text = (
        f"`llq quantize` beside llama.cpp's `llama_model_quantize` on {result['model']} "
        f"({result['source_bytes'] / 1e9:.1f} GB). llq syncs its file, llama.cpp does not; of llq the "
        "whole process is timed, of the peer the call. Peaks count mapped pages of the input.\n\n"
        + table(["type", "llq", "llama.cpp", "ratio", "of processor time", "llq peak", "peer peak"], rows)
    )
    if bounds:
        text += (
            "\n\nBeside `cat INPUT > /dev/null` plus writing as many bytes as the output with `dd`.\n\n"
            + table(["type", "llq", "cat", "write", "write, sync", "bound over llq", "with sync"], bounds)
        )
    return text


def perplexity(result):
    rows = []
    for name, rounds in result["types"].items():
        rates = [rate(rounds[who]) for who in ("llq", "peer")]
        flash, repack, graph = rounds["best"]
        setting = f"flash {'on' if flash else 'off'}, repack {'on' if repack else 'off'}, {graph}"
        peaks = [max(r["peak"] for r in rounds[who]) / 1e9 for who in ("llq", "peer")]
        rows.append(
            [name, f"{rates[0]:.1f}", f"{rates[1]:.1f}", against(rates[0] / rates[1], BARS["perplexity"]), setting]
            + [f"{peak:.2f} GB" for peak in peaks]
        )
    return (
        f"Tokens per second over {result['windows']} windows of 512 tokens of {result['model']}: the whole of "
        "`llq perplexity --mode fast`, and llama.cpp's `llama_decode` alone, four windows at a time, with the "
        "logits of each second half; its loading, tokenizing and softmax are not counted. The peer has the "
        "best of flash attention on and off, weights repacked or not, and 512 or 2048 tokens per graph. "
        "(ik_llama.cpp publishes 2.0 to 2.5 times llama.cpp.) Peaks count mapped pages, the peer's Python too.\n\n"
        + table(["type", "llq", "llama.cpp", "ratio", "the peer's best", "llq peak", "peer peak"], rows)
    )


def rate(rounds):
    return statistics.median(one["tokens"] / one["wall"] for one in rounds)


def growth(result):
    rows = []
    for shape, rounds in result["shapes"].items():
        weights, passed, tokens = rounds["weights"], rounds["passed"], rate(rounds["perplexity"])
        peaks = [max(r["peak"] for r in rounds[job]) / 1e6 for job in ("quantize", "perplexity")]
        rows.append(
            [shape, f"{weights / 1e6:.0f}", f"{weights / processes.median(rounds['quantize']) / 1e6:.0f}",
             f"{tokens:.1f}", f"{tokens * passed / 1e9:.1f}"] + [f"{peak:.0f} MB" for peak in peaks]
        )
    return (
        "llq alone, `quantize --type q4_k_m` and `perplexity --mode fast` of its output, by size of the "
        "model. In the product with tokens per second weights are those that a token passes, all but the embedding; peaks count mapped pages.\n\n"
        + table(["shape", "10⁶ weights", "quantize, 10⁶ weights/s", "tokens/s", "10⁹ weights·tokens/s",
                 "quantize peak", "perplexity peak"], rows)
    )


def kernels(result):
    bench, rows = result["bench"], []
    row = bench["kernels"][0]
    limits = row["limits"][0]
    for figures in row["formats"]:
        exact, fast = figures["exact_multiply_adds"], figures["fast_multiply_adds"]
        rows.append(
            [figures["format"], f"{exact / 1e9:.1f}", against(exact / limits["multiply_adds"], BARS["exact"]),
             f"{fast / 1e9:.1f}" if fast else "–",
             against(fast / limits["code_products"], BARS["fast"]) if fast else "–"]
        )
    return (
        f"`llq bench`, the {row['isa']} row on one thread: {bench['rows']} × {bench['cols']} weights by "
        f"{bench['tokens']} tokens, packing included, in 10⁹ multiply-adds per second, and as a part of what "
        f"the core does in registers: {limits['multiply_adds'] / 1e9:.1f} of f32, "
        f"{limits['code_products'] / 1e9:.1f} of 8-bit codes. It reads {limits['read_bytes'] / 1e9:.1f} GB/s.\n\n"
        + table(["format", "exact", "of the limit", "fast", "of the limit"], rows)
    )


def numpy(result):
    rows = []
    for name, rates in result["types"].items():
        theirs = max(rates["peer"])
        rows.append([name, f"{rates['llq'] / 1e6:.0f}", f"{theirs / 1e6:.2f}", f"{rates['llq'] / theirs:.0f}"])
    return (
        "Encoding, 10⁶ weights per second on one thread: `llq bench` and `gguf.quants.quantize`, for the types "
        "that has.\n\n" + table(["type", "llq", "gguf (numpy)", "ratio"], rows)
    )


def inspect(result):
    ours, theirs = (statistics.median(result[who]) for who in ("llq", "peer"))
    return (
        f"Time to the first byte on a file of {result['bytes'] / 1e9:.1f} GB in the page cache.\n\n"
        + table(["", "llq inspect", "gguf-dump", "ratio"],
                [["time", f"{1e3 * ours:.1f} ms", f"{1e3 * theirs:.0f} ms", against(theirs / ours, BARS["inspect"])]])
    )


def candle(result):
    rows, (matrix_rows, cols, tokens) = [], result["shape"]
    work, size = matrix_rows * cols * tokens, matrix_rows * cols
    for name, rates in result["types"].items():
        product = work / min(rates["peer"]["multiply"])
        encode = size / min(rates["peer"]["quantize"])
        ours, ours_encode = rates["llq"]["fast_multiply_adds"], rates["llq"]["encode_weights"]
        rows.append(
            [name, f"{ours / 1e9:.1f}", f"{product / 1e9:.1f}", against(ours / product, BARS["candle"]),
             f"{ours_encode / 1e6:.1f}", f"{encode / 1e6:.1f}", f"{ours_encode / encode:.2f}"]
        )
    return (
        f"candle-core {result['candle-core']}, built for this processor, one thread each: `QMatMul` of "
        f"{matrix_rows} × {cols} weights by {tokens} rows in 10⁹ multiply-adds per second, and "
        "`QTensor::quantize` in 10⁶ weights per second, beside `llq bench`.\n\n"
        + table(["type", "llq fast", "candle", "ratio", "llq encode", "candle", "ratio"], rows)
    )


RENDER = {
    "check": check,
    "quantize": quantize,
    "perplexity": perplexity,
    "growth": growth,
    "kernels": kernels,
    "numpy": numpy,
    "inspect": inspect,
    "candle": candle,
}
TITLES = {
    "check": "Beside the peers: the same answers",
    "quantize": "Beside the peers: quantizing",
    "perplexity": "Beside the peers: perplexity",
    "growth": "Growth with the model",
    "kernels": "Products beside the machine's limits",
    "numpy": "Beside the peers: gguf's quantizers",
    "inspect": "Beside the peers: inspecting",
    "candle": "Beside the peers: candle",
}
