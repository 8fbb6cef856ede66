"""A release that is made in a moment: the files that whoever downloads one looks at, of programs that are a header alone."""

import hashlib
import pathlib
import re
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
VERSION = re.search(r'^version = "(.*)"', (ROOT / "Cargo.toml").read_text(), re.M)[1]
REGISTRY = "registry.example/imdslet"


def header(kind=1):
    """A program for arm64 with one segment, whose kind follows: 3 names a loader, 1 is loaded."""
    elf = bytearray(64)
    elf[:6], elf[18], elf[32], elf[54], elf[56] = b"\x7fELF\x02\x01", 183, 64, 56, 1
    return bytes(elf) + bytes([kind]) + bytes(55)


def said(*command):
    return subprocess.run([str(part) for part in command], cwd=ROOT, check=True, text=True, capture_output=True).stdout.strip()


def make(folder):
    """Fills a folder, as manifests/release does."""
    images = []
    with tempfile.TemporaryDirectory() as work:
        for name in ("imdslet-webhook", "imdslet-sidecar"):
            program, archive = pathlib.Path(work, name), f"{work}/{name}.tar"
            program.write_bytes(header() + name.encode())
            said("manifests/image.py", f"--name={name}:{VERSION}", "--user=1:1", "--arch=arm64", f"--out={archive}", f"{program}:/{name}")
            out = folder / f"{name}-{VERSION}.tar"
            digest = said("manifests/release-index", f"--name={REGISTRY}/{name}:{VERSION}", f"--out={out}", archive)
            images.append(f"{REGISTRY}/{name}@{digest}")
    said("manifests/release-manifests", f"--version={VERSION}", f"--out={folder}", *images)
    write_sums(folder)


def files(folder):
    """What SHA256SUMS is of: neither itself nor what signs it."""
    return sorted(path for path in folder.iterdir() if path.name not in ("SHA256SUMS", "SHA256SUMS.sig", "cosign.pub"))


def write_sums(folder):
    lines = (f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files(folder))
    (folder / "SHA256SUMS").write_text("".join(lines))
