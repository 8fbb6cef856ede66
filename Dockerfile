# The images of imdslet, for those who have an engine; without one: manifests/images. Those of a
# release are made by manifests/release (docs/release.md).
#
#   docker build --target webhook -t imdslet-webhook:0.1.0 .
#   docker build --target sidecar -t imdslet-sidecar:0.1.0 .

FROM rust:1.95.0-slim-bookworm AS build
RUN apt-get update \
  && apt-get install -y --no-install-recommends make musl-tools \
  && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN . manifests/static.sh \
  && export RUSTFLAGS="$static_flags" \
  && cargo build --locked --profile dist --target "$static_target" -p imdslet-webhook \
  && cargo build --locked --profile dist-sidecar --target "$static_target" -p imdslet-sidecar \
  && mkdir /out \
  && cp "target/$static_target/dist/imdslet-webhook" "target/$static_target/dist-sidecar/imdslet-sidecar" /out/

FROM scratch AS sidecar
COPY --from=build /out/imdslet-sidecar /imdslet-sidecar
USER 2579:2579
ENTRYPOINT ["/imdslet-sidecar"]

FROM scratch AS webhook
COPY --from=build /out/imdslet-webhook /imdslet-webhook
USER 65532:65532
ENTRYPOINT ["/imdslet-webhook"]
