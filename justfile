# What .ci/run runs, in pieces. `just` lists them.

_default:
    @just --list

# All that CI runs.
ci:
    bash .ci/run

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
    for package in imdslet-core imdslet-certs imdslet-webhook imdslet-sidecar imdslet imdslet-tests; do \
        cargo check --locked -p "$package" && cargo check --locked -p "$package" --all-targets || exit 1; \
    done

# Licences, sources, banned and double crates (cargo-deny).
deny:
    cargo deny --workspace --locked check bans licenses sources

# Known vulnerabilities; needs the RustSec database from the network.
advisories:
    cargo deny --workspace --locked check advisories

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
