"""What was measured, as text, as a page and as a plot."""

import math
import os
import platform
import re
import subprocess
import time
from html import escape

from stage import ROOT, nats_server

PAGE = ROOT / "docs/performance.md"
PLOT = ROOT / "docs/performance.svg"
README = ROOT / "README.md"

BEGIN = "<!-- From here to the end mark the page is written by benches/run.py -->"
END = "<!-- The end mark -->"


def show(rows, figures):
    """Prints every row."""
    for row in rows:
        print(row.work)
        if row.name not in figures:
            print("  FAILED")
            continue
        if row.describe:
            print(f"          {row.describe(figures[row.name])}")
        for goal in row.goals:
            verdict = "met" if goal.met(figures[row.name]) else "MISSED"
            print(f"  {verdict:<6}  {goal.text}: {goal.found(figures[row.name])}")


def write_docs(rows, figures, rounds):
    before, rest = PAGE.read_text().split(BEGIN)
    after = rest.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n\n{table(rows, figures, rounds)}\n{END}{after}")
    PLOT.write_text(plot(rows, figures))
    write_readme(figures)


def table(rows, figures, rounds):
    lines = [
        f"Measured on {time.strftime('%-d %B %Y')}: {machine()}; {'one round' if rounds == 1 else f'medians of {rounds} rounds'}.",
        "",
        "| what | goal | measured | |",
        "| --- | --- | --- | --- |",
    ]
    for row in rows:
        found = figures.get(row.name)
        if row.describe and found:
            lines.append(f"| {row.work} | | {row.describe(found)} | |")
        for number, goal in enumerate(row.goals):
            work = row.work if number == 0 else ""
            measured = goal.found(found) if found else "failed"
            verdict = "met" if found and goal.met(found) else "**missed**"
            lines.append(f"| {work} | {goal.text} | {measured} | {verdict} |")
    return "\n".join(lines) + "\n"


def machine():
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    kernel = platform.release().split('-')[0]
    server = subprocess.run([nats_server(), "--version"], capture_output=True, text=True).stdout.split()[-1]
    return f"{os.cpu_count()} cores, {memory:.0f} GiB, Linux {kernel}, nats-server {server.removeprefix('v')}"


def write_readme(figures):
    """The product's own row of the comparison."""
    found = figures.get("jetstream")
    if not found:
        return
    peaks = f"{found['peak_producer']:.0f} / {found['peak_consumer']:.0f}"
    own = f"| fshipper, JetStream | {found['lines_per_second'] / 1e6:.1f} M | {found['cpu']:.2f} | {peaks} | 0 | 0 |"
    README.write_text(re.sub(r"^\| fshipper, JetStream \|.*$", own, README.read_text(), flags=re.M))


# The plot: how often the measured value is the goal, on a scale of doublings.
LEAST, MOST = -3, 4
LEFT, WIDTH, BAR, RIGHT = 520, 420, 22, 70


def plot(rows, figures):
    """A bar for each goal: right of the line it is met, left of it missed."""
    bars = [
        (f"{row.name}: {goal.text}", goal.score(figures[row.name]))
        for row in rows
        if row.name in figures
        for goal in row.goals
    ]
    height = 50 + BAR * len(bars)

    def across(doublings):
        return LEFT + (min(max(doublings, LEAST), MOST) - LEAST) / (MOST - LEAST) * WIDTH

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + RIGHT}" height="{height}" '
        'font-family="sans-serif" font-size="12" role="img">',
        "<title>Measured values as multiples of their goals</title>",
        '<rect width="100%" height="100%" fill="#ffffff"/>',
    ]
    for doublings in range(LEAST, MOST + 1):
        x, label = across(doublings), f"{2**doublings:g} ×" if doublings else "goal"
        colour = "#333333" if doublings == 0 else "#dddddd"
        parts.append(f'<line x1="{x:.1f}" y1="28" x2="{x:.1f}" y2="{height - 10}" stroke="{colour}"/>')
        parts.append(f'<text x="{x:.1f}" y="20" text-anchor="middle" fill="#555555">{label}</text>')
    for number, (label, score) in enumerate(bars):
        y = 34 + BAR * number
        end, zero = across(math.log2(score) if score > 0 else LEAST), across(0)
        colour = "#2a7f62" if score >= 1 else "#b3422e"
        left, right = min(end, zero), max(end, zero)
        parts.append(f'<text x="{LEFT - 8}" y="{y + 13}" text-anchor="end" fill="#222222">{escape(label)}</text>')
        parts.append(f'<rect x="{left:.1f}" y="{y + 2}" width="{max(right - left, 2):.1f}" height="15" fill="{colour}"/>')
        value = f"{score:.2f} ×" if score < 10 else f"{score:.0f} ×"
        parts.append(f'<text x="{LEFT + WIDTH + 8}" y="{y + 13}" fill="#222222">{value}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"
