#!/usr/bin/env python3
"""Measures what one log costs on its way into the central file: lines/s, CPU and peak memory.

    python3 benches/throughput.py                         # file -> JetStream -> file, 5 million lines
    python3 benches/throughput.py --way local --lines 2000000
    python3 benches/throughput.py --way core --framing line
    python3 benches/throughput.py --compression zstd --runs 3

Builds the release binary, makes a corpus of lines of 178 bytes on average, starts a nats-server of its own on
127.0.0.1 (from $NATS_SERVER, PATH, or where the tests keep theirs), ships the corpus as a backlog, compares the
result byte by byte, and prints a line for each process. The first row is `cp` and `sync` of the same file in
the same run: machines differ and drift, ratios hold.
"""

import argparse
import filecmp
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DEADLINE_SECONDS = 600


def main():
    options = arguments()
    subprocess.run(["cargo", "build", "--release", "--quiet", "-p", "fshipper"], cwd=ROOT, check=True)
    with tempfile.TemporaryDirectory(prefix="fshipper-bench-", dir=options.dir) as folder:
        folder = Path(folder)
        corpus = folder / "app.log"
        write_corpus(corpus, options.lines)
        megabytes = corpus.stat().st_size / 1e6
        print(f"{options.lines} lines, {megabytes:.0f} MB, {options.way}, framing {options.framing}, "
              f"compression {options.compression}")
        print(f"{'':<10} {'seconds':>8} {'lines/s':>10} {'MB/s':>7} {'CPU s per M lines':>18} {'peak MiB':>9}")
        for _ in range(options.runs):
            row("cp + sync", copy(corpus, folder), options.lines, megabytes)
            measure(options, corpus, folder, megabytes)


def arguments():
    parser = argparse.ArgumentParser(description="file to file throughput of fshipper")
    parser.add_argument("--way", choices=["jetstream", "core", "local"], default="jetstream")
    parser.add_argument("--lines", type=int, default=5_000_000)
    parser.add_argument("--framing", choices=["batch", "line"], default="batch")
    parser.add_argument("--compression", choices=["none", "zstd"], default="none")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--dir", help="where the corpus and the output go; default: the system's temporary folder")
    return parser.parse_args()


def write_corpus(path, lines):
    """Lines of 178 bytes on average, numbered, with words that compress about as well as logs do."""
    words = random.Random(1)
    vocabulary = ["".join(words.choices("abcdefghijklmnopqrstuvwxyz", k=words.randint(3, 9))) for _ in range(2000)]
    block = []
    for _ in range(10_000):
        text = " ".join(words.choices(vocabulary, k=40))
        block.append(text[: words.randint(100, 186)])
    with open(path, "w") as file:
        for start in range(0, lines, len(block)):
            count = min(len(block), lines - start)
            file.write("".join(f"2026-11-23T10:00:00 host app[{start + i:09}]: {block[i]}\n" for i in range(count)))


def copy(corpus, folder):
    target = folder / "copy"
    begin = time.monotonic()
    used = run_to_end(["sh", "-c", f"cp {corpus} {target} && sync {target}"])
    seconds = time.monotonic() - begin
    target.unlink()
    return [("cp + sync", used)], seconds


def measure(options, corpus, folder, megabytes):
    work = folder / "work"
    work.mkdir()
    processes = []
    try:
        pipelines = write_pipelines(options, corpus, work)
        if options.way != "local":
            processes.append(("broker", start_server(work)))
        begin = time.monotonic()
        for name, pipeline in pipelines:
            command = [ROOT / "target/release/fshipper", "run", pipeline, "--state-dir", work / "state"]
            processes.append((name, subprocess.Popen(command, stderr=open(work / f"{name}.log", "w"))))
        wait_for_bytes(work / "out", corpus.stat().st_size, processes, work)
        seconds = time.monotonic() - begin
        used = [(name, stop(process)) for name, process in reversed(processes)]
        processes = []
        output = list((work / "out").glob("app.log*"))
        if len(output) != 1 or not filecmp.cmp(corpus, output[0], shallow=False):
            sys.exit(f"the output differs from the corpus: {output}")
        row(options.way, (used, seconds), options.lines, megabytes)
    finally:
        for _, process in processes:
            process.kill()
            process.wait()
        shutil.rmtree(work)


def write_pipelines(options, corpus, work):
    source = f'[source]\ntype = "file_tail"\ninclude = "{corpus}"\n'
    sink = f'[sink]\ntype = "rotating_file"\npath = "{work}/out/{{file}}"\n'
    port = free_port()
    (work / "port").write_text(str(port))
    transport = f'[transport]\ntype = "nats"\nservers = "127.0.0.1:{port}"\nsubject = "shipper"\n'
    transport += f'framing = "{options.framing}"\ncompression = "{options.compression}"\n'
    if options.way == "jetstream":
        transport += 'stream = { name = "LOGS", create = true }\n'
    tables = {"local": [("local", source + sink)]}
    both = [("consumer", transport + sink), ("producer", source + transport)]
    pipelines = []
    for name, text in tables.get(options.way, both):
        path = work / f"{name}.toml"
        path.write_text(text)
        pipelines.append((name, path))
    return pipelines


def start_server(work):
    port = int((work / "port").read_text())
    binary = os.environ.get("NATS_SERVER") or shutil.which("nats-server")
    kept = sorted((ROOT / "target").glob("**/nats-server/*/bin/nats-server"))
    if not binary and not kept:
        sys.exit("no nats-server: run `cargo test --workspace` once, which fetches one, or set $NATS_SERVER")
    command = [binary or kept[-1], "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", work / "store"]
    server = subprocess.Popen(command, stderr=open(work / "server.log", "w"))
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return server
        except OSError:
            time.sleep(0.05)
    sys.exit("nats-server does not answer")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for_bytes(folder, size, processes, work):
    deadline = time.monotonic() + DEADLINE_SECONDS
    while sum(file.stat().st_size for file in folder.glob("app.log*")) < size:
        if time.monotonic() > deadline:
            sys.exit(f"not there after {DEADLINE_SECONDS} s; see the logs:\n{logs(work)}")
        for name, process in processes:
            if process.poll() is not None:
                sys.exit(f"{name} ended early:\n{logs(work)}")
        time.sleep(0.005)


def logs(work):
    return "\n".join(f"--- {path.name}\n{path.read_text()[-2000:]}" for path in work.glob("*.log"))


def stop(process):
    process.send_signal(signal.SIGTERM)
    return reap(process)


def run_to_end(command):
    return reap(subprocess.Popen(command))


def reap(process):
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage


def row(name, measured, lines, megabytes):
    used, seconds = measured
    total = sum(usage.ru_utime + usage.ru_stime for _, usage in used)
    per_million = total / lines * 1e6
    print(f"{name:<10} {seconds:8.2f} {lines / seconds:10.0f} {megabytes / seconds:7.0f} {per_million:18.3f}")
    if len(used) > 1 or used[0][0] != name:
        for process, usage in used:
            cpu = (usage.ru_utime + usage.ru_stime) / lines * 1e6
            print(f"  {process:<36} {cpu:20.3f} {usage.ru_maxrss / 1024:9.1f}")


main()
