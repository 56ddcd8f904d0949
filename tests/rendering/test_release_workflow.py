"""The workflow that releases a project: its steps are run here, in bash, with a small registry."""

import hashlib
import json
import re
from pathlib import Path

import pytest
from pytest_copier.plugin import CopierFixture
from rendering_support import tool
from workflowkit import Ran, Workflow, write_tool

FILE = Path(".github/workflows/release.yml")
IMAGE = "ghcr.io/someone/orders"
VERSION = "0.1.0"

DOCKER = """#!/bin/bash
# Keeps the manifests of pushed images as files, and notes each call.
registry="{registry}"
echo "docker $*" >> "$registry/calls"
digest() {{ sha256sum "$1" | sed 's/ .*//'; }}
case "$1 $2" in
  "login ghcr.io") [ "$(cat)" = t0ken ] || exit 65 ;;
  "buildx build")
    [ "${{!#}}" = . ] && [ -f Dockerfile ] || exit 66 ;;
  "run --rm") [ ! -f "$registry/broken" ] ;;
  "push "*)
    [ ! -f "$registry/refuses" ] || exit 67
    echo "manifest of $2" > "$registry/manifest"
    cp "$registry/manifest" "$registry/$(digest "$registry/manifest")"
    echo "$2" > "$registry/pushed" ;;
  "inspect "*)
    if [ -f "$registry/pushed" ]; then
      other='"example.com/other@sha256:0"'
      printf '[{{"RepoDigests": [%s, "%s@sha256:%s"]}}]' "$other" "${{2%:*}}" \\
        "$(digest "$registry/manifest")"
    else
      echo '[{{"RepoDigests": []}}]'
    fi ;;
  "buildx imagetools")
    case "$3" in
      create)
        for image in "$6" "$7"; do [ -f "$registry/${{image#*@sha256:}}" ] || exit 68; done
        printf '{{\\n  "manifests": ["%s", "%s"]\\n}}' "$6" "$7" > "$registry/index" ;;
      inspect) [ "$4" = --raw ] && cat "$registry/index" ;;
    esac ;;
  *) exit 64 ;;
esac
"""
GH = """#!/bin/bash
echo "gh $*" >> "{registry}/calls"
[ "$GH_TOKEN" = t0ken ] && [ ! -f "{registry}/unsigned" ]
"""


@pytest.fixture(scope="module")
def rendered(copier_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("release")
    with pytest.MonkeyPatch.context() as patch:
        renderer = CopierFixture(template=copier_template, defaults={}, monkeypatch=patch)
        return renderer.copy(folder / "project", features=[]).path


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    folder = tmp_path / "registry"
    folder.mkdir()
    return folder


@pytest.fixture
def release(rendered: Path, registry: Path, tmp_path: Path) -> Workflow:
    """The workflow in the checkout of a tag."""
    tools = tmp_path / "bin"
    write_tool(tools, "docker", DOCKER.format(registry=registry))
    write_tool(tools, "gh", GH.format(registry=registry))
    (rendered / "uv.lock").touch()
    values = {
        "github.token": "t0ken",
        "needs.check.outputs.image": IMAGE,
        "needs.check.outputs.version": VERSION,
    }
    given = {
        "GITHUB_ACTOR": "someone",
        "GITHUB_REF": f"refs/tags/v{VERSION}",
        "GITHUB_REF_NAME": f"v{VERSION}",
        "GITHUB_REPOSITORY": "Someone/Orders",
        "GITHUB_SERVER_URL": "https://github.com",
        "GITHUB_SHA": "c0ffee",
    }
    return Workflow(rendered / FILE, rendered, values, tools, given)


def calls(registry: Path) -> str:
    file = registry / "calls"
    return file.read_text() if file.exists() else ""


def compare(release: Workflow) -> Ran:
    return release.run("check", "Compare tag and version")


def push(release: Workflow, architecture: str) -> Ran:
    """Build and push the image of a platform; the digest becomes an output of the job."""
    release.values["matrix.architecture"] = architecture
    built = release.run("image", "Build and try")
    if built.returncode:
        return built
    pushed = release.run("image", "Push")
    release.values |= {
        f"needs.image.outputs.{name}": digest for name, digest in pushed.outputs.items()
    }
    return pushed


def join(release: Workflow) -> Ran:
    joined = release.run("index", "Join the images under the version")
    release.values["steps.join.outputs.digest"] = joined.outputs.get("digest", "")
    return joined


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def test_the_tag_has_to_be_the_version(release: Workflow) -> None:
    compared = compare(release)

    assert (compared.returncode, compared.said) == (0, "")
    assert compared.outputs == {"image": IMAGE, "version": VERSION}


def test_another_tag_is_refused_with_what_to_do(release: Workflow) -> None:
    release.environment = {**release.environment, "GITHUB_REF_NAME": "v1.2.3"}

    compared = compare(release)

    assert compared.returncode == 1
    assert compared.outputs == {}
    assert compared.said == (
        "::error::Expected the tag v0.1.0, by the version in pyproject.toml, and found v1.2.3; "
        "run 'uv version 1.2.3', commit it and tag that commit\n"
    )


def test_a_release_needs_locked_versions(release: Workflow) -> None:
    (release.folder / "uv.lock").unlink()

    compared = compare(release)

    assert compared.returncode == 1
    assert compared.outputs == {}
    assert compared.said == (
        "::error::Expected uv.lock, whose versions the image installs, and found none; "
        "run 'uv lock', commit it and tag that commit\n"
    )


def test_both_images_become_one_version_that_is_verified(release: Workflow, registry: Path) -> None:
    digests = {
        architecture: sha256(f"manifest of {IMAGE}:{VERSION}-{architecture}\n".encode())
        for architecture in ("amd64", "arm64")
    }
    for architecture, digest in digests.items():
        pushed = push(release, architecture)
        assert (pushed.returncode, pushed.said) == (0, "")
        assert pushed.outputs == {"digest": digest, architecture: digest}

    joined = join(release)

    index = (registry / "index").read_bytes()
    assert (joined.returncode, joined.outputs) == (0, {"digest": sha256(index)})
    listed = json.loads(index)["manifests"]
    assert listed == [f"{IMAGE}@{digest}" for digest in digests.values()]

    (registry / "calls").unlink()
    verified = release.run("index", "Verify what was signed")

    assert (verified.returncode, verified.said) == (0, "")
    signer = "--signer-workflow Someone/Orders/.github/workflows/release.yml"
    provenance, sbom = "https://slsa.dev/provenance/v1", "https://cyclonedx.org/bom"
    platforms = list(digests.values())
    expected = [(digest, provenance) for digest in (sha256(index), *platforms)]
    expected += [(digest, sbom) for digest in platforms]
    assert calls(registry).splitlines() == [
        f"gh attestation verify oci://{IMAGE}@{digest} --repo Someone/Orders "
        f"--predicate-type {kind} {signer} --source-ref refs/tags/v0.1.0"
        for digest, kind in expected
    ]


def test_an_image_is_built_for_its_platform_and_labelled(release: Workflow, registry: Path) -> None:
    push(release, "arm64")

    build, run, login, *_ = calls(registry).splitlines()
    assert " --platform linux/arm64 " in build
    assert " --label org.opencontainers.image.source=https://github.com/Someone/Orders " in build
    assert " --label org.opencontainers.image.revision=c0ffee " in build
    assert build.endswith(f" --tag {IMAGE}:{VERSION}-arm64 .")
    assert run == f"docker run --rm {IMAGE}:{VERSION}-arm64 --help"
    assert login == "docker login ghcr.io --username someone --password-stdin"
    assert "t0ken" not in calls(registry)


def test_an_image_that_does_not_start_is_not_pushed(release: Workflow, registry: Path) -> None:
    (registry / "broken").touch()

    assert push(release, "amd64").returncode == 1

    assert "docker push" not in calls(registry)


def test_a_refused_push_and_a_missing_digest_fail_the_job(
    release: Workflow, registry: Path
) -> None:
    (registry / "refuses").touch()
    assert push(release, "amd64").returncode == 67

    write_tool(release.tools, "docker", "#!/bin/sh\n[ $1 != inspect ] || echo '[{}]'\n")
    pushed = push(release, "amd64")

    assert pushed.returncode != 0
    assert pushed.outputs == {}


def test_an_image_that_is_missing_makes_no_version(release: Workflow) -> None:
    push(release, "amd64")
    release.values["needs.image.outputs.arm64"] = ""

    joined = join(release)

    assert joined.returncode == 68
    assert joined.outputs == {}


def test_a_signature_that_does_not_verify_fails_the_release(
    release: Workflow, registry: Path
) -> None:
    push(release, "amd64")
    push(release, "arm64")
    join(release)
    (registry / "unsigned").touch()

    assert release.run("index", "Verify what was signed").returncode == 1


def test_its_rights_are_few_and_what_is_signed_is_what_was_pushed(release: Workflow) -> None:
    jobs = release.jobs
    signs = {"packages": "write", "id-token": "write", "attestations": "write"}

    assert {name: job["permissions"] for name, job in jobs.items()} == {
        "check": {"contents": "read"},
        "image": {"contents": "read", **signs},
        "index": signs,
    }
    assert not [script for _, script in release.scripts() if "${{" in script]
    signed = [
        step["with"]
        for job in jobs.values()
        for step in job["steps"]
        if step.get("uses", "").startswith("actions/attest@")
    ]
    name = "${{ needs.check.outputs.image }}"
    assert [(one["subject-name"], one["subject-digest"]) for one in signed] == [
        (name, "${{ steps.push.outputs.digest }}"),
        (name, "${{ steps.push.outputs.digest }}"),
        (name, "${{ steps.join.outputs.digest }}"),
    ]
    assert [one.get("sbom-path") for one in signed] == [None, "sbom.cdx.json", None]
    steps = [step for job in jobs.values() for step in job["steps"]]
    unsigned = [step["name"] for step in steps if step.get("if") == "vars.ATTESTATIONS != 'none'"]
    provenance = "Sign the build provenance"
    assert unsigned == [provenance, "Sign the SBOM", provenance, "Verify what was signed"]


def test_the_documented_commands_set_the_version_that_the_tag_names(
    release: Workflow, tmp_path: Path
) -> None:
    text = (release.folder / "README.md").read_text("utf-8")
    section = text.partition("### Release\n")[2].partition("\n##")[0]
    commands = re.findall(r"^(?:uv|git) .*$", section, re.MULTILINE)

    assert commands == [
        "uv version 1.2.3",
        'git commit --all --message "Release 1.2.3"',
        "git tag v1.2.3",
        "git push origin HEAD v1.2.3",
    ]
    (tmp_path / "copy").mkdir()
    project = (release.folder / "pyproject.toml").read_text("utf-8")
    (tmp_path / "copy" / "pyproject.toml").write_text(project)
    tool("uv", "version", "--frozen", "1.2.3", cwd=tmp_path / "copy")
    (tmp_path / "copy" / "uv.lock").touch()
    release.folder = tmp_path / "copy"
    release.environment = {**release.environment, "GITHUB_REF_NAME": "v1.2.3"}
    assert compare(release).outputs["version"] == "1.2.3"


def test_a_project_without_github_says_nothing_of_releases_there(
    copier: CopierFixture, tmp_path: Path
) -> None:
    project = copier.copy(tmp_path / "project", ci="none").path

    assert not (project / ".github").exists()
    for path in project.rglob("*.md"):
        assert not re.search(r"gh attestation|ghcr\.io|release\.yml", path.read_text("utf-8")), path
