#!/usr/bin/env python3
"""Runs the suite: here what is installed, and each mode in a network namespace of its own."""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile

import clients
import examples
import link_local
import modes
from report import Report

HERE = pathlib.Path(__file__).resolve()


def inside(mode, only):
    """The part of one mode, in the namespace of this process; its sum goes to the last line."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    report = Report(only)
    with tempfile.TemporaryDirectory(prefix="imdslet-clients-") as folder:
        modes.run(mode, pathlib.Path(folder) / "pod", report)
    print(f"sum {report.passed} {report.failed}", flush=True)


def run_mode(mode, only, report):
    command = ["setpriv", "--pdeathsig=KILL", "unshare", "--net", sys.executable, str(HERE), f"--inside={mode}"]
    command += [f"--only={word}" for word in only]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    counted = False
    for line in child.stdout:
        if line.startswith("sum "):
            _, passed, failed = line.split()
            report.passed += int(passed)
            report.failed += int(failed)
            counted = True
        else:
            print(line, end="", flush=True)
    if child.wait() or not counted:
        report.tell(f"{mode}: the suite itself", f"it ended with {child.returncode}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--inside", choices=modes.MODES)
    args = parser.parse_args()
    if args.list:
        print("\n".join(client.name for client in clients.CLIENTS))
        return 0
    if args.inside:
        inside(args.inside, args.only)
        return 0
    report = Report(args.only)
    name = "link-local: " + link_local.in_the_first_network_namespace_it_refuses.__name__.replace("_", " ")
    if report.wants(name):
        report.check(name, link_local.in_the_first_network_namespace_it_refuses)
    examples.run_all(report)
    clients.install_all(report)
    for mode in modes.MODES:
        run_mode(mode, args.only, report)
    print(f"{report.passed} passed, {report.failed} failed")
    return 1 if report.failed or not report.passed else 0


if __name__ == "__main__":
    os.umask(0o022)
    sys.exit(main())
