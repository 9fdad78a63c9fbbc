#!/usr/bin/env python3
"""Switches off one guard of the delivery protocol after the other, and demands that a test notices.

    tests/mutations.py [NAME...]     all of tests/mutations.toml, or those whose name contains one of NAME

Each mutation is a change of the source text. It is made in a copy of the tree, below target/mutations, so
nothing happens to the tree itself. A mutation counts as noticed when its command fails in a test, not in the
compiler. Exit code 0: all noticed. Needs Python 3.11 and the Rust toolchain; each mutation takes as long as
building what it touches.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import time
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent
COPY = ROOT / "target" / "mutations"
# A test that hangs has noticed something, too, but says it badly.
TIMEOUT_SECONDS = 900


def copy_tree():
    """Brings the copy up to date; files that did not change keep their times, so that little is built."""
    files = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.splitlines()
    for name in files:
        source, target = ROOT / name, COPY / "tree" / name
        if not source.is_file():
            continue
        if target.exists() and target.read_bytes() == source.read_bytes():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def mutate(mutation):
    """Applies it; the original text."""
    path = COPY / "tree" / mutation["file"]
    text = path.read_text()
    count = text.count(mutation["old"])
    if count != 1:
        sys.exit(f"error: `{mutation['name']}`: its text is {count} times in `{mutation['file']}`, not once: "
                 "bring tests/mutations.toml up to date")
    path.write_text(text.replace(mutation["old"], mutation["new"]))
    return text


def run(command):
    """How a command ended: `passed`, `failed` (in a test), `broken` (did not build) or `hangs`."""
    environment = dict(os.environ, CARGO_TARGET_DIR=str(COPY / "target"))
    build = command.split(" -- ")[0] + " --no-run"
    built = subprocess.run(build, shell=True, cwd=COPY / "tree", env=environment, capture_output=True, text=True)
    if built.returncode != 0:
        return "broken", built.stderr
    try:
        ran = subprocess.run(command, shell=True, cwd=COPY / "tree", env=environment,
                             capture_output=True, text=True, timeout=TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        return "hangs", ""
    if ran.returncode == 0:
        return "passed", ran.stdout
    failed = [line.split()[1] for line in ran.stdout.splitlines()
              if line.startswith("test ") and line.endswith("FAILED")]
    return "failed", ", ".join(failed)


def main():
    if any(argument.startswith("-") for argument in sys.argv[1:]):
        sys.exit(__doc__)
    mutations = tomllib.loads((ROOT / "tests" / "mutations.toml").read_text())["mutation"]
    if sys.argv[1:]:
        mutations = [each for each in mutations if any(name in each["name"] for name in sys.argv[1:])]
    copy_tree()
    unnoticed = 0
    print("| guard switched off | where | noticed by | seconds |\n| --- | --- | --- | --- |", flush=True)
    for mutation in mutations:
        path = COPY / "tree" / mutation["file"]
        began = time.monotonic()
        text = mutate(mutation)
        try:
            ended, said = run(mutation["command"])
        finally:
            path.write_text(text)
        if ended == "broken":
            sys.exit(f"error: `{mutation['name']}` does not build:\n{said}")
        noticed = {"failed": said, "hangs": "a test that never ends", "passed": "**nobody**"}[ended]
        unnoticed += ended == "passed"
        seconds = round(time.monotonic() - began)
        print(f"| {mutation['name']} | `{mutation['file']}` | {noticed} | {seconds} |", flush=True)
    if unnoticed:
        sys.exit(f"error: {unnoticed} of {len(mutations)} mutations were not noticed")
    print(f"\nall {len(mutations)} mutations were noticed")


if __name__ == "__main__":
    main()
