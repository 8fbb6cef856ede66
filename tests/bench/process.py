"""What the benchmarks ask of a process that they started, and how they print it."""

import os
import pathlib
import time
import typing

TICK = os.sysconf("SC_CLK_TCK")


class Cpu(typing.NamedTuple):
    """Seconds of the processor: all, and what of it was the kernel's."""

    all: float
    kernel: float

    def since(self, before):
        return Cpu(self.all - before.all, self.kernel - before.kernel)

    def each(self, count):
        """The same for one of so many, in microseconds."""
        return Cpu(self.all / count * 1e6, self.kernel / count * 1e6)


def cpu(pid):
    """What a process has had of the processor."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    own, kernel = int(fields[11]) / TICK, int(fields[12]) / TICK
    return Cpu(own + kernel, kernel)


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
