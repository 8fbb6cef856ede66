#!/usr/bin/env bash
# The sidecar as it is shipped: builds it statically, checks its size, and prints the table of
# docs/performance.md, with the simplest server of the same kind beside it. With --check it fails
# where the size is over its limit and measures nothing else. Measuring needs root, for a network
# that leads nowhere; what listens there is in nobody's way.
set -euo pipefail
cd "$(dirname "$0")/../.."
. manifests/static.sh

# 3.5 MB, all features in: what every pod of a cluster pulls and maps. glibc makes larger programs.
limit=3500000
case $static_target in *-musl) ;; *) limit=5000000 ;; esac
build() { RUSTFLAGS=$static_flags cargo build --locked --quiet --profile dist-sidecar --target "$static_target" -p imdslet-sidecar --bins "$@"; }
build
target_dir=$(realpath -m "${CARGO_TARGET_DIR:-target}")
built=$target_dir/$static_target/dist-sidecar
program=$built/imdslet-sidecar
size=$(stat -c %s "$program")
echo "$program: $size bytes (limit $limit)"
[ "$size" -le "$limit" ] || { echo "too large: cargo bloat --profile dist-sidecar -p imdslet-sidecar shows what grew"; exit 1; }
file=$(head -c 20 "$program" | od -An -tx1 | tr -d ' \n')
[ "${file:0:8}" = 7f454c46 ] || { echo "$program is no ELF program"; exit 1; }
! ldd "$program" 2>&1 | grep -q '=>' || { echo "$program is not static"; exit 1; }
[ "${1:-}" != --check ] || exit 0

[ "$(id -u)" = 0 ] || { echo "tests/bench/sidecar.sh needs root: it makes a network namespace" >&2; exit 3; }
# Together with the sidecar, so that the libraries are the same, and not built anew.
build -p imdslet-plain
# What stands in for Entra ID; how fast it is does not matter.
cargo build --locked --quiet --workspace --bin imdslet
export IMDSLET_PROGRAMS=$target_dir/debug PYTHONDONTWRITEBYTECODE=1
exec unshare --net bash -c 'ip link set lo up && exec python3 "$@"' - tests/bench/sidecar.py "$program" "$built/plain"
