"""Signs a release with a throw-away key and checks it as docs/release.md has it: `signing.py COSIGN [FOLDER]`. Called by `run`.

Without FOLDER, which is copied, the release is a small one (small.py).
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import small
from small import ROOT, VERSION

sys.path.append(str(ROOT / "tests/clients/suite"))
from report import Report  # noqa: E402

# The programs of the three commands, in their order.
SIGNATURE, SUMS, IMAGE = "cosign", "sha256sum", "skopeo"


def documented():
    """The commands by which a download is checked, by their program."""
    section = (ROOT / "docs/release.md").read_text().partition("\n## Checking a download\n")[2]
    lines = re.search(r"^```\n(.*?)^```$", section, re.M | re.S)[1].replace("VERSION", VERSION).splitlines()
    return {line.split()[0]: line for line in lines}


class Bench:
    """A signed release, and what is needed to spoil copies of it."""

    def __init__(self, work, cosign, folder):
        self.work, self.released = work, work / "released"
        # A home of its own, and no network when it is checked: neither a file of before nor a log has a part in it.
        (work / "home").mkdir()
        self.env = os.environ | {"PATH": f"{pathlib.Path(cosign).parent}:{os.environ['PATH']}", "HOME": str(work / "home"), "COSIGN_PASSWORD": "of a test"}
        self.env.pop("COSIGN_KEY", None)
        if folder:
            shutil.copytree(folder, self.released)
        else:
            self.released.mkdir()
            small.make(self.released)
        self.key, self.other = self.pair("own"), self.pair("other")
        self.signed(self.released, self.key)
        shutil.copy(self.key.with_suffix(".pub"), self.released / "cosign.pub")

    def pair(self, name):
        """A new pair of keys; where the private one lies."""
        subprocess.run(["cosign", "generate-key-pair", f"--output-key-prefix={self.work / name}"], env=self.env, check=True, capture_output=True)
        return self.work / f"{name}.key"

    def sign(self, folder, key):
        env = self.env | {"COSIGN_KEY": str(key)}
        return subprocess.run([ROOT / "manifests/release-sign", folder], env=env, text=True, capture_output=True)

    def signed(self, folder, key):
        ended = self.sign(folder, key)
        assert ended.returncode == 0, ended.stderr

    def copy(self):
        """The download, which a test may change."""
        folder = self.work / "copy"
        shutil.rmtree(folder, ignore_errors=True)
        return pathlib.Path(shutil.copytree(self.released, folder))

    def check(self, folder, program):
        """Runs one of the commands in a folder; its exit code and what it says."""
        command = ["unshare", "--net", "bash", "-euo", "pipefail", "-c", documented()[program]]
        ended = subprocess.run(command, cwd=folder, env=self.env, text=True, capture_output=True)
        return ended.returncode, ended.stdout + ended.stderr

    def passes(self, folder, program):
        code, said = self.check(folder, program)
        assert code == 0, f"{documented()[program]}: {said}"
        return said

    def fails(self, folder, program, word):
        """By the reason that is meant, and no other."""
        code, said = self.check(folder, program)
        assert code != 0 and word in said, f"{documented()[program]}: exit code {code}, {said}"


def spoil(path):
    """Changes one bit in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def what_was_signed_is_found_right(bench):
    folder = bench.copy()
    assert list(documented()) == [SIGNATURE, SUMS, IMAGE], documented()
    assert "Verified OK" in bench.passes(folder, SIGNATURE)
    found = bench.passes(folder, SUMS).splitlines()
    assert found == [f"{path.name}: OK" for path in small.files(folder)], found
    digest = bench.passes(folder, IMAGE).split()[0]
    assert f"imdslet-sidecar@sha256:{digest}" in (folder / "install.yaml").read_text(), digest


def a_file_alone_can_be_checked_too(bench):
    folder = bench.copy()
    for path in small.files(folder):
        if path.name != "install.yaml":
            path.unlink()
    assert bench.passes(folder, SUMS) == "install.yaml: OK\n"


def a_changed_bit_of_any_file_is_found(bench):
    for name in [path.name for path in small.files(bench.released)]:
        folder = bench.copy()
        spoil(folder / name)
        bench.fails(folder, SUMS, f"{name}: FAILED")


def sums_that_were_changed_with_their_file_are_found(bench):
    folder = bench.copy()
    spoil(folder / "install.yaml")
    small.write_sums(folder)
    bench.passes(folder, SUMS)
    bench.fails(folder, SIGNATURE, "invalid signature")


def another_key_is_found(bench):
    folder = bench.copy()
    bench.signed(folder, bench.other)
    bench.fails(folder, SIGNATURE, "invalid signature")
    # And so is somebody else's key beside the right signature.
    folder = bench.copy()
    shutil.copy(bench.other.with_suffix(".pub"), folder / "cosign.pub")
    bench.fails(folder, SIGNATURE, "invalid signature")


def a_signature_of_another_release_is_found(bench):
    other = bench.copy()
    spoil(other / "install.yaml")
    small.write_sums(other)
    bench.signed(other, bench.key)
    signature = (other / "SHA256SUMS.sig").read_bytes()
    folder = bench.copy()
    (folder / "SHA256SUMS.sig").write_bytes(signature)
    bench.fails(folder, SIGNATURE, "invalid signature")
    # cosign takes the name of a file that is not there for the signature itself.
    (folder / "SHA256SUMS.sig").unlink()
    bench.fails(folder, SIGNATURE, "invalid signature")


def what_is_not_of_its_sums_is_not_signed(bench):
    folder = bench.copy()
    (folder / "SHA256SUMS.sig").unlink()
    spoil(folder / "install.yaml")
    ended = bench.sign(folder, bench.key)
    assert ended.returncode == 1 and "is not of these files" in ended.stderr, ended
    assert not (folder / "SHA256SUMS.sig").exists()


TESTS = (
    what_was_signed_is_found_right,
    a_file_alone_can_be_checked_too,
    a_changed_bit_of_any_file_is_found,
    sums_that_were_changed_with_their_file_are_found,
    another_key_is_found,
    a_signature_of_another_release_is_found,
    what_is_not_of_its_sums_is_not_signed,
)


def main():
    report = Report([])
    with tempfile.TemporaryDirectory() as work:
        bench = Bench(pathlib.Path(work), sys.argv[1], *(sys.argv[2:] or [None]))
        for test in TESTS:
            report.check(test.__name__, test, bench)
    print(f"{report.passed} passed, {report.failed} failed")
    return 1 if report.failed or not report.passed else 0


if __name__ == "__main__":
    sys.exit(main())
