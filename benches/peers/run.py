#!/usr/bin/env python3
"""llq beside its peers, in alternating rounds; see README.md.

Keeps all raw rounds in runs/<date>-<host>.json and writes the tables between the markers of
docs/benchmarks.md.
"""

import argparse
import json
import pathlib
import shutil
import sys
import tempfile

import models
import peers
import processes
import tables

# Options that say where things lie, which a record need not know.
PATHS = {"llq", "text", "folder", "runs", "docs", "tiny", "folder_was_given"}

HERE = pathlib.Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
SECTIONS = ["check", "quantize", "perplexity", "growth", "kernels", "numpy", "inspect", "candle"]


def main():
    options = arguments()
    folder = pathlib.Path(options.folder or tempfile.mkdtemp(prefix="llq-peers-"))
    folder.mkdir(parents=True, exist_ok=True)
    options.folder = folder
    options.tiny = models.fixture(options.llq, REPOSITORY, folder)
    host = processes.host()
    load = host["load"][0] / host["cores"]
    if load > 0.5:
        print(f"note: the machine is busy (load {load:.1f} per core)", file=sys.stderr)
    path = options.runs / f"{host['date']}-{host['name']}.json"
    record = json.loads(path.read_text()) if path.exists() else {}
    try:
        for section in options.only or SECTIONS:
            print(section, file=sys.stderr, flush=True)
            record[section] = measured(section, options)
            # What was measured is kept, whatever becomes of the next section.
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(record, indent=1) + "\n")
            tables.write(options.docs, record)
    except processes.Failed as failure:
        sys.exit(f"error: {section}: {failure}")
    finally:
        if not options.folder_was_given:
            shutil.rmtree(folder)


def without_paths(words):
    """The command without what names places of one machine."""
    places = {"--" + name for name in PATHS}
    return [word for before, word in zip(["", *words], words) if not {before, word} & places]


def measured(section, options):
    return {
        "host": processes.host(),
        "versions": peers.versions(options),
        "command": " ".join(["run.py", *without_paths(sys.argv[1:])]),
        "options": {name: str(value) for name, value in vars(options).items() if name not in PATHS},
        **getattr(peers, section)(options),
    }


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llq", default=REPOSITORY / "target/release/llq", type=pathlib.Path)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, help="sections to run [default: all]")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--shape", default="1.1b", choices=models.SHAPES)
    parser.add_argument("--growth", nargs="+", default=["0.1b", "1.1b"], choices=models.SHAPES)
    types = sorted({*peers.QUANTIZED, *peers.EVALUATED})
    parser.add_argument("--types", nargs="+", choices=types, help="quantize and perplexity: only these")
    parser.add_argument("--windows", type=int, default=4, help="windows of 512 tokens")
    parser.add_argument("--cache", default="warm", choices=["warm", "cold"], help="the input's pages before a run")
    parser.add_argument("--text", default=REPOSITORY / "fixtures/sampled.txt", type=pathlib.Path)
    parser.add_argument("--folder", help="where models are made and kept [default: a temporary one]")
    parser.add_argument("--runs", default=HERE / "runs", type=pathlib.Path, help="where raw rounds are kept")
    parser.add_argument("--docs", default=REPOSITORY / "docs/benchmarks.md", type=pathlib.Path)
    options = parser.parse_args()
    options.folder_was_given = options.folder is not None
    options.llq = options.llq.resolve()
    if not options.llq.exists():
        parser.error(f"no {options.llq}: cargo build --release makes it")
    return options


if __name__ == "__main__":
    main()
