"""The manifests in deploy/kubernetes and compose.yaml: fields, command lines and settings in them are such as exist."""

import subprocess
from pathlib import Path
from typing import Any

import click
import kubernetes_validate
import pytest
import yaml

from ckptfs.cli.application import COMMANDS, application
from ckptfsd.configuration import load_configuration

ROOT = Path(__file__).parents[2]
MANIFESTS = sorted((ROOT / "deploy" / "kubernetes").glob("*.yaml"))
VERSIONS = ["1.29", "1.37"]
"""Of Kubernetes: the first that has native sidecars by default, and the newest known here."""
PROGRAMS = ("ckptfsd", "ckptfs-container")


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def containers(document: dict[str, Any]) -> list[dict[str, Any]]:
    spec = document.get("spec", {})
    spec = spec.get("template", {}).get("spec", spec)
    return [*spec.get("initContainers", []), *spec.get("containers", [])]


def check_command_line(words: list[str]) -> None:
    """Have the command line parse words as the image's entry point passes them on. Raises click.UsageError."""
    if words[0].startswith(("s3://", "file://")):
        words = ["mount", *words]
    if words[0] in PROGRAMS:
        return
    assert words[0] in COMMANDS, words
    command = application.get_command(click.Context(application), words[0])
    assert command is not None
    command.make_context(words[0], words[1:], resilient_parsing=False)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
@pytest.mark.parametrize("version", VERSIONS)
def test_manifests_have_the_fields_that_kubernetes_has(path: Path, version: str) -> None:
    assert documents(path)
    for document in documents(path):
        kubernetes_validate.validate(document, version, strict=True)


def test_a_field_that_kubernetes_does_not_have_is_noticed() -> None:
    document = documents(ROOT / "deploy/kubernetes/sidecar.yaml")[1]
    document["spec"]["initContainers"][0]["mountPropagatoin"] = "Bidirectional"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document, "1.29", strict=True)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_commands_in_manifests_are_such_as_the_program_has(path: Path) -> None:
    for document in documents(path):
        for container in containers(document):
            if not container["image"].startswith("ckptfs:"):
                continue
            kinds = ("startupProbe", "livenessProbe", "readinessProbe")
            probes = [container[probe]["exec"]["command"] for probe in kinds if probe in container]
            stops = [container["lifecycle"]["preStop"]["exec"]["command"]] if "lifecycle" in container else []
            for words in (*probes, *stops):
                check_command_line(words[1:] if words[0] == "ckptfs" else words)
            if "args" in container:
                check_command_line(container["args"])


def test_an_option_that_the_program_does_not_have_is_noticed() -> None:
    with pytest.raises(click.UsageError):
        check_command_line(["mount", "s3://a/b", "/c", "--fuse-sockte", "/d"])


def test_the_daemons_configuration_in_its_config_map_is_valid(tmp_path: Path) -> None:
    config_map = documents(ROOT / "deploy/kubernetes/daemonset.yaml")[0]
    (tmp_path / "ckptfs.toml").write_text(config_map["data"]["ckptfs.toml"])
    assert list(load_configuration(tmp_path / "ckptfs.toml").mounts) == ["base"]


def test_the_composition_builds_what_the_dockerfile_has_and_runs_what_the_program_has() -> None:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    targets = [line.split()[-1] for line in (ROOT / "Dockerfile").read_text().splitlines() if line.startswith("FROM ")]
    assert {service["build"]["target"] for service in services.values()} <= set(targets)
    check_command_line(services["ckptfs"]["command"])
    assert {source for service in services.values() for source in service.get("depends_on", {})} <= set(services)


def entry_point(*words: str, first_process: Path = Path("/proc/1/cmdline")) -> list[str]:
    """Return what the image's entry point would run, by having it run `echo` in place of each program."""
    script = (ROOT / "deploy/container/entrypoint").read_text().replace('exec "$@"', 'echo "$*"')
    script = script.replace("exec timeout", "exec echo timeout").replace("/proc/1/cmdline", str(first_process))
    done = subprocess.run(
        ["sh", "-s", "--", *words],
        input=script,
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
        env={"PATH": "/usr/bin:/bin"},
    )
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "runs"),
    [
        (["s3://b/p", "/mnt", "--allow-other"], "ckptfs mount --foreground s3://b/p /mnt --allow-other"),
        (["mount", "s3://b/p", "/mnt"], "ckptfs mount --foreground s3://b/p /mnt"),
        (["watch", "file:///s", "/ckpt"], "ckptfs watch --foreground file:///s /ckpt"),
        (["log", "s3://b/p"], "ckptfs log s3://b/p"),
        (["ckptfsd", "--config", "/c"], "ckptfsd --config /c"),
        (["ckptfs", "doctor"], "ckptfs doctor"),
        (["--help"], "ckptfs --help"),
    ],
)
def test_the_image_runs_commands_in_the_foreground(words: list[str], runs: str) -> None:
    assert entry_point(*words) == runs.split()


@pytest.mark.parametrize(
    ("words", "is_asked"),
    [
        (["s3://b/p", "/mnt"], True),
        (["watch", "s3://b/p", "/ckpt"], True),
        (["ckptfs", "mount", "--foreground", "s3://b/p", "/mnt"], True),
        (["ckptfsd", "--config", "/c"], True),
        (["lend", "/mounts"], False),
        (["ckptfs", "log", "s3://b/p"], False),
        (["sh"], False),
    ],
)
def test_the_health_of_a_container_is_that_of_its_mounts_where_it_makes_any(
    words: list[str], is_asked: bool, tmp_path: Path
) -> None:
    first = tmp_path / "cmdline"
    first.write_text("\0".join(["tini", "--", "/usr/local/bin/ckptfs-container", *words, ""]))
    assert entry_point("health", first_process=first)[-3:] == (["ckptfs", "status", "--check"] if is_asked else [])


def test_the_watch_for_interruptions_says_that_it_lacks_curl(tmp_path: Path) -> None:
    script = ROOT / "systemd/ckptfs-preempt"
    done = subprocess.run(
        ["/bin/sh", script], capture_output=True, text=True, check=False, timeout=30, env={"PATH": str(tmp_path)}
    )
    assert (done.returncode, done.stderr) == (1, "ckptfs-preempt: curl is not installed\n")
