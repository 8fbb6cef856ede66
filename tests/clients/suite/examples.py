"""The examples of docs/emulator.md, with the clients of this suite."""

import shutil
import subprocess

import install
from pod import PROGRAMS, ROOT

EXAMPLES = ROOT / "docs/examples/emulator"


def python():
    return [install.python("azure-identity-1.27.0"), EXAMPLES / "app.py"]


def go():
    """Its module is that of the client of the same version."""
    module = [install.HERE / "go/new" / name for name in ("go.mod", "go.sum")]
    source = EXAMPLES / "main.go"

    def make(folder):
        for path in [*module, source]:
            shutil.copy(path, folder)
        install.run("go", "build", "-trimpath", "-o", folder / "example", ".", cwd=folder)

    return [install.cached("go-example", [*module, source], make) / "example"]


def run_all(report):
    for language, command in (("Python", python), ("Go", go)):
        name = f"docs/emulator.md: {language}"
        if report.wants(name):
            report.check(name, check, command)


def check(command):
    """The example has a token of the emulator's, with nothing but what `emulate imds` gives it."""
    emulated = [PROGRAMS / "imdslet", "emulate", "imds", "--", *command()]
    ended = subprocess.run([str(part) for part in emulated], text=True, capture_output=True, timeout=120)
    assert ended.returncode == 0, ended.stderr[-600:]
    assert ended.stdout.startswith("valid until 20"), ended.stdout
