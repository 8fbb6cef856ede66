# Sourced: how programs are made that need nothing of the image that they lie in. Sets static_target
# and static_flags: musl, or else glibc, which makes larger programs.
static_target=$(uname -m)-unknown-linux-musl
static_flags=
if ! command -v musl-gcc >/dev/null ||
  ! { rustup target list --installed | grep -qx "$static_target" || rustup target add "$static_target"; }; then
  echo "no musl here (Debian's musl-tools and target $static_target): static glibc programs instead, which are larger" >&2
  static_target=$(uname -m)-unknown-linux-gnu
  static_flags="-C target-feature=+crt-static"
fi
