#!/usr/bin/env python3
"""Installs imdslet in the cluster that ../run has started, and runs the tests."""

import argparse
import os
import pathlib
import signal
import subprocess
import sys
import time

import harness
from cluster import ROOT, Cluster

# Each module brings its tests, which run in this order.
import tokens_in_pods  # noqa: F401
import articles  # noqa: F401
import articles_storage  # noqa: F401
import articles_sql  # noqa: F401
import scenarios  # noqa: F401
import workloads  # noqa: F401
import edges  # noqa: F401
import link_local_mode  # noqa: F401
import identity_bindings  # noqa: F401
import service_principals  # noqa: F401
import live_changes  # noqa: F401
import admission  # noqa: F401
import csi  # noqa: F401
import csi_mount  # noqa: F401
import clients_in_pods  # noqa: F401
import policies  # noqa: F401
import network_policies  # noqa: F401
import threats  # noqa: F401
import explain_live  # noqa: F401
import check  # noqa: F401
import faults  # noqa: F401
import outages  # noqa: F401
import monitoring  # noqa: F401
import switch  # noqa: F401
import lifecycle  # noqa: F401
import chart  # noqa: F401
import upgrade  # noqa: F401
import scale  # noqa: F401
import bench


def circumstances(started):
    """When and of what this was a run, for whoever reads its table later."""
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip() or "unknown"
    date, minutes = time.strftime("%Y-%m-%d", time.gmtime(started)), (time.time() - started) / 60
    load = os.getloadavg()[2]
    return f"{date}, commit {commit}, Kubernetes {os.environ['K8S_VERSION']}, {minutes:.0f} minutes, load {load:.0f} at the end"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--bench", action="store_true")
    parser.add_argument("--list", action="store_true")
    args = parser.parse_args()
    if args.list:
        for function in harness.TESTS:
            print(function.__name__)
        return 0
    words = [word.replace(" ", "_") for word in args.only]
    # So that `finally` below comes to pass.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    started = time.time()
    work = pathlib.Path(os.environ["E2E_WORK"])
    cluster = Cluster()
    try:
        images = pathlib.Path(os.environ["E2E_IMAGES"])
        cluster.load(*sorted(images.glob("*.tar")))
        cluster.install()
        print(f"installed and ready after {time.time() - started:.1f} s", flush=True)
        if args.bench:
            bench.measure(cluster, words)
            return 0
        results = list(harness.run(cluster, words, args.full, work / "failed"))
        passed = sum(result.verdict == "ok" for result in results)
        failed = len(results) - passed
        # `run` prints it, as the last thing of all.
        (work / "sum").write_text(f"\n{circumstances(started)}\n\n{harness.table(results)}\n\n{passed} passed, {failed} failed\n")
        return 1 if failed or not passed else 0
    finally:
        cluster.entra.stop()


if __name__ == "__main__":
    sys.exit(main())
