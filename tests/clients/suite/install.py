"""Installs the clients, each in a folder of the cache that is named by what is pinned for it."""

import hashlib
import os
import pathlib
import shutil
import subprocess

HERE = pathlib.Path(__file__).resolve().parents[1]
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "imdslet/clients"


def run(*command, **options):
    ended = subprocess.run([str(part) for part in command], text=True, capture_output=True, timeout=1200, **options)
    if ended.returncode:
        output = (ended.stdout + ended.stderr).strip()
        raise RuntimeError(f"{pathlib.Path(command[0]).name} ends with {ended.returncode}: {output[-600:]}")


def cached(name, files, make):
    """The folder of `name` for the content of `files`, made by `make(folder)` if it is not there."""
    digest = hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()[:12]
    folder = CACHE / f"{name}-{digest}"
    if not (folder / "whole").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        make(folder)
        (folder / "whole").touch()
    return folder


def uv():
    pinned = HERE / "python/uv.txt"

    def make(folder):
        run("python3", "-m", "venv", folder)
        run(folder / "bin/pip", "install", "-q", "--require-hashes", "-r", pinned)

    return cached("uv", [pinned], make) / "bin/uv"


def python(name):
    pinned = HERE / f"python/{name}.txt"

    def make(folder):
        run(uv(), "venv", "-q", "--python=python3", folder)
        run(uv(), "pip", "install", "-q", f"--python={folder}/bin/python", "--require-hashes", "-r", pinned)

    return cached(name, [pinned], make) / "bin/python"


def node():
    pinned = [HERE / "node/package.json", HERE / "node/package-lock.json"]

    def make(folder):
        for path in pinned:
            shutil.copy(path, folder)
        run("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", cwd=folder)

    return cached("node", pinned, make)


def go(name):
    source = HERE / "go" / name

    def make(folder):
        run("go", "build", "-trimpath", "-o", folder / "client", ".", cwd=source)

    return cached(f"go-{name}", [source / "go.mod", source / "go.sum", source / "main.go"], make) / "client"


def java(version):
    pom = HERE / "java/pom.xml"

    def make(folder):
        settings = [f"-Dazure.identity={version}", f"-DoutputDirectory={folder}/jars", "-DincludeScope=runtime"]
        # It writes beside its file otherwise.
        shutil.copy(pom, folder)
        run("mvn", "-q", "-B", "-ntp", f"-f={folder}/pom.xml", f"{COPY}:copy-dependencies", *settings)

    return cached(f"java-{version}", [pom], make) / "jars"


# With its version, so that nothing that Maven runs is chosen by the day.
COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1"


def rust():
    source = HERE / "rust"

    def make(folder):
        environment = os.environ | {"CARGO_TARGET_DIR": str(folder / "target"), "CARGO_PROFILE_DEV_DEBUG": "false"}
        run("cargo", "build", "--locked", cwd=source, env=environment)

    files = [source / "Cargo.toml", source / "Cargo.lock", source / "src/main.rs"]
    return cached("rust", files, make) / "target/debug/client"
