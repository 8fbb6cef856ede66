"""Builds both images by Dockerfile and looks at them: `dockerfile.py FOLDER`, for what buildah keeps meanwhile. Called by `run`.

Where the image that it builds on cannot be pulled, a stand-in takes its name: Debian's packages by debootstrap, Rust by rustup.
"""

import contextlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

from small import ROOT, VERSION

sys.path += [str(ROOT / "tests/clients/suite"), str(ROOT / "manifests")]
import image  # noqa: E402
from report import Report  # noqa: E402

STORE = pathlib.Path(sys.argv[1])
BUILDAH = ["buildah", f"--root={STORE}/root", f"--runroot={STORE}/run", "--storage-driver=vfs"]
BASE = re.search(r"^FROM (rust:\S+) AS build$", (ROOT / "Dockerfile").read_text(), re.M)[1]
USERS = {"webhook": "65532:65532", "sidecar": "2579:2579"}
# What the real one sets.
PLACES = {"RUSTUP_HOME": "/usr/local/rustup", "CARGO_HOME": "/usr/local/cargo"}
PATH = "/usr/local/cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Missing(Exception):
    """What this machine cannot get."""


def buildah(*words, log=None):
    """What it prints; with a log, that goes there."""
    output = {"stdout": log, "stderr": log} if log else {"capture_output": True}
    ended = subprocess.run([*BUILDAH, *map(str, words)], cwd=ROOT, text=True, **output)
    assert ended.returncode == 0, f"buildah {' '.join(map(str, words))}: {ended.stderr or log.name}"
    return (ended.stdout or "").strip()


@contextlib.contextmanager
def mounted(name):
    """A container made of an image, and where its files are."""
    made = buildah("from", "--pull-never", name)
    try:
        yield made, pathlib.Path(buildah("mount", made))
    finally:
        buildah("rm", made)


def need(log, *command, **env):
    if subprocess.run(list(map(str, command)), env=os.environ | env, stdout=log, stderr=log).returncode:
        raise Missing(f"{command[0]} brings no stand-in for it; see {log.name}")


def stand_in(log):
    """Makes an image with the name of the base, which has what that has: a minimal Debian with gcc, and the toolchain by rustup."""
    version, _, suite = BASE.removeprefix("rust:").partition("-slim-")
    with mounted("scratch") as (made, place):
        need(log, "debootstrap", "--variant=minbase", "--include=ca-certificates,gcc,libc6-dev", suite, place)
        programs = place / "usr/local/cargo/bin"
        programs.mkdir(parents=True)
        shutil.copy(shutil.which("rustup"), programs / "rustup")
        for name in ("cargo", "rustc"):
            (programs / name).symlink_to("rustup")
        homes = {name: f"{place}{path}" for name, path in PLACES.items()}
        need(log, "rustup", "toolchain", "install", "--no-self-update", "--profile=minimal", version, **homes)
        env = [f"--env={name}={value}" for name, value in (PLACES | {"PATH": PATH, "RUST_VERSION": version}).items()]
        buildah("config", *env, made)
        buildah("commit", "--quiet", made, f"docker.io/library/{BASE}")


def build():
    """Builds both targets; by which base."""
    with (STORE / "build.log").open("w") as log:
        pulled = subprocess.run([*BUILDAH, "pull", f"docker.io/library/{BASE}"], stdout=log, stderr=log).returncode == 0
        if not pulled:
            stand_in(log)
        # What this machine trusts, its packages come by.
        flags = ["--isolation=chroot", "--pull-never", "--layers", "--volume=/etc/ssl/certs:/etc/ssl/certs:ro"]
        for target in USERS:
            buildah("build", *flags, f"--target={target}", f"--tag=localhost/imdslet-{target}:{VERSION}", ".", log=log)
    return BASE if pulled else f"a stand-in for {BASE}"


def config(target):
    return json.loads(buildah("inspect", "--type=image", f"localhost/imdslet-{target}:{VERSION}"))["OCIv1"]


def it_runs_its_program_as_its_user(target):
    found = config(target)
    wanted = {"User": USERS[target], "Entrypoint": [f"/imdslet-{target}"]}
    assert {key: found["config"].get(key) for key in wanted} == wanted and "Cmd" not in found["config"], found["config"]


def it_has_one_file_which_is_static_and_starts(target):
    name = f"imdslet-{target}"
    with mounted(f"localhost/{name}:{VERSION}") as (_, place):
        files = [str(path.relative_to(place)) for path in place.rglob("*") if not path.is_dir()]
        assert files == [name], files
        image.check_program(place / name, config(target)["architecture"], True)
        user, group = map(int, USERS[target].split(":"))
        # Nothing of this machine is there, no loader and no library. The sidecar takes it for a mistake and says how it is called;
        # these codes are of chroot, which cannot run it.
        ended = subprocess.run(["chroot", f"--userspec={user}:{group}", place, f"/{name}", "--version"], text=True, capture_output=True)
        assert ended.returncode not in (125, 126, 127) and name in ended.stdout + ended.stderr, ended
        print(f"       {name}: {(place / name).stat().st_size:,} bytes")


def main():
    shutil.rmtree(STORE, ignore_errors=True)
    STORE.mkdir(parents=True)
    report = Report([])
    try:
        base = build()
    except Missing as error:
        print(f"skipped: {BASE} can be had here from no registry, and {error}\n0 passed, 0 failed, 1 skipped")
        return 0
    print(f"       built on {base}")
    for target in USERS:
        for test in (it_runs_its_program_as_its_user, it_has_one_file_which_is_static_and_starts):
            report.check(f"{target}: {test.__name__}", test, target)
    # Gigabytes, since each layer is a whole copy.
    buildah("rmi", "--all", "--force")
    shutil.rmtree(STORE)
    print(f"{report.passed} passed, {report.failed} failed")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
