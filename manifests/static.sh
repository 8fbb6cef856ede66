# Sourced, in the root of the tree: how programs are made that need nothing of the image that they lie
# in, and that are the same bytes wherever they are made. Sets static_target, static_build (a command)
# and static_flags: musl, or else glibc, which makes larger programs.
#
# static_arch, where it is set before, is another machine's architecture: x86_64 or aarch64. Then the C
# in the libraries is compiled by zig, in the versions that manifests/static.txt pins.
static_arch=${static_arch:-$(uname -m)}
static_target=$static_arch-unknown-linux-musl
static_build="cargo build"
# An address that is loaded anywhere takes 8 bytes in the table of relocations and not 24; musl reads
# such a table since 1.2.4, and Rust brings a newer one.
static_flags="-C link-arg=-Wl,-z,pack-relative-relocs"

static_has_target() {
  rustup target list --installed | grep -qx "$static_target" || rustup target add "$static_target"
}

# cargo-zigbuild and zig are wheels of PyPI.
static_zig() {
  static_tools=${XDG_CACHE_HOME:-$HOME/.cache}/imdslet/zig-$(sha256sum manifests/static.txt | cut -c 1-12)
  if [ ! -e "$static_tools/whole" ]; then
    rm -rf "$static_tools"
    python3 -m venv "$static_tools" \
      && "$static_tools/bin/pip" install -q --disable-pip-version-check --require-hashes -r manifests/static.txt \
      && touch "$static_tools/whole" || return
  fi
  PATH=$static_tools/bin:$PATH
}

if [ "$static_arch" != "$(uname -m)" ]; then
  if ! static_has_target || ! static_zig; then
    echo "no compiler for $static_target here: rustup must be able to add that target, and pip the wheels of manifests/static.txt" >&2
    exit 3
  fi
  static_build="cargo zigbuild"
  # Linked by what Rust brings, since zig packs no relocations. Rust makes a program for aarch64 that
  # is loaded at one address; this one is loaded anywhere, as those for x86_64 are: of the start files
  # it takes the one that relocates itself.
  static_parts=$(rustc --print sysroot)/lib/rustlib/$static_target/lib/self-contained
  static_flags="-C linker=rust-lld -C linker-flavor=ld.lld -C relocation-model=pic -C link-self-contained=no -L native=$static_parts"
  for static_part in "$static_parts/rcrt1.o" "$static_parts/crti.o" "$static_parts/crtn.o" \
    -pie --no-dynamic-linker -ztext -zpack-relative-relocs; do
    static_flags="$static_flags -C link-arg=$static_part"
  done
elif ! command -v musl-gcc >/dev/null || ! static_has_target; then
  echo "no musl here (Debian's musl-tools and target $static_target): static glibc programs instead, which are larger" >&2
  static_target=$static_arch-unknown-linux-gnu
  static_flags="-C target-feature=+crt-static"
fi

# When it was built is in no program: mimalloc has its C compiler write the time, for a greeting.
export SOURCE_DATE_EPOCH=0

# Where it was built is in no program: the places of the sources (panics name them), of the libraries,
# and of what build scripts write. The last that fits counts.
static_remap() { # path, what stands for it
  case $1 in
    *[[:space:]=]*) echo "$1 holds a space or =: programs that are built there tell so" >&2 ;;
    *) static_flags="$static_flags --remap-path-prefix=$1=$2" ;;
  esac
}
static_remap "$(pwd -P)" /imdslet
static_remap "${CARGO_HOME:-$HOME/.cargo}" /cargo
static_remap "$(realpath -ms "${CARGO_TARGET_DIR:-target}")" /target
