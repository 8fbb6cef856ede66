# Sourced: how programs are made that need nothing of the image that they lie in. Sets static_target
# and static_flags: musl, or else glibc, which makes larger programs.
static_target=$(uname -m)-unknown-linux-musl
# An address that is loaded anywhere takes 8 bytes in the table of relocations and not 24; musl reads
# such a table since 1.2.4, and Rust brings a newer one.
static_flags="-C link-arg=-Wl,-z,pack-relative-relocs"
if ! command -v musl-gcc >/dev/null ||
  ! { rustup target list --installed | grep -qx "$static_target" || rustup target add "$static_target"; }; then
  echo "no musl here (Debian's musl-tools and target $static_target): static glibc programs instead, which are larger" >&2
  static_target=$(uname -m)-unknown-linux-gnu
  static_flags="-C target-feature=+crt-static"
fi
