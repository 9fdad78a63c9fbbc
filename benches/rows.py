"""The rows: what is measured, and the goal that it is held to."""

import json
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

from stage import TOOL, Failed, Stage, tool

LINE_BYTES = 178


@dataclass
class Goal:
    """One promise of a row: how it reads, what was found, and whether it holds."""

    text: str
    found: Callable
    holds: Callable


@dataclass
class Row:
    name: str
    work: str
    measure: Callable
    goals: list = field(default_factory=list)
    # At most so often, where once is enough: counts do not vary.
    rounds: int = 99
    # Only when asked for.
    long: bool = False


class Bench:
    """What rows share within one run: corpora, the folder, and the size of things."""

    def __init__(self, folder, quick):
        self.folder = Path(folder)
        self.quick = quick
        self.corpora = {}
        # What was measured in this round and several rows need.
        self.of_this_round = {}

    def stage(self):
        return Stage(self.folder)

    def size(self, full, quick=None):
        """How many: fewer when it shall be quick."""
        return (quick or full // 20) if self.quick else full

    def corpus(self, lines, *options):
        key = (lines, *options)
        if key not in self.corpora:
            path = self.folder / f"corpus-{len(self.corpora)}.log"
            tool("corpus", path, "--lines", lines, *options)
            self.corpora[key] = path
        return self.corpora[key]

    def new_round(self):
        self.of_this_round = {}

    def once_a_round(self, name, measure):
        if name not in self.of_this_round:
            self.of_this_round[name] = measure()
        return self.of_this_round[name]


def shipped(bench, corpus, lines, link_ms=None, **keys):
    """A backlog of one file through JetStream into the central file, by fshipper."""
    with bench.stage() as stage:
        stage.start_server()
        address = None
        if link_ms:
            link = stage.spawn(
                "link",
                [TOOL, "link", stage.address, "--one-way-ms", link_ms],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            address = "127.0.0.1:" + str(json.loads(link.stdout.readline())["port"])
        output = stage.output / corpus.name
        begin = time.monotonic()
        stage.fshipper("consumer", stage.transport(**keys), stage.sink())
        stage.fshipper("producer", stage.source(corpus), stage.transport(address=address, **keys))
        stage.wait_for_file(output, corpus.stat().st_size)
        seconds = time.monotonic() - begin
        wire = stage.server_says("varz")["in_bytes"]
        used = stage.stop_all()
        stage.must_equal(corpus, output)
    return costs(used, seconds, lines) | {"wire_bytes": wire}


def costs(used, seconds, lines):
    found = {"lines_per_second": lines / seconds}
    for name, one in used.items():
        if name == "link":
            continue
        found[f"cpu_{name}"] = one.cpu_seconds / lines * 1e6
        found[f"peak_{name}"] = one.peak_mib
    found["cpu"] = sum(value for key, value in found.items() if key.startswith("cpu_"))
    return found


def bare(bench, corpus, lines):
    """The same blocks by the least that can move them: the machine's own limit."""
    with bench.stage() as stage:
        stage.start_server()
        output = stage.folder / "bare"
        size = corpus.stat().st_size
        begin = time.monotonic()
        address = ["--server", stage.address]
        stage.spawn("consumer", [TOOL, "bare-receive", *address, "--bytes", size, output])
        stage.spawn("producer", [TOOL, "bare-publish", *address, corpus])
        used = {"consumer": stage.wait_for_exit("consumer")}
        seconds = time.monotonic() - begin
        used["producer"] = stage.wait_for_exit("producer")
        used["broker"] = stage.stop("broker")
        stage.must_equal(corpus, output)
    return costs(used, seconds, lines)


def backlog(bench):
    lines = bench.size(12_000_000, 1_500_000)
    return bench.corpus(lines), lines


def plain(bench):
    """The backlog through JetStream, once a round: other rows compare themselves with it."""
    return bench.once_a_round("plain", lambda: shipped(bench, *backlog(bench)))


def jetstream(bench):
    limit = bare(bench, *backlog(bench))
    found = dict(plain(bench))
    found |= {f"bare_{key}": value for key, value in limit.items()}
    found["ratio"] = found["lines_per_second"] / found["bare_lines_per_second"]
    return found


def local(bench):
    corpus, lines = backlog(bench)
    with bench.stage() as stage:
        begin = time.monotonic()
        stage.spawn("cp", ["sh", "-c", f"cp '{corpus}' '{stage.folder}/copy' && sync '{stage.folder}/copy'"])
        stage.wait_for_exit("cp")
        limit = time.monotonic() - begin
    with bench.stage() as stage:
        begin = time.monotonic()
        stage.fshipper("local", stage.source(corpus), stage.sink(), once=True)
        used = {"local": stage.wait_for_exit("local")}
        seconds = time.monotonic() - begin
        stage.must_equal(corpus, stage.output / corpus.name)
    return costs(used, seconds, lines) | {"ratio": limit / seconds, "cp_lines_per_second": lines / limit}


def rate(figures, key="lines_per_second"):
    value = figures[key]
    return f"{value / 1e6:.2f} M lines/s" if value >= 1e6 else f"{value / 1e3:.0f} k lines/s"


def cpu_by_process(figures):
    parts = [f"{name} {figures[f'cpu_{name}']:.2f}" for name in ("producer", "broker", "consumer")]
    return f"{figures['cpu']:.2f} ({', '.join(parts)})"


ROWS = [
    Row(
        "jetstream",
        "file → JetStream → file, a backlog of 2.1 GB",
        jetstream,
        [
            Goal(
                "2.2 M lines/s, or 80 % of the bare publish + pull + write",
                lambda f: f"{rate(f)}, {f['ratio']:.0%} of {rate(f, 'bare_lines_per_second')}",
                lambda f: f["lines_per_second"] >= 2.2e6 or f["ratio"] >= 0.8,
            ),
            Goal(
                "0.8 CPU-s per million lines, all three processes",
                lambda f: f"{cpu_by_process(f)}; bare {f['bare_cpu']:.2f}",
                lambda f: f["cpu"] <= 0.8,
            ),
        ],
    ),
    Row(
        "local",
        "file → file, no broker, 2.1 GB",
        local,
        [
            Goal(
                "60 % of `cp` and `sync`",
                lambda f: f"{f['ratio']:.0%}, {rate(f)}",
                lambda f: f["ratio"] >= 0.6,
            ),
            Goal("0.15 CPU-s per million lines", lambda f: f"{f['cpu']:.3f}", lambda f: f["cpu"] <= 0.15),
        ],
    ),
]
