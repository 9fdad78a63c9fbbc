"""Instructions for each line, counted by callgrind: they tell a regression where a clock only tells the weather.

    python3 benches/instructions.py            # count and compare with benches/instructions.toml
    python3 benches/instructions.py --write    # count and keep the counts

A count is a difference: the same pipeline ships a small and a large corpus with `--once`, and what the larger one
took more is divided by its additional lines. What a start costs is therefore not in it. Counts differ a little between
processors, because libraries choose other instructions; more than 10 % is a change of the program.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from stage import Failed, build, leave_nothing_behind, tool

KEPT = Path(__file__).resolve().parent / "instructions.toml"

TOLERANCE = 0.10

# The lines of the two corpora.
SMALL, LARGE = 50_000, 250_000


def main():
    parser = argparse.ArgumentParser(description="instructions for each line, counted by callgrind")
    parser.add_argument("--write", action="store_true", help="keep the counts instead of comparing them")
    parser.add_argument("--no-build", action="store_true", help="count the release binaries that are there")
    options = parser.parse_args()
    if not available():
        print("skipped: valgrind is not installed")
        return
    leave_nothing_behind()
    if not options.no_build:
        build()
    # Here, because the rows use what is counted here.
    from rows import Bench

    with tempfile.TemporaryDirectory(prefix="fshipper-bench-") as folder:
        bench, counts = Bench(folder, quick=False), {}
        for name, count in COUNTS.items():
            counts[name] = count(bench)
            print(f"counted {name}: {counts[name]:.0f}", file=sys.stderr, flush=True)
    if options.write:
        write(counts)
        return
    sys.exit(compare(counts, tomllib.loads(KEPT.read_text())))


def available():
    return shutil.which("valgrind") is not None


def per_line(count, bench, small, large, **keys):
    """What a line of the larger corpus costs beyond the smaller one."""
    return (count(bench, large, **keys) - count(bench, small, **keys)) / (large - small)


def local(bench, lines, files=1):
    """All instructions of file → file."""
    corpus = corpus_of(bench, lines, files)
    with bench.stage() as stage:
        stage.fshipper("local", stage.source(include(corpus)), stage.sink(), once=True, wrapped_by=CALLGRIND)
        return finish(stage, "local")


def producer(bench, lines, files=1, **keys):
    """All instructions of a producer that ships a backlog into a stream."""
    corpus = corpus_of(bench, lines, files)
    with bench.stage() as stage:
        stage.start_server()
        transport = stage.transport(**keys)
        stage.fshipper("producer", stage.source(include(corpus)), transport, once=True, wrapped_by=CALLGRIND)
        return finish(stage, "producer")


def consumer(bench, lines, **keys):
    """All instructions of a consumer that reads a stream to its end."""
    corpus = corpus_of(bench, lines, 1)
    with bench.stage() as stage:
        stage.start_server()
        stage.fshipper("producer", stage.source(corpus), stage.transport(**keys), once=True)
        stage.wait_for_exit("producer")
        stage.fshipper("consumer", stage.transport(**keys), stage.sink(), once=True, wrapped_by=CALLGRIND)
        return finish(stage, "consumer")


def of_hosts(bench, hosts, messages):
    """Instructions of a consumer for each line of messages that come from so many hosts in turn."""

    def count(bench, messages):
        with bench.stage() as stage:
            stage.start_server()
            numbers = ["--hosts", hosts, "--messages", messages, "--lines", LINES_IN_A_MESSAGE]
            tool("hosts", "--server", stage.address, "--stream", "LOGS", *numbers)
            stage.fshipper("consumer", stage.transport(), stage.sink("all.log"), once=True, wrapped_by=CALLGRIND)
            return finish(stage, "consumer")

    return per_line(count, bench, messages, 2 * messages) / LINES_IN_A_MESSAGE


LINES_IN_A_MESSAGE = 100

COUNTS = {
    "file_to_file": lambda bench: per_line(local, bench, SMALL, LARGE),
    "producer": lambda bench: per_line(producer, bench, SMALL, LARGE),
    "producer_zstd": lambda bench: per_line(producer, bench, SMALL, LARGE, compression="zstd"),
    "producer_line": lambda bench: per_line(producer, bench, 5_000, 25_000, framing="line"),
    "consumer": lambda bench: per_line(consumer, bench, SMALL, LARGE),
    "consumer_zstd": lambda bench: per_line(consumer, bench, SMALL, LARGE, compression="zstd"),
    "consumer_line": lambda bench: per_line(consumer, bench, 5_000, 25_000, framing="line"),
}

CALLGRIND = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]


def corpus_of(bench, lines, files):
    return bench.corpus(lines, *(["--files", files] if files > 1 else []))


def include(corpus):
    return corpus if corpus.is_file() else f"{corpus}/*.log"


def finish(stage, name):
    """Waits for the end and reads the count."""
    stage.wait_for_exit(name)
    log = (stage.folder / f"{name}.log").read_text()
    collected = re.search(r"Collected : (\d+)", log)
    if not collected:
        raise Failed(f"callgrind says nothing\n{log}")
    return int(collected[1])


def write(counts):
    lines = ["# Instructions for each line, as `python3 benches/instructions.py --write` counted them.", ""]
    lines += [f"{name} = {count:.0f}" for name, count in counts.items()]
    KEPT.write_text("\n".join(lines) + "\n")


def compare(counts, kept):
    """Prints each count beside the one that is kept; 1 when one has grown too much, else 0."""
    grown = False
    for name, count in counts.items():
        before = kept.get(name)
        change = count / before - 1 if before else 0
        verdict = "more" if change > TOLERANCE else "less: keep it with --write" if change < -TOLERANCE else ""
        print(f"{name:<16} {count:8.0f}  kept {before or '-':>8}  {change:+.1%}  {verdict}")
        grown |= change > TOLERANCE
    return int(grown)


if __name__ == "__main__":
    main()
