"""Other shippers on the same work, when they are on PATH: one file as a backlog, over a network, into one file."""

import shutil
import time

from rows import Row, costs, rate
from stage import Failed, free_port, tool

# After so long without a change, what has not arrived will not.
QUIET_SECONDS = 10


def peers():
    """The rows of those that are installed."""
    return [row for program, row in PEERS if shutil.which(program)]


def compare(bench, start):
    """Ships a backlog by the processes that `start` starts, and counts what arrived, whatever it is."""
    lines = bench.size(300_000, 30_000)
    corpus = bench.corpus(lines)
    with bench.stage() as stage:
        stage.start_server()
        stage.output.mkdir()
        output = stage.output / "central.log"
        begin = time.monotonic()
        start(stage, corpus, output)
        size, changed = 0, time.monotonic()
        while size < corpus.stat().st_size and time.monotonic() - changed < QUIET_SECONDS:
            time.sleep(0.01)
            now = output.stat().st_size if output.is_file() else 0
            if now > size:
                size, changed = now, time.monotonic()
        used = stage.stop_all()
        if size == 0:
            raise Failed(f"nothing arrived\n{stage.logs()}")
        arrived = output.read_bytes().splitlines()
    distinct = set(arrived)
    numbers = [line.split(b"seq=", 1)[-1][:12] for line in arrived]
    return costs(used, changed - begin, len(arrived)) | {
        "lost": lines - len(distinct),
        "disordered": sum(one > other for one, other in zip(numbers, numbers[1:])),
    }


def vector(stage, corpus, output, jetstream):
    stream = '{ stream = "PEER", consumer = "peer" }'
    if jetstream:
        names = ["--name", "PEER", "--subject", "peer", "--consumer", "peer"]
        tool("stream", "--server", stage.address, *names)
    nats = f'type = "nats"\nurl = "nats://{stage.address}"\nsubject = "peer"\nconnection_name = "peer"\n'
    consumer = f"""
data_dir = "{stage.folder}"
[sources.in]
{nats}decoding.codec = "bytes"
{f"jetstream = {stream}" if jetstream else ""}
[sinks.out]
type = "file"
inputs = ["in"]
path = "{output}"
encoding.codec = "text"
"""
    producer = f"""
data_dir = "{stage.folder}"
[sources.in]
type = "file"
include = ["{corpus}"]
[sinks.out]
inputs = ["in"]
{nats}encoding.codec = "text"
{"jetstream = true" if jetstream else ""}
"""
    for name, text in (("consumer", consumer), ("producer", producer)):
        path = stage.pipeline(name, text)
        stage.spawn(name, ["vector", "--config", path])
        if name == "consumer" and not jetstream:
            stage.wait(lambda: stage.subscribers("peer"), "vector does not listen", 20)


def fluent_bit(stage, corpus, output):
    """It has no NATS: its own protocol, with acknowledgements."""
    port = free_port()
    consumer = ["-i", "forward", "-p", f"port={port}", "-p", "listen=127.0.0.1"]
    file = ["-o", "file", "-p", f"path={output.parent}", "-p", f"file={output.name}"]
    template = ["-p", "format=template", "-p", "template={log}"]
    stage.spawn("consumer", ["fluent-bit", "-f", "1", *consumer, *file, *template, "-m", "*"])
    tail = ["-i", "tail", "-p", f"path={corpus}", "-p", "read_from_head=true"]
    forward = ["-o", "forward", "-p", "host=127.0.0.1", "-p", f"port={port}", "-p", "require_ack_response=true"]
    stage.spawn("producer", ["fluent-bit", "-f", "1", *tail, *forward, "-m", "*"])


def row(name, work, start):
    return Row(name, work, lambda bench: compare(bench, start), describe=described)


def described(figures):
    cpu = f"{figures['cpu']:.1f} CPU-s per million lines"
    peaks = f"{figures['peak_producer']:.0f} / {figures['peak_consumer']:.0f} MiB"
    return f"{rate(figures)}, {cpu}, {peaks}, {figures['lost']:,.0f} lost, {figures['disordered']:,.0f} out of order"


PEERS = [
    (
        "vector",
        row("vector", "Vector, JetStream, defaults", lambda *stage: vector(*stage, jetstream=True)),
    ),
    (
        "vector",
        row("vector-core", "Vector, core NATS", lambda *stage: vector(*stage, jetstream=False)),
    ),
    (
        "fluent-bit",
        row("fluent-bit", "Fluent Bit, forward with acknowledgements (no NATS)", fluent_bit),
    ),
]
