#!/usr/bin/env python3
"""Installs what the tests' pods run, so that no test is kept waiting for it. What is there already stays.

`parts.py --full` installs also what only the tests of `run --full` need.
"""

import sys
import time

import articles_sql
import clients_in_pods
import csi_mount
import network
import storage
import upgrade
from machine import install


def main():
    full = "--full" in sys.argv[1:]
    clients = clients_in_pods.clients.CLIENTS if full else clients_in_pods.current()
    parts = {
        "azcopy and Azurite": storage.installed,
        "the stand-in for the Secrets Store CSI driver": csi_mount.image,
        "the JDBC driver for SQL Server": articles_sql.driver,
        "what holds NetworkPolicies": network.enforcer,
        "azure-keyvault-secrets for Python": lambda: install.python("azure-keyvault-secrets-4.12.0"),
        "the packages of npm": install.node,
    } | {client.name: client.command for client in clients} | ({"an older release": upgrade.release} if full else {})
    for name, make in parts.items():
        started = time.monotonic()
        make()
        print(f"{name} ({time.monotonic() - started:.0f} s)", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
