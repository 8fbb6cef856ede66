#!/usr/bin/env bash
# What a new machine needs besides Go, Rust, curl and python3 (a Debian 12).
set -euo pipefail
mapfile -t packages <"$(dirname "$0")/packages"
dpkg -s "${packages[@]}" >/dev/null 2>&1 && exit 0
apt-get update -q
DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -yq --no-install-recommends "${packages[@]}"
