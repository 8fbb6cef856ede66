#!/usr/bin/env bash
# The sidecar as it is shipped: builds it statically, and measures its size and its memory once it
# listens. With --check it fails where the size is over its limit and measures nothing else.
set -euo pipefail
cd "$(dirname "$0")/../.."

# 3.5 MB, all features in: what every pod of a cluster pulls and maps.
limit=3500000
target=x86_64-unknown-linux-musl
flags=
if ! rustup target list --installed | grep -qx "$target" && ! rustup target add "$target" ||
  ! command -v musl-gcc >/dev/null; then
  target=x86_64-unknown-linux-gnu
  flags="-C target-feature=+crt-static"
  echo "no musl here (target $target and Debian's musl-tools): measuring a static glibc build instead, which is larger"
  limit=5000000
fi
RUSTFLAGS=$flags cargo build --locked --quiet --profile dist-sidecar --target "$target" -p imdslet-sidecar
program=target/$target/dist-sidecar/imdslet-sidecar
size=$(stat -c %s "$program")
echo "$program: $size bytes (limit $limit)"
[ "$size" -le "$limit" ] || { echo "too large: cargo bloat --profile dist-sidecar -p imdslet-sidecar shows what grew"; exit 1; }
file=$(head -c 20 "$program" | od -An -tx1 | tr -d ' \n')
[ "${file:0:8}" = 7f454c46 ] || { echo "$program is no ELF program"; exit 1; }
! ldd "$program" 2>&1 | grep -q '=>' || { echo "$program is not static"; exit 1; }
[ "${1:-}" != --check ] || exit 0

dir=$(mktemp -d)
log=$dir/log
trap 'kill "$pid" 2>/dev/null || true; rm -rf "$dir"' EXIT
echo '{"version":1,"hold":false,"identities":[]}' >"$dir/identities.json"
"$program" serve --dir="$dir" --port=0 --authority=https://login.microsoftonline.com --mode=native >"$log" &
pid=$!
for _ in $(seq 100); do
  addr=$(sed -n 's/.*"addr":"\(127[^"]*\)".*/\1/p' "$log" | head -n 1)
  [ -z "$addr" ] || break
  sleep 0.05
done
# The program hides its memory from others; its status is still everybody's.
echo "ready: $(awk '/VmRSS|RssAnon|RssFile/ { printf "%s %s kB  ", $1, $2 }' "/proc/$pid/status")"
for _ in $(seq 1000); do
  printf 'GET /metadata/identity/oauth2/token HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n' "$addr" |
    timeout 5 bash -c "exec 3<>/dev/tcp/${addr%:*}/${addr#*:}; cat >&3; cat <&3 >/dev/null"
done
echo "after 1,000 refused requests: $(awk '/VmRSS/ { print $2 " kB" }' "/proc/$pid/status")"
