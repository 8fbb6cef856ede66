#!/usr/bin/env python3
"""What a plan takes: time and memory, for a cluster as JSON and as YAML, and for a large dump."""

import json
import os
import pathlib
import sys
import time

ISSUER = "https://issuer.example/cluster/"


def yaml(value, indent=""):
    """Lines as kubectl writes them: blocks, keys sorted."""
    if isinstance(value, dict) and value:
        for key in sorted(value):
            inside = value[key]
            if isinstance(inside, (dict, list)) and inside:
                yield f"{indent}{key}:"
                yield from yaml(inside, indent if isinstance(inside, list) else f"{indent}  ")
            else:
                yield f"{indent}{key}: {json.dumps(inside)}"
    elif isinstance(value, list) and value:
        for inside in value:
            if isinstance(inside, (dict, list)) and inside:
                first, *rest = yaml(inside, f"{indent}  ")
                yield f"{indent}- {first.lstrip()}"
                yield from rest
            else:
                yield f"{indent}- {json.dumps(inside)}"
    else:
        yield f"{indent}{json.dumps(value)}"


def run(program, dump):
    """Seconds that passed, seconds of a processor, and the most memory that it had, in MB."""
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        nothing = os.open("/dev/null", os.O_WRONLY)
        os.dup2(nothing, 1)
        os.dup2(nothing, 2)
        try:
            os.execv(program, [program, "migrate", "-f", dump, f"--issuer={ISSUER}", "-o", "json"])
        finally:
            os._exit(127)
    _, status, usage = os.wait4(child, 0)
    # A program that is not there must not count as one that is quick.
    assert os.waitstatus_to_exitcode(status) in (0, 1), f"{program} fails on {dump}"
    return time.monotonic() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1000


def main():
    program, *dumps = sys.argv[1:]
    for dump in map(pathlib.Path, dumps):
        block = dump.with_suffix(".yaml")
        with block.open("w") as out:
            out.writelines(f"{line}\n" for line in yaml(json.loads(dump.read_text())))
        for path in (dump, block):
            size = path.stat().st_size / 1e6
            wall, cpu, memory = min(run(program, path) for _ in range(5 if size < 50 else 1))
            print(f"{path.name}: {size:.1f} MB, {wall:.2f} s, of which {cpu:.2f} s of a processor, {memory:.0f} MB")


if __name__ == "__main__":
    main()
