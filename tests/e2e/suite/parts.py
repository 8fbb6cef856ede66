#!/usr/bin/env python3
"""Installs what the tests' pods run, so that no test is kept waiting for it. What is there already stays."""

import sys
import time

import storage
from machine import install


def main():
    parts = {
        "azcopy and Azurite": storage.installed,
        "azure-keyvault-secrets for Python": lambda: install.python("azure-keyvault-secrets-4.12.0"),
        "azure-identity for Python": lambda: install.python("azure-identity-1.27.0"),
        "azure-identity for Java": lambda: install.java("1.19.0"),
    }
    for name, make in parts.items():
        started = time.monotonic()
        make()
        print(f"{name} ({time.monotonic() - started:.0f} s)", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
