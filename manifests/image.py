#!/usr/bin/env python3
"""Packs files into the archive of an image with one layer, the same bytes each time.

The archive is an OCI image layout with the manifest.json that older engines read beside it.
The first FILE is the image's entry point.
"""

import argparse
import hashlib
import io
import json
import os
import platform
import struct
import sys
import tarfile

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
# In the header of an ELF program, and of an entry of its table of segments.
MACHINES = {62: "amd64", 183: "arm64"}
PT_INTERP = 3


def add(archive, name, content, mode=0o644):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    info.mode = mode
    archive.addfile(info, io.BytesIO(content))


def tar(files):
    """A tar archive of (name, content, mode), owned by root, of the year 1970."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content, mode in files:
            add(archive, name, content, mode)
    return buffer.getvalue()


def to_json(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def check_program(path, architecture, static):
    """Fails where a program is not for `architecture`, or needs a loader although it is to be static."""
    with open(path, "rb") as file:
        elf = file.read()
    assert elf[:6] == b"\x7fELF\x02\x01", f"{path} is no 64-bit ELF program"
    (machine,) = struct.unpack_from("<H", elf, 18)
    found = MACHINES.get(machine, f"machine {machine}")
    assert found == architecture, f"{path} is for {found}, and the image for {architecture}"
    (table,) = struct.unpack_from("<Q", elf, 32)
    size, count = struct.unpack_from("<HH", elf, 54)
    kinds = [struct.unpack_from("<I", elf, table + size * number)[0] for number in range(count)]
    assert not static or PT_INTERP not in kinds, f"{path} is not static: an image from scratch has no loader for it"


class Blobs:
    """What an archive names by digest, as (name, content, mode)."""

    def __init__(self):
        self.files = []

    def add(self, content, media_type):
        digest = hashlib.sha256(content).hexdigest()
        self.files.append((f"blobs/sha256/{digest}", content, 0o644))
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}


def layout(name, described):
    """The first files of an archive that holds one thing of that name."""
    described["annotations"] = {
        "io.containerd.image.name": name,
        "org.opencontainers.image.ref.name": name.rpartition(":")[2],
    }
    return [
        ("oci-layout", to_json({"imageLayoutVersion": "1.0.0"}), 0o644),
        ("index.json", to_json({"schemaVersion": 2, "manifests": [described]}), 0o644),
    ]


def image(name, user, architecture, files):
    """The files of the archive, as (name, content, mode)."""
    blobs = Blobs()

    content = []
    for source, path in files:
        with open(source, "rb") as file:
            content.append((path.lstrip("/"), file.read(), 0o755))
    layer = blobs.add(tar(content), "application/vnd.oci.image.layer.v1.tar")
    config = blobs.add(
        to_json({
            "architecture": architecture,
            "os": "linux",
            "config": {"User": user, "WorkingDir": "/", "Entrypoint": [files[0][1]]},
            # Not compressed, so that the layer is its own difference.
            "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
            "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "manifests/images"}],
        }),
        "application/vnd.oci.image.config.v1+json",
    )
    media_type = "application/vnd.oci.image.manifest.v1+json"
    manifest = blobs.add(
        to_json({"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": [layer]}),
        media_type,
    )
    paths = [path for path, _, _ in blobs.files]
    docker = [{"Config": paths[1], "RepoTags": [name], "Layers": [paths[0]]}]
    return [*layout(name, manifest), ("manifest.json", to_json(docker), 0o644), *blobs.files]


def write(path, content):
    """Whoever reads the file meanwhile has the old one as a whole."""
    partial = f"{path}.partial"
    with open(partial, "wb") as file:
        file.write(content)
    os.replace(partial, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True, help="with registry and tag")
    parser.add_argument("--user", required=True, help="UID:GID")
    parser.add_argument("--out", required=True, help="the archive")
    parser.add_argument("--arch", choices=MACHINES.values(), default=ARCHITECTURES.get(platform.machine()), help="of the machines that run it (default: this one's)")
    parser.add_argument("--static", action="store_true", help="refuse an entry point that needs a loader")
    parser.add_argument("files", nargs="+", metavar="FILE:PATH", help="a file, and its place in the image")
    args = parser.parse_args()
    files = [tuple(file.rsplit(":", 1)) for file in args.files]
    check_program(files[0][0], args.arch, args.static)
    content = tar(image(args.name, args.user, args.arch, files))
    write(args.out, content)
    print(f"{args.out}: {args.name}, {len(content)} bytes, sha256 {hashlib.sha256(content).hexdigest()}")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except AssertionError as error:
        sys.exit(f"manifests/image.py: {error}")
