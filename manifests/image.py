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
import sys
import tarfile

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


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


def image(name, user, files):
    """The files of the archive, as (name, content, mode)."""
    blobs = []

    def blob(content, media_type):
        digest = hashlib.sha256(content).hexdigest()
        blobs.append((f"blobs/sha256/{digest}", content, 0o644))
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}

    content = []
    for source, path in files:
        with open(source, "rb") as file:
            content.append((path.lstrip("/"), file.read(), 0o755))
    layer = blob(tar(content), "application/vnd.oci.image.layer.v1.tar")
    config = blob(
        to_json({
            "architecture": ARCHITECTURES[platform.machine()],
            "os": "linux",
            "config": {"User": user, "WorkingDir": "/", "Entrypoint": [files[0][1]]},
            # Not compressed, so that the layer is its own difference.
            "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
            "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "manifests/images"}],
        }),
        "application/vnd.oci.image.config.v1+json",
    )
    media_type = "application/vnd.oci.image.manifest.v1+json"
    manifest = blob(
        to_json({"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": [layer]}),
        media_type,
    )
    manifest["annotations"] = {
        "io.containerd.image.name": name,
        "org.opencontainers.image.ref.name": name.rpartition(":")[2],
    }
    paths = [path for path, _, _ in blobs]
    docker = [{"Config": paths[1], "RepoTags": [name], "Layers": [paths[0]]}]
    return [
        ("oci-layout", to_json({"imageLayoutVersion": "1.0.0"}), 0o644),
        ("index.json", to_json({"schemaVersion": 2, "manifests": [manifest]}), 0o644),
        ("manifest.json", to_json(docker), 0o644),
        *blobs,
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True, help="with registry and tag")
    parser.add_argument("--user", required=True, help="UID:GID")
    parser.add_argument("--out", required=True, help="the archive")
    parser.add_argument("files", nargs="+", metavar="FILE:PATH", help="a file, and its place in the image")
    args = parser.parse_args()
    files = [tuple(file.rsplit(":", 1)) for file in args.files]
    content = tar(image(args.name, args.user, files))
    # Whoever reads the archive meanwhile has the old one as a whole.
    partial = f"{args.out}.partial"
    with open(partial, "wb") as file:
        file.write(content)
    os.replace(partial, args.out)
    print(f"{args.out}: {args.name}, {len(content)} bytes, sha256 {hashlib.sha256(content).hexdigest()}")


if __name__ == "__main__":
    sys.exit(main())
