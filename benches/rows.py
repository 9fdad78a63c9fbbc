"""The rows: what is measured, and the goal that it is held to."""

import os
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

import instructions
from stage import FSHIPPER, TOOL, Failed, Stage, run_arguments, tool

LINE_BYTES = 178


@dataclass
class Goal:
    """One promise of a row: how it reads, what was found, and how often that is what was promised (1 or more: met)."""

    text: str
    found: Callable
    score: Callable


    def met(self, figures):
        return self.score(figures) >= 1


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
    # What to say of a row without goals.
    describe: Callable | None = None


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


def shipped(bench, corpus, lines, one_way_ms=None, **keys):
    """A backlog through JetStream into the central files, by fshipper."""
    sources = [corpus] if corpus.is_file() else sorted(corpus.iterdir())
    size = sum(path.stat().st_size for path in sources)
    with bench.stage() as stage:
        stage.start_server()
        address = stage.long_link(one_way_ms) if one_way_ms else stage.address
        begin = time.monotonic()
        stage.fshipper("consumer", stage.transport(**keys), stage.sink())
        stage.fshipper("producer", stage.source(including(corpus)), stage.transport(address, **keys))
        stage.wait(lambda: total_size(stage.output, sources) >= size, "not everything arrived")
        seconds = time.monotonic() - begin
        wire = stage.server_says("varz")["in_bytes"]
        used = stage.stop_all()
        for path in sources:
            stage.must_equal(path, stage.output / path.name)
    return costs(used, seconds, lines) | {"wire_bytes": wire}


def including(corpus):
    return corpus if corpus.is_file() else f"{corpus}/*.log"


def total_size(output, sources):
    """How much of the logs has arrived."""
    try:
        return sum(os.stat(output / path.name).st_size for path in sources)
    except FileNotFoundError:
        return 0


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


def lines_over_jetstream(bench):
    lines = bench.size(1_000_000, 100_000)
    return shipped(bench, bench.corpus(lines), lines, framing="line")


def lines_over_core(bench):
    """Core NATS promises nothing; what does not arrive is counted."""
    lines = bench.size(3_000_000, 300_000)
    corpus = bench.corpus(lines)
    size = corpus.stat().st_size
    with bench.stage() as stage:
        stage.start_server()
        output = stage.output / corpus.name
        transport = stage.transport(stream=False, framing="line")
        # Who subscribes later hears nothing of what was before.
        stage.fshipper("consumer", transport, stage.sink())
        stage.wait(lambda: stage.subscribers("shipper"), "nobody listens", 20)
        begin = time.monotonic()
        stage.fshipper("producer", stage.source(corpus), transport)
        arrived, changed = 0, begin
        while arrived < size and time.monotonic() - changed < QUIET_SECONDS:
            time.sleep(0.01)
            now = total_size(stage.output, [corpus])
            if now > arrived:
                arrived, changed = now, time.monotonic()
        used = stage.stop_all()
        with open(output, "rb") as file:
            came = sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
        if came == lines:
            stage.must_equal(corpus, output)
    return costs(used, changed - begin, came) | {"lost": lines - came}


# Core NATS has no end: what has not come by then is lost.
QUIET_SECONDS = 5


def compressed(bench):
    found = shipped(bench, *backlog(bench), compression="zstd")
    found["speed_ratio"] = found["lines_per_second"] / plain(bench)["lines_per_second"]
    found["wire_ratio"] = plain(bench)["wire_bytes"] / found["wire_bytes"]
    return found


def latency(bench):
    return latencies(bench, "--rate", 1000, "--seconds", bench.size(10, 2))


def busy(bench):
    slow = ["--files", bench.size(1000, 100), "--rate", 1000, "--seconds", bench.size(10, 2)]
    return latencies(bench, *slow, "--busy-bytes", 8_000_000)


def latencies(bench, *arguments):
    """Lines that are appended while fshipper runs: how long until they are in the central file."""
    with bench.stage() as stage:
        stage.start_server()
        sources = stage.folder / "logs"
        sources.mkdir()
        stage.output.mkdir()
        stage.fshipper("consumer", stage.transport(), stage.sink())
        stage.fshipper("producer", stage.source(f"{sources}/*.log"), stage.transport())
        found = tool("latency", "--sources", sources, "--outputs", stage.output, *arguments)
        used = stage.stop_all()
    return found | costs(used, 1, found["lines"])


def memory(bench):
    """The highest peak of each process, whatever it is given."""
    runs = [plain(bench)]
    runs.append(shipped(bench, bench.corpus(4, "--line-bytes", bench.size(50_000_000, 5_000_000)), 4))
    files = bench.size(1000, 100)
    lines = bench.size(2_000_000)
    runs.append(shipped(bench, bench.corpus(lines, "--files", files), lines))
    names = ("backlog", "long_lines", "files")
    found = {f"{name}_{process}": run[f"peak_{process}"] for name, run in zip(names, runs) for process in ENDS}
    return found | {f"peak_{process}": max(run[f"peak_{process}"] for run in runs) for process in ENDS}


ENDS = ("producer", "consumer")


def many_hosts(bench):
    hosts = bench.size(100_000)
    with bench.stage() as stage:
        stage.start_server()
        tool("hosts", "--server", stage.address, "--stream", "LOGS", "--hosts", hosts, "--messages", hosts, "--lines", 10)
        begin = time.monotonic()
        stage.fshipper("consumer", stage.transport(), stage.sink("{host}/{file}"), once=True)
        used = {"consumer": stage.wait_for_exit("consumer")}
        seconds = time.monotonic() - begin
        outputs = sum(1 for _ in stage.output.glob("host*/app.log"))
        if outputs != hosts:
            raise Failed(f"{outputs} of {hosts} hosts have a file")
    return costs(used, seconds, hosts * 10) | {"seconds": seconds}


def idle(bench):
    files = bench.size(10_000, 1000)
    corpus = bench.corpus(files, "--files", files)
    seconds = bench.size(10, 3)
    with bench.stage() as stage:
        stage.start_server()
        stage.fshipper("producer", stage.source(f"{corpus}/*.log"), stage.transport())
        stage.wait(lambda: stage.stored_messages() >= files, "not every file was read", 60)
        # What a start leaves to do is done by then, and every file has been looked at as an idle one.
        time.sleep(2 * seconds)
        before, begin = stage.cpu_seconds_so_far("producer"), time.monotonic()
        touched = tool("opens", corpus, "--seconds", seconds)
        used = stage.cpu_seconds_so_far("producer") - before
        core = used / (time.monotonic() - begin)
        stage.stop_all()
    return {"core": core, "peak": stage.peaks["producer"], **touched}


def first_pass(bench):
    files = bench.size(10_000, 1000)
    corpus = bench.corpus(files * 10, "--files", files)
    with bench.stage() as stage:
        stage.start_server()
        begin = time.monotonic()
        stage.fshipper("producer", stage.source(f"{corpus}/*.log"), stage.transport(), once=True)
        used = stage.wait_for_exit("producer")
        seconds = time.monotonic() - begin
        if stage.stored_messages() < files:
            raise Failed(f"{stage.stored_messages()} messages of {files} files")
    return {"seconds": seconds, "cpu": used.cpu_seconds}


def long_link(bench):
    lines = bench.size(2_000_000, 200_000)
    found = shipped(bench, bench.corpus(lines), lines, one_way_ms=25)
    return found | {"ratio": found["lines_per_second"] / plain(bench)["lines_per_second"]}


def start(bench):
    files = bench.size(1000, 100)
    corpus = bench.corpus(files * 10, "--files", files)
    with bench.stage() as stage:
        stage.start_server()
        pipeline = stage.pipeline("producer", stage.source(f"{corpus}/*.log"), stage.transport())
        command = [FSHIPPER, *run_arguments(pipeline, stage.folder)]
        return tool("first", "--server", stage.address, "--subject", "shipper.>", "--", *command)


def many_rounds(bench):
    """At least 20 GB, a gigabyte at a time: the first quarter against the last, by the clock and in CPU time."""
    parts, lines = bench.size(20, 4), bench.size(6_000_000, 500_000)
    seconds, cpu = [], []
    with bench.stage() as stage:
        stage.start_server()
        sources = stage.folder / "logs"
        sources.mkdir()
        # The consumer deletes from the stream what it has: the disk holds one part at a time.
        stage.fshipper("consumer", stage.transport(purge=True), stage.sink())
        stage.fshipper("producer", stage.source(f"{sources}/*.log"), stage.transport())
        for part in range(parts):
            whole = stage.folder / f"part-{part:02}.log"
            tool("corpus", whole, "--lines", lines, "--first", part * lines)
            # Or a part pays for what the disk still has to write of those before it.
            os.sync()
            before, begin = sum(map(stage.cpu_seconds_so_far, PROCESSES)), time.monotonic()
            source, output = sources / whole.name, stage.output / whole.name
            whole.rename(source)
            stage.wait_for_file(output, source.stat().st_size)
            seconds.append(time.monotonic() - begin)
            cpu.append(sum(map(stage.cpu_seconds_so_far, PROCESSES)) - before)
            stage.must_equal(source, output)
            output.unlink()
            source.unlink()
        used = stage.stop_all()
    quarter = parts // 4
    return costs(used, sum(seconds), parts * lines) | {
        "gigabytes": parts * lines * LINE_BYTES / 1e9,
        "speed_ratio": sum(seconds[:quarter]) / sum(seconds[-quarter:]),
        "cpu_ratio": sum(cpu[-quarter:]) / sum(cpu[:quarter]),
    }


PROCESSES = ("producer", "broker", "consumer")


def flat(bench):
    """Instructions for each line where there is little and where there is much."""
    if not instructions.available():
        raise Failed("valgrind is not installed")
    files = bench.size(10_000, 1000)
    few = {f"files_{number}": number for number in (1, 100, files)}
    # Even the smallest files are beyond the first KiB, from which they are known: a line costs what a line costs.
    small, large = 25 * files, 225 * files
    found = {
        name: instructions.per_line(instructions.producer, bench, small, large, files=number)
        for name, number in few.items()
    }
    # 1 MB, 100 MB, 1 GB.
    sizes = [5_600, bench.size(562_000, 56_000), bench.size(5_620_000, 281_000)]
    for name, count in (("producer", instructions.producer), ("consumer", instructions.consumer)):
        counts = [count(bench, lines) for lines in sizes]
        for number in (1, 2):
            more = counts[number] - counts[number - 1]
            found[f"{name}_backlog_{number}"] = more / (sizes[number] - sizes[number - 1])
    hosts = bench.size(10_000, 1000)
    for number in (1, 100, hosts):
        found[f"hosts_{number}"] = instructions.of_hosts(bench, number, hosts)
    return found


def flatness(prefix):
    """A goal: the most expensive case of a kind costs little more than the cheapest."""

    def cases(figures):
        return [figures[key] for key in figures if key.startswith(prefix)]

    return (
        lambda figures: " / ".join(f"{case:.0f}" for case in cases(figures)) + " instructions for each line",
        lambda figures: FLAT * min(cases(figures)) / max(cases(figures)),
    )


# What counts as flat: the most expensive case at most so many times the cheapest.
FLAT = 1.25


def rate(figures, key="lines_per_second"):
    value = figures[key]
    return f"{value / 1e6:.2f} M lines/s" if value >= 1e6 else f"{value / 1e3:.0f} k lines/s"


def cpu_by_process(figures):
    parts = [f"{name} {figures[f'cpu_{name}']:.2f}" for name in ("producer", "broker", "consumer")]
    return f"{figures['cpu']:.2f} ({', '.join(parts)})"


def milliseconds(seconds):
    return f"{seconds * 1e3:.2f} ms"


ROWS = [
    Row(
        "jetstream",
        "file → JetStream → file, a backlog of 2.1 GB",
        jetstream,
        [
            Goal(
                "at least 2.2 M lines/s, or 80 % of the bare publish + pull + write",
                lambda f: f"{rate(f)}, {f['ratio']:.0%} of {rate(f, 'bare_lines_per_second')}",
                lambda f: max(f["lines_per_second"] / 2.2e6, f["ratio"] / 0.8),
            ),
            Goal(
                "at most 0.8 CPU-s per million lines, all three processes",
                lambda f: f"{cpu_by_process(f)}; bare {f['bare_cpu']:.2f}",
                lambda f: 0.8 / f["cpu"],
            ),
        ],
    ),
    Row(
        "line",
        "the same with `framing = \"line\"`, 1 M lines",
        lines_over_jetstream,
        [Goal("at least 90 k lines/s", rate, lambda f: f["lines_per_second"] / 90e3)],
    ),
    Row(
        "core",
        "core NATS with `framing = \"line\"`, 3 M lines",
        lines_over_core,
        [
            Goal(
                "at least 500 k lines/s, none lost",
                lambda f: f"{rate(f)}, {f['lost']:,.0f} lost",
                lambda f: f["lines_per_second"] / 500e3 if f["lost"] == 0 else 0,
            )
        ],
    ),
    Row(
        "local",
        "file → file without a broker, 2.1 GB",
        local,
        [
            Goal(
                "at least 60 % of `cp` and `sync`",
                lambda f: f"{f['ratio']:.0%}, {rate(f)}",
                lambda f: f["ratio"] / 0.6,
            ),
            Goal("at most 0.15 CPU-s per million lines", lambda f: f"{f['cpu']:.3f}", lambda f: 0.15 / f["cpu"]),
        ],
    ),
    Row(
        "zstd",
        "file → JetStream → file, `compression = \"zstd\"`, 2.1 GB",
        compressed,
        [
            Goal(
                "a sixth of the bytes on the wire",
                lambda f: f"1/{f['wire_ratio']:.1f}",
                lambda f: f["wire_ratio"] / 6,
            ),
            Goal(
                "at least a third of the plain speed",
                lambda f: f"{f['speed_ratio']:.0%}, {rate(f)}",
                lambda f: f["speed_ratio"] * 3,
            ),
        ],
    ),
    Row(
        "latency",
        "an appended line → visible in the central file, 1,000 lines/s",
        latency,
        [
            Goal("p50 at most 0.6 ms", lambda f: milliseconds(f["p50"]), lambda f: 0.6e-3 / f["p50"]),
            Goal("p99 at most 1.6 ms", lambda f: milliseconds(f["p99"]), lambda f: 1.6e-3 / f["p99"]),
        ],
    ),
    Row(
        "memory",
        "peak memory: the backlog, lines of 50 MB, 1,000 files",
        memory,
        [
            Goal(
                "at most 32 MiB, producer and consumer",
                lambda f: ", ".join(
                    f"{label} {f[f'{name}_producer']:.0f} / {f[f'{name}_consumer']:.0f} MiB"
                    for label, name in (("backlog", "backlog"), ("long lines", "long_lines"), ("files", "files"))
                ),
                lambda f: 32 / max(f["peak_producer"], f["peak_consumer"]),
            )
        ],
    ),
    Row(
        "hosts",
        "100,000 hosts at the consumer, a file each",
        many_hosts,
        [
            Goal(
                "at most 64 MiB",
                lambda f: f"{f['peak_consumer']:.0f} MiB, in {f['seconds']:.0f} s",
                lambda f: 64 / f["peak_consumer"],
            )
        ],
        rounds=1,
    ),
    Row(
        "idle",
        "10,000 idle files",
        idle,
        [
            Goal("under 1 % of a core", lambda f: f"{f['core']:.2%}", lambda f: 0.01 / f["core"]),
            Goal("under 40 MiB", lambda f: f"{f['peak']:.0f} MiB", lambda f: 40 / f["peak"]),
            Goal(
                "no file opened or read",
                lambda f: f"{f['opened']:.0f} opened, {f['read']:.0f} read",
                lambda f: float(f["opened"] + f["read"] == 0),
            ),
        ],
    ),
    Row(
        "first-pass",
        "first pass over 10,000 small files, read and published",
        first_pass,
        [Goal("under 2 s", lambda f: f"{f['seconds']:.2f} s", lambda f: 2 / f["seconds"])],
    ),
    Row(
        "busy",
        "one busy file among 1,000 slow ones",
        busy,
        [
            Goal(
                "slow lines' p99 under 100 ms",
                lambda f: f"{milliseconds(f['p99'])}; the busy file at {f['busy_bytes_per_second'] / 1e6:.0f} MB/s",
                lambda f: 0.1 / f["p99"],
            )
        ],
    ),
    Row(
        "link",
        "a link of 50 ms round trip between producer and broker",
        long_link,
        [
            Goal(
                "at least half of the plain speed",
                lambda f: f"{f['ratio']:.0%}, {rate(f)}",
                lambda f: f["ratio"] / 0.5,
            )
        ],
    ),
    Row(
        "start",
        "from the start of a producer to its first message, 1,000 files",
        start,
        [Goal("under 100 ms", lambda f: milliseconds(f["seconds"]), lambda f: 0.1 / f["seconds"])],
    ),
    Row(
        "flat",
        "the cost of a line, where there is little and where there is much",
        flat,
        [
            Goal("flat at 1 / 100 / 10,000 files (producer)", *flatness("files_")),
            Goal("flat from 1 to 100 MB / to 1 GB of backlog (producer)", *flatness("producer_backlog_")),
            Goal("flat from 1 to 100 MB / to 1 GB of backlog (consumer)", *flatness("consumer_backlog_")),
            Goal("flat at 1 / 100 / 10,000 hosts (consumer)", *flatness("hosts_")),
        ],
        rounds=1,
    ),
    Row(
        "long",
        "at least 20 GB through JetStream, a gigabyte at a time",
        many_rounds,
        [
            Goal(
                "as fast and as cheap at the end as at the beginning (within 15 %)",
                lambda f: f"{f['gigabytes']:.0f} GB: {f['speed_ratio']:.0%} of the speed, {f['cpu_ratio']:.0%} of the CPU",
                lambda f: min(f["gigabytes"] / 20, f["speed_ratio"] / 0.85, 1.15 / f["cpu_ratio"]),
            )
        ],
        rounds=1,
        long=True,
    ),
]
