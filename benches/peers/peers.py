"""The sections of a run: each gives a dictionary of raw rounds."""

import functools
import importlib.metadata
import json
import pathlib
import shutil
import subprocess
import sys
import time

import models
import processes

HERE = pathlib.Path(__file__).resolve().parent
QUANTIZED = ["Q4_K_M", "Q5_K_M", "Q6_K", "Q3_K_M", "Q2_K", "Q8_0", "Q4_0"]
EVALUATED = ["Q4_K_M", "Q8_0", "Q4_0", "Q6_K", "F16"]
# Those whose time is set beside that of reading and writing alone.
BOUND = ["Q8_0", "Q4_0"]
# Flash attention, weights repacked, tokens per graph: the peer's best counts.
SETTINGS = [(0, 0, 512), (0, 1, 512), (1, 0, 512), (1, 1, 512)]
LARGER_GRAPH = 2048


def versions(options):
    llq = processes.run([options.llq, "--version"])["stdout"].strip()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True)
    versions = {"llq": f"{llq} ({commit.stdout.strip()})", "gguf": importlib.metadata.version("gguf")}
    try:
        llama_cpp = peer("info")
    except processes.Failed:
        return versions
    # What it was built for: a build for any processor would be no peer.
    return {**versions, "llama-cpp-python": llama_cpp["version"], "llama.cpp built with": llama_cpp["system"]}


def peer(*arguments):
    return json.loads(processes.run([sys.executable, HERE / "llama_cpp_peer.py", *arguments])["stdout"])


def llq(options, *arguments):
    return processes.run([options.llq, *arguments, "--threads", options.threads, "--quiet"])


def check(options):
    """Before any speed: the same model, text and figure; the same files or better ones."""
    perplexities = {}
    for name in ["F16", "Q8_0"]:
        model = quantized(options, options.tiny, name)
        ours = json.loads(evaluate(options, model, 16)["stdout"])["perplexity"]
        theirs = peer("perplexity", model, options.text, 16, options.threads, 0, 0, 512)["perplexity"]
        if abs(ours / theirs - 1) > 0.01:
            raise processes.Failed(f"perplexity of {name}: llq {ours}, llama.cpp {theirs}")
        perplexities[name] = {"llq": ours, "peer": theirs}
    errors = {}
    for name in options.types or QUANTIZED:
        if name == "F16":
            continue
        files = both_quantize(options, options.tiny, name, keep=True)
        ours, theirs = files["files"]
        errors[name] = {
            "llq": models.squared_error(ours, options.tiny),
            "peer": models.squared_error(theirs, options.tiny),
            "bytes": [file.stat().st_size for file in (ours, theirs)],
        }
        ours.unlink()
        theirs.unlink()
    return {"perplexity": perplexities, "errors": errors}


def quantize(options):
    source = models.made(options.shape, options.tiny, options.folder)
    types = {}
    for name in options.types or QUANTIZED:
        if name == "F16":
            continue
        rounds = [both_quantize(options, source, name) for _ in range(options.rounds)]
        types[name] = {"llq": [r["llq"] for r in rounds], "peer": [r["peer"] for r in rounds], "bytes": rounds[0]["bytes"]}
        if name in BOUND:
            size = rounds[0]["bytes"][0]
            types[name]["bound"] = [bound(options, source, size) for _ in range(options.rounds)]
    return {"model": source.name, "source_bytes": source.stat().st_size, "types": types}


def both_quantize(options, source, name, keep=False):
    ours, theirs = (options.folder / f"{who}-{name}.gguf" for who in ("llq", "peer"))
    processes.settle(source, options.cache)
    one = llq(options, "quantize", source, "-o", ours, "--type", name, "--force", "--no-check")
    del one["stdout"]
    processes.settle(source, options.cache)
    other = peer("quantize", source, theirs, name, options.threads)
    sizes = [file.stat().st_size for file in (ours, theirs)]
    if not keep:
        ours.unlink()
        theirs.unlink()
    return {"llq": one, "peer": other, "bytes": sizes, "files": (ours, theirs)}


def bound(options, source, size):
    """Reading the input and writing as much as the output, without and with a sync."""
    times = {}
    processes.settle(source, options.cache)
    times["cat"] = processes.run(["sh", "-c", f"cat '{source}' > /dev/null"])["wall"]
    target = options.folder / "bound.bin"
    for key, sync in [("write", []), ("write_sync", ["conv=fsync"])]:
        target.unlink(missing_ok=True)
        subprocess.run(["sync"], check=True)
        blocks = max(1, size >> 20)
        times[key] = processes.run(["dd", "if=/dev/zero", f"of={target}", "bs=1M", f"count={blocks}", *sync])["wall"]
    target.unlink()
    return times


def perplexity(options):
    source = models.made(options.shape, options.tiny, options.folder)
    types = {}
    for name in options.types or EVALUATED:
        model = quantized(options, source, name)
        trials = [tried(options, model, setting) for setting in SETTINGS]
        (flash, repack, _), _ = min(trials, key=lambda trial: trial[1])
        trials.append(tried(options, model, (flash, repack, LARGER_GRAPH)))
        best, _ = min(trials, key=lambda trial: trial[1])
        rounds = {"llq": [], "peer": []}
        for _ in range(options.rounds):
            rounds["llq"].append(evaluated(options, model, options.windows))
            rounds["peer"].append(theirs(options, model, best))
        types[name] = {"trials": trials, "best": best, **rounds}
        if model != source:
            model.unlink()
    return {"model": source.name, "windows": options.windows, "types": types}


def tried(options, model, setting):
    """A setting, and the better of two times: one may be chance."""
    return setting, min(theirs(options, model, setting)["wall"] for _ in range(2))


def theirs(options, model, setting):
    return peer("perplexity", model, options.text, options.windows, options.threads, *setting)


def evaluate(options, model, windows):
    text = ["--corpus", options.text, "--chunks", windows]
    return llq(options, "perplexity", model, *text, "--mode", "fast", "--json")


def evaluated(options, model, windows):
    """The whole process: loading, tokenizing and the softmax are counted."""
    one = evaluate(options, model, windows)
    report = json.loads(one.pop("stdout"))
    return {**one, "tokens": report["chunks"] * report["context"], "perplexity": report["perplexity"]}


def quantized(options, source, name):
    """The model as llq quantizes it; F16 is the source itself."""
    if name == "F16":
        return source
    target = options.folder / f"eval-{name}.gguf"
    llq(options, "quantize", source, "-o", target, "--type", name, "--force", "--no-check")
    return target


def growth(options):
    """llq alone, over the size of the model."""
    shapes = {}
    for shape in options.growth:
        source = models.made(shape, options.tiny, options.folder)
        rounds = {"quantize": [], "perplexity": []}
        for _ in range(options.rounds):
            target = options.folder / "growth.gguf"
            processes.settle(source, options.cache)
            one = llq(options, "quantize", source, "-o", target, "--type", "Q4_K_M", "--force", "--no-check")
            del one["stdout"]
            rounds["quantize"].append(one)
            rounds["perplexity"].append(evaluated(options, target, options.windows))
            target.unlink()
        every, passed = models.weights(source)
        shapes[shape] = {"weights": every, "passed": passed, **rounds}
        if not options.folder_was_given and shape != options.shape:
            source.unlink()
    return {"shapes": shapes}


def kernels(options):
    """llq's products beside what a core of this machine can do at most."""
    return {"bench": llq_bench(options)}


def numpy(options):
    """gguf's own quantizers, on one thread as `llq bench` has it."""
    import gguf
    import numpy

    report = llq_bench(options)
    values = numpy.random.default_rng(2).uniform(-1, 1, (512, 2048)).astype(numpy.float32)
    types = {}
    for figures in report["kernels"][0]["formats"]:
        kind = gguf.GGMLQuantizationType[figures["format"]]
        rounds = []
        for _ in range(options.rounds):
            start = time.perf_counter()
            try:
                gguf.quants.quantize(values, kind)
            except NotImplementedError:
                break
            rounds.append(values.size / (time.perf_counter() - start))
        if rounds and figures["format"] != "F32":
            types[figures["format"]] = {"llq": figures["encode_weights"], "peer": rounds}
    return {"types": types}


def llq_bench(options):
    return bench_of(options.llq)


@functools.cache
def bench_of(program):
    """One run serves every section that sets something beside it."""
    return json.loads(processes.run([program, "bench", "--threads", 1, "--json", "--quiet"])["stdout"])


def inspect(options):
    source = models.made(options.shape, options.tiny, options.folder)
    dump = shutil.which("gguf-dump", path=str(pathlib.Path(sys.executable).parent)) or shutil.which("gguf-dump")
    if dump is None:
        raise processes.Failed("no gguf-dump beside this python: pip install gguf")
    rounds = {"llq": [], "peer": []}
    processes.settle(source, "warm")
    for _ in range(options.rounds):
        rounds["llq"].append(processes.first_byte([options.llq, "inspect", source]))
        rounds["peer"].append(processes.first_byte([dump, source]))
    return {"bytes": source.stat().st_size, **rounds}


def candle(options):
    """One thread each, the shape that `llq bench` has."""
    project = HERE / "candle"
    subprocess.run(["cargo", "build", "--release", "--locked", "--quiet"], cwd=project, check=True)
    report = llq_bench(options)
    shape = [report["rows"], report["cols"], report["tokens"]]
    program = project / "target/release/llq-peer-candle"
    lines = processes.run([program, *shape, options.rounds], env={"RAYON_NUM_THREADS": "1"})["stdout"]
    types = {}
    for line in lines.splitlines():
        times = json.loads(line)
        format = times["format"]
        types[format] = {
            "llq": next(f for f in report["kernels"][0]["formats"] if f["format"] == format),
            "peer": times,
        }
    lock = (project / "Cargo.lock").read_text()
    version = lock.split('name = "candle-core"\nversion = "', 1)[1].split('"', 1)[0]
    return {"shape": shape, "candle-core": version, "types": types}
