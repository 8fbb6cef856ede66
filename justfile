# What .ci/run and .ci/full run, in pieces. `just` lists them.

_default:
    @just --list

# All that CI runs.
ci:
    bash .ci/run

# What takes too long for every change. Before an issue is closed: `just ci`, then this.
full:
    .ci/full

# Formats the code.
fmt:
    cargo fmt --all

# Fails on unformatted code.
fmt-check:
    cargo fmt --all --check

# Fails on what clippy says.
lint:
    cargo clippy --locked --workspace --all-targets -- -D warnings

# The tests: hermetic, nothing else needed.
test:
    INSTA_UPDATE=no cargo test --locked --workspace

# The documentation, with every link right.
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --document-private-items

# Each package by itself, since building them together hides a missing feature.
isolate:
    .ci/isolate

# Licences, sources, banned and double crates (cargo-deny).
deny:
    cargo deny --workspace --locked check bans licenses sources

# Known vulnerabilities; needs the RustSec database from the network.
advisories:
    cargo deny --workspace --locked check advisories

# The alerts, by promtool (Debian's prometheus).
alerts:
    tests/monitoring/run

# What is injected, by Pod Security's rules as Gatekeeper policies. Needs Go.
gatekeeper:
    cargo build --locked --release
    bash -euc '. .ci/lib.sh; need_gator; GATOR=$GATOR tests/gatekeeper/run target/release/imdslet'

# The Helm chart: its defaults are manifests/install.yaml. Needs Go and python3-yaml.
chart:
    tests/chart/run

# Makes install.yaml, docs/chart.md and the chart's copies anew, of what they are made of. Needs Go.
sync:
    manifests/sync

# A real Kubernetes on this machine, such as `just cluster --only NAME`. Needs root on a Debian.
cluster *options:
    tests/e2e/run {{options}}

# Real clients of Azure, and link-local mode, such as `just clients --only NAME`. Needs root on a Debian.
clients *options:
    tests/clients/run {{options}}

# The plan of a move, read by other people's parsers.
plan:
    tests/migrate/run

# Bytes from outside, such as `just fuzz --seconds 60 identities`.
fuzz *options:
    tests/fuzz/run {{options}}

# Load and endurance, such as `just load --soak --minutes 10`. Needs root.
load *options:
    tests/load/run {{options}}

# The sidecar as it is shipped, beside the simplest server of its kind. Needs root.
measure:
    bash tests/bench/sidecar.sh

# Everything that is published, into target/release-VERSION: docs/release.md.
release registry:
    manifests/release --registry {{registry}}

# A release made twice and compared, looked at, and run for arm64 in qemu. Needs root.
release-test:
    tests/release/run

# The chain on this machine.
demo:
    cargo build --locked --release && target/release/imdslet demo
