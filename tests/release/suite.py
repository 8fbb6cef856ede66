"""Looks at a release: `suite.py FOLDER HELM`, the folder that manifests/release wrote for a rehearsal. Called by `run`."""

import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tarfile
import tempfile

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from small import ROOT, VERSION, header

sys.path += [str(ROOT / "tests/clients/suite"), str(ROOT / "manifests")]
import image  # noqa: E402
from report import Report  # noqa: E402

FOLDER, HELM = pathlib.Path(sys.argv[1]), sys.argv[2]
IMAGES = {"imdslet-webhook": "dist", "imdslet-sidecar": "dist-sidecar"}
TARGETS = {"amd64": "x86_64-unknown-linux-musl", "arm64": "aarch64-unknown-linux-musl"}


def run(*command, **options):
    ended = subprocess.run([str(part) for part in command], cwd=options.pop("cwd", ROOT), text=True, capture_output=True, **options)
    return ended.returncode, ended.stdout, ended.stderr


def said(*command):
    code, out, errors = run(*command)
    assert code == 0, f"{command}: {errors}"
    return out


def blobs(name):
    """What an archive holds, by digest, and the digest of the index that is to be pulled."""
    with tarfile.open(FOLDER / f"{name}-{VERSION}.tar") as files:
        content = {member.name: files.extractfile(member).read() for member in files.getmembers()}
    (described,) = json.loads(content["index.json"])["manifests"]
    found = {path.replace("blobs/sha256/", "sha256:"): data for path, data in content.items() if path.startswith("blobs/")}
    return found, described["digest"]


def programs():
    """The programs in the archives, by image and architecture."""
    found = {}
    for name in IMAGES:
        content, digest = blobs(name)
        for manifest in json.loads(content[digest])["manifests"]:
            (layer,) = json.loads(content[manifest["digest"]])["layers"]
            with tempfile.NamedTemporaryFile() as file:
                file.write(content[layer["digest"]])
                file.flush()
                with tarfile.open(file.name) as files:
                    assert files.getnames() == [name], files.getnames()
                    found[name, manifest["platform"]["architecture"]] = files.extractfile(name).read()
    assert len(found) == len(IMAGES) * len(TARGETS), found.keys()
    return found


def every_file_is_listed_and_has_its_sum():
    there = sorted(path.name for path in FOLDER.iterdir())
    assert there == sorted(said("manifests/release", "--list").split()), there
    sums = dict(reversed(line.split("  ")) for line in (FOLDER / "SHA256SUMS").read_text().splitlines())
    assert sorted([*sums, "SHA256SUMS"]) == there, sums
    for name, expected in sums.items():
        assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == expected, name


def each_blob_is_what_its_name_says():
    for name in IMAGES:
        for digest, data in blobs(name)[0].items():
            assert digest == "sha256:" + hashlib.sha256(data).hexdigest(), f"{name}: {digest}"


def programs_are_static_and_say_nothing_of_the_machine():
    home, target = pathlib.Path.home(), os.environ.get("CARGO_TARGET_DIR", str(ROOT / "target"))
    for (name, arch), content in programs().items():
        with tempfile.NamedTemporaryFile() as file:
            file.write(content)
            file.flush()
            image.check_program(file.name, arch, True)
        for path in (f"{home}/", f"{ROOT}/", f"{target}/", ".cache/imdslet"):
            assert path.encode() not in content, f"{name} for {arch} has {path}"
        # The check would find them: what stands for Cargo's home is there.
        assert b"/cargo/registry/src/" in content, f"{name} for {arch} names no source"


def the_archives_are_what_skopeo_reads():
    for name in IMAGES:
        content, digest = blobs(name)
        whole = f"oci-archive:{FOLDER / f'{name}-{VERSION}.tar'}"
        assert hashlib.sha256(said("skopeo", "inspect", "--raw", whole).encode()).hexdigest() == digest.removeprefix("sha256:")
        for arch in TARGETS:
            config = json.loads(said("skopeo", f"--override-arch={arch}", "inspect", "--config", whole))
            assert config["architecture"] == arch and config["config"]["Entrypoint"] == [f"/{name}"], config
        with tempfile.TemporaryDirectory() as folder:
            # As to a registry.
            said("skopeo", "copy", "--quiet", "--all", "--preserve-digests", whole, f"oci:{folder}/pushed:{VERSION}")
            (pushed,) = json.loads((pathlib.Path(folder) / "pushed/index.json").read_text())["manifests"]
            assert pushed["digest"] == digest, f"{pushed} is not {digest}"


def boms():
    for name in IMAGES:
        for arch in TARGETS:
            yield name, arch, (FOLDER / f"{name}-{VERSION}-{arch}.cdx.json").read_text()


def lists_are_cyclonedx():
    validator = JsonStrictValidator(SchemaVersion.V1_6)
    for name, arch, text in boms():
        problem = validator.validate_str(text)
        assert problem is None, f"{name} for {arch}: {problem}"
        bom = json.loads(text)
        refs = {one["bom-ref"] for one in [bom["metadata"]["component"], *bom["components"]]}
        assert {one["ref"] for one in bom["dependencies"]} <= refs
        without = [one["name"] for one in bom["components"] if "licenses" not in one]
        assert without == [], f"no licence: {without}"


def lists_have_what_cargo_compiled_for_the_target():
    """Cargo tells what it has built, and where: what is not for the target only took part in building."""
    for name, arch, text in boms():
        script = f"static_arch={TARGETS[arch].partition('-')[0]}; . manifests/static.sh; RUSTFLAGS=$static_flags $static_build --locked" \
            f" --profile {IMAGES[name]} --target $static_target -p {name} --message-format json"
        compiled = set()
        for line in said("bash", "-c", script).splitlines():
            message = json.loads(line)
            if message["reason"] == "compiler-artifact" and any(f"/{TARGETS[arch]}/" in path for path in message["filenames"]):
                # PATH_OR_URL#VERSION, or #NAME@VERSION.
                place, _, last = message["package_id"].rpartition("#")
                compiled.add(last if "@" in last else f"{place.rpartition('/')[2]}@{last}")
        bom = json.loads(text)
        listed = {one["bom-ref"] for one in [bom["metadata"]["component"], *bom["components"]]}
        crates = {ref for ref in listed if ref.partition("@")[0] not in ("std", "musl")}
        assert len(compiled) > 50 and crates == compiled, f"{name} for {arch}: not compiled {crates - compiled}, not listed {compiled - crates}"


def the_provenance_is_of_these_files_and_this_commit():
    statement = json.loads((FOLDER / "provenance.json").read_text())
    assert statement["_type"] == "https://in-toto.io/Statement/v1", statement["_type"]
    found = {one["name"]: one["digest"]["sha256"] for one in statement["subject"]}
    images = {name: digest for name, digest in found.items() if "/" in name}
    assert sorted(images.values()) == sorted(blobs(name)[1].removeprefix("sha256:") for name in IMAGES), images
    for name, digest in found.items():
        assert name in images or hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == digest, name
    assert len(found) - len(images) == len(list(FOLDER.iterdir())) - 2, found.keys()
    sources = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert sources[0]["digest"]["gitCommit"] == said("git", "rev-parse", "HEAD").strip(), sources[0]


def the_chart_and_install_yaml_name_the_images_by_digest():
    expected = sorted(f"registry.example/imdslet/{name}@{blobs(name)[1]}" for name in IMAGES)
    install = (FOLDER / "install.yaml").read_text()
    chart = said(HELM, "template", "imdslet", FOLDER / f"imdslet-{VERSION}.tgz", "--kube-version=1.34.0")
    for where, text in (("install.yaml", install), ("the chart", chart)):
        named = sorted({found.strip('"') for found in re.findall(r"(?:image|IMDSLET_SIDECAR_IMAGE): (\S*imdslet-\S+)", text)})
        assert named == expected, f"{where}: {named}"
    said(HELM, "lint", "--quiet", FOLDER / f"imdslet-{VERSION}.tgz")


def what_does_not_agree_is_not_released():
    changes = {
        "manifests/chart/Chart.yaml": ("version: ", "version: 9"),
        "manifests/install.yaml": (f"image: imdslet-webhook:{VERSION}", "image: imdslet-webhook:9.9.9"),
        "CHANGELOG.md": ("## ", "### "),
    }
    with tempfile.TemporaryDirectory() as folder:
        clone = pathlib.Path(folder) / "clone"
        said("git", "clone", "--quiet", ROOT, clone)
        log = clone / "CHANGELOG.md"
        log.write_text(log.read_text().replace("## Unreleased", f"## {VERSION} - 2026-01-01", 1))
        commit(clone)
        assert run("manifests/release", "--check", cwd=clone)[0] == 0, run("manifests/release", "--check", cwd=clone)
        for name, (old, new) in changes.items():
            path = clone / name
            before = path.read_text()
            assert old in before, f"{name} has no {old}"
            path.write_text(before.replace(old, new))
            _, _, errors = run("manifests/release", "--check", cwd=clone)
            assert "not committed" in errors and name in errors, errors
            path.write_text(before)
        assert run("git", "tag", f"v{VERSION}", "HEAD^", cwd=clone)[0] == 0
        code, _, errors = run("manifests/release", "--registry", "r.example", cwd=clone)
        assert code == 1 and f"v{VERSION} is a tag of another commit" in errors, errors


def an_image_is_refused_for_a_machine_that_cannot_run_its_program():
    with tempfile.TemporaryDirectory() as folder:
        program = pathlib.Path(folder) / "program"
        pack = lambda *flags: run("manifests/image.py", "--name=a:1", "--user=1:1", f"--out={folder}/a.tar", *flags, f"{program}:/program")
        for kind, arch, refusal in ((1, "amd64", "is for arm64, and the image for amd64"), (3, "arm64", "is not static"), (1, "arm64", None)):
            program.write_bytes(header(kind))
            code, _, errors = pack(f"--arch={arch}", "--static")
            assert (code == 0) == (refusal is None) and (refusal or "") in errors, errors


def commit(clone):
    who = ["-c", "user.name=test", "-c", "user.email=test@example.com"]
    code, _, errors = run("git", *who, "commit", "--quiet", "--all", "--message=A release", cwd=clone)
    assert code == 0, errors


TESTS = (
    every_file_is_listed_and_has_its_sum,
    each_blob_is_what_its_name_says,
    programs_are_static_and_say_nothing_of_the_machine,
    the_archives_are_what_skopeo_reads,
    lists_are_cyclonedx,
    lists_have_what_cargo_compiled_for_the_target,
    the_provenance_is_of_these_files_and_this_commit,
    the_chart_and_install_yaml_name_the_images_by_digest,
    what_does_not_agree_is_not_released,
    an_image_is_refused_for_a_machine_that_cannot_run_its_program,
)


def main():
    report = Report([])
    for test in TESTS:
        report.check(test.__name__, test)
    for (name, arch), content in programs().items():
        print(f"       {name} for {arch}: {len(content):,} bytes, sha256 {hashlib.sha256(content).hexdigest()}")
    print(f"{report.passed} passed, {report.failed} failed")
    sys.exit(1 if report.failed else 0)


if __name__ == "__main__":
    main()
