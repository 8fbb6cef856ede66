"""What the benchmarks ask of a process that they started, and how they print it."""

import os
import pathlib
import time

TICK = os.sysconf("SC_CLK_TCK")


def cpu(pid):
    """Seconds of the processor that a process has had."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def memory(pid):
    """In MiB."""
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    figures = {line.partition(":")[0]: int(line.split()[1]) for line in lines if line.endswith("kB")}
    return {key: figures[key] / 1024 for key in ("VmRSS", "RssAnon", "VmHWM")}


def until(what, condition, seconds):
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.002)


def table(rows):
    """Rows of what, figure and limit, as docs/performance.md has them."""
    print("| what | figure | limit |\n| --- | --- | --- |")
    for row in rows:
        print("| " + " | ".join(row) + " |")
