#!/usr/bin/env python3
"""Switches off one guard of the delivery protocol after the other, and demands that a test notices.

    tests/mutations.py [WORD...]           all of tests/mutations.toml, or those with one of the words in
                                           their name, file or command
    tests/mutations.py --list [WORD...]    only says which they are, and whether their texts are still there

Each mutation is a change of the source text. It is made in a copy of the tree below target/mutations, so
nothing happens to the tree itself; the copy has a target folder of its own, so a second run builds little.
First the commands run on the unchanged copy: a test that fails anyway notices nothing. Then a mutation counts
as noticed when its command fails in a test; one that does not build is an error of the list.

The result is a Markdown table on stdout, progress goes to stderr. Exit code 0: all were noticed. Needs
Python 3.11, git and the Rust toolchain; about ten seconds for each mutation, and some minutes for the first
build.
"""

import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent
COPY = ROOT / "target" / "mutations"
TREE = COPY / "tree"

# A mutation may make a test hang. That is noticed when it takes so many times as long as without it, and at
# least so long: the machine may be busy with something else.
HANGS_FACTOR = 5
HANGS_SECONDS = 60


def main():
    words = [word for word in sys.argv[1:] if word != "--list"]
    if any(word.startswith("-") for word in words):
        sys.exit(__doc__)
    mutations = select(tomllib.loads((ROOT / "tests" / "mutations.toml").read_text())["mutation"], words)
    stale = [problem for problem in map(misfit, mutations) if problem]
    if "--list" in sys.argv:
        for mutation in mutations:
            print(f"{mutation['file']}: {mutation['name']}")
    if stale:
        sys.exit("\n".join(f"error: {problem}" for problem in stale))
    if "--list" in sys.argv:
        return
    copy_tree()
    usual_seconds = run_unchanged(mutations)
    print("| broken on purpose | where | noticed first by | seconds |\n| --- | --- | --- | --: |", flush=True)
    unnoticed = [mutation["name"] for number, mutation in enumerate(mutations, 1)
                 if not is_noticed(mutation, f"{number}/{len(mutations)}", usual_seconds[mutation["command"]])]
    if unnoticed:
        sys.exit(f"error: {len(unnoticed)} of {len(mutations)} were not noticed by a test: {'; '.join(unnoticed)}")
    say(f"all {len(mutations)} were noticed")


def select(mutations, words):
    """Those with one of the words in them; all if there are no words."""
    found = [each for each in mutations
             if not words or any(word in each["name"] + each["file"] + each["command"] for word in words)]
    if not found:
        sys.exit("error: no mutation matches")
    return found


def misfit(mutation):
    """Why a mutation cannot be made, if so."""
    path = ROOT / mutation["file"]
    count = path.read_text().count(mutation["old"]) if path.is_file() else 0
    if count == 1:
        return None
    return (f"`{mutation['name']}`: its text is in `{mutation['file']}` {count} times, not once: "
            "bring tests/mutations.toml up to date")


def copy_tree():
    """Brings the copy up to date. Files that did not change keep their times, so that little is built."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.split("\0")
    files = {name for name in listed if (ROOT / name).is_file()}
    for path in [path for path in TREE.rglob("*") if path.is_file()]:
        # What is left of an older tree may be compiled all the same: each file in tests/ is a test.
        if str(path.relative_to(TREE)) not in files:
            path.unlink()
    for name in files:
        source, target = ROOT / name, TREE / name
        if target.is_file() and target.read_bytes() == source.read_bytes():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)


def run_unchanged(mutations):
    """How many seconds each command takes without a mutation; it has to pass."""
    commands = list(dict.fromkeys(mutation["command"] for mutation in mutations))
    usual_seconds = {}
    for number, command in enumerate(commands, 1):
        say(f"unchanged {number}/{len(commands)}: {command}")
        end, said, seconds = run(command, None)
        if end == "passes" and not re.search(r"ok\. [1-9]\d* passed", said):
            end, said = "runs no test", ""
        if end != "passes":
            sys.exit(f"error: without any mutation `{command}` {end}\n{said}")
        usual_seconds[command] = seconds
    return usual_seconds


def is_noticed(mutation, number, usual_seconds):
    """Makes one mutation, runs its command, takes it back, and prints a line of the table."""
    say(f"{number} {mutation['file']}: {mutation['name']}")
    path = TREE / mutation["file"]
    text, began = path.read_text(), time.monotonic()
    path.write_text(text.replace(mutation["old"], mutation["new"]))
    try:
        end, said, _ = run(mutation["command"], max(HANGS_SECONDS, HANGS_FACTOR * usual_seconds))
    finally:
        path.write_text(text)
    by = {
        "passes": "**nobody**",
        "fails": said,
        "hangs": "a test that never ends",
        "does not build": "**the compiler**: mend the mutation",
    }[end]
    if end == "does not build":
        say(said)
    print(f"| {mutation['name']} | `{mutation['file']}` | {by} | {time.monotonic() - began:.0f} |", flush=True)
    return end in ("fails", "hangs")


def run(command, limit):
    """Runs a `cargo test` in the copy, up to the first test that fails and no longer than `limit` from the
    first test on: how it ended, what to say of that, and how many seconds the tests took."""
    scratch = COPY / "tmp"
    scratch.mkdir(parents=True, exist_ok=True)
    environment = {
        # Most of the time goes into compiling what is run once.
        "CARGO_PROFILE_DEV_OPT_LEVEL": "0",
        **os.environ,
        "CARGO_TARGET_DIR": str(COPY / "target"),
        "TMPDIR": str(scratch),
    }
    process = subprocess.Popen(shlex.split(command), cwd=TREE, env=environment, text=True, errors="replace",
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    timer, has_timed_out = None, threading.Event()
    output, failed, began = [], None, None
    try:
        for line in process.stdout:
            output.append(line)
            if began is None and re.match(r"running \d+ tests?$", line):
                began = time.monotonic()
                if limit is not None:
                    timer = threading.Timer(limit, lambda: (has_timed_out.set(), kill(process)))
                    timer.start()
            failed = re.match(r"test (\S+) .*FAILED$", line)
            if failed:
                break
        else:
            process.wait()
    finally:
        if timer:
            timer.cancel()
        kill(process)
        process.wait()
        # A test that was killed leaves its files behind.
        shutil.rmtree(scratch, ignore_errors=True)
    if began is None:
        return "does not build", "".join(output), 0
    seconds = time.monotonic() - began
    if failed:
        return "fails", f"`{failed[1]}`", seconds
    if has_timed_out.is_set():
        return "hangs", "", seconds
    if process.returncode != 0:
        # A test that takes the whole process with it is not named.
        return "fails", "the end of the test process", seconds
    return "passes", "".join(output), seconds


def kill(process):
    """Kills a command that may be at work, with all that it started: the tests are children of cargo."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def say(text):
    """Progress."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
