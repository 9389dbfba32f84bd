"""Flag, then environment, then settings file, then default."""

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from ckptfs.cli import settings
from ckptfs.cli.failures import describe
from ckptfs.cli.parameters import Command, Invocation, duration, setting, size
from ckptfs.errors import InvalidInputError


@click.command("mount", cls=Command)
@setting("--drain-timeout", type=duration)
@setting("--max-pending-bytes", type=size)
@setting("--allow-other", is_flag=True)
@setting("--cache-dir", type=click.Path(path_type=Path))
def mount(**values: Any) -> Any:
    return values


@click.command("doctor", cls=Command)
@setting("--cache-dir", type=click.Path(path_type=Path))
def doctor(**values: Any) -> Any:
    return values


program = click.Group("ckptfs", commands={"mount": mount, "doctor": doctor})


@pytest.fixture(autouse=True)
def no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(settings, "_SYSTEM_FILE", tmp_path / "system.toml")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("CKPTFS_CONFIG", raising=False)


def values(*arguments: str) -> dict[str, Any]:
    result = CliRunner().invoke(program, arguments, obj=Invocation(), standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    assert isinstance(result.return_value, dict)
    return result.return_value


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_flag_wins_over_the_environment_and_that_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "c.toml", '[mount]\ndrain-timeout = "1m"\nmax-pending-bytes = "1K"\nallow_other = true\n')
    monkeypatch.setenv("CKPTFS_MAX_PENDING_BYTES", "2K")
    monkeypatch.setenv("CKPTFS_DRAIN_TIMEOUT", "2m")
    found = values("mount", "--config", str(path), "--drain-timeout", "3m")
    assert found == {"drain_timeout": 180.0, "max_pending_bytes": 2048, "allow_other": True, "cache_dir": None}


def test_the_users_file_wins_over_the_systems(tmp_path: Path) -> None:
    write(tmp_path / "system.toml", '[mount]\ndrain-timeout = 60\ncache-dir = "/a"\n')
    write(tmp_path / "home" / "ckptfs" / "ckptfs.toml", '[mount]\ncache-dir = "/b"\n')
    found = values("mount")
    assert (found["drain_timeout"], found["cache_dir"]) == (60.0, Path("/b"))


def test_a_named_file_is_the_only_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "system.toml", "[mount]\nallow-other = true\n")
    monkeypatch.setenv("CKPTFS_CONFIG", str(write(tmp_path / "c.toml", "[mount]\ndrain-timeout = 1.5\n")))
    found = values("mount")
    assert (found["drain_timeout"], found["allow_other"]) == (1.5, False)


def test_the_cache_directory_of_mount_serves_other_commands(tmp_path: Path) -> None:
    path = write(tmp_path / "c.toml", '[mount]\ncache-dir = "/a"\nallow-other = true\n')
    assert values("doctor", "--config", str(path)) == {"cache_dir": Path("/a")}


def test_tables_of_the_daemon_are_left_to_it(tmp_path: Path) -> None:
    text = '[daemon]\nwatch = false\n[defaults]\ncache-dir = "/b"\n[mounts.llama]\nstore = "s3://b/c"\n'
    path = write(tmp_path / "c.toml", '[mount]\ncache-dir = "/a"\n' + text)
    assert values("doctor", "--config", str(path)) == {"cache_dir": Path("/a")}


@pytest.mark.parametrize(
    ("text", "fact", "hint"),
    [
        ("[mount]\ndrain-timeuot = 1\n", "mount has no setting 'drain-timeuot'", "'drain-timeout'"),
        ("[mount]\ndrain-timeout = true\n", "mount.drain-timeout is True", None),
        ('[mount]\nallow-other = "yes"\n', "mount.allow-other is 'yes', and should be true or false", None),
        ('[mount]\nmax-pending-bytes = "much"\n', "'much' is not a size", None),
        ("[mount]\nmax-pending-bytes = [1]\n", "mount.max-pending-bytes is [1]", None),
        ("[moutn]\n", "'moutn' is not a table named after a command", "'mount'"),
        ("drain-timeout = 1\n", "'drain-timeout' is not a table named after a command", "known: doctor, mount"),
        ("[mount\n", "is not TOML", None),
    ],
)
def test_a_wrong_file_is_an_error_that_names_it_and_what_is_wrong(
    tmp_path: Path, text: str, fact: str, hint: str | None
) -> None:
    path = write(tmp_path / "c.toml", text)
    with pytest.raises(InvalidInputError) as caught:
        values("mount", "--config", str(path))
    said_fact, said_hint = describe(caught.value)
    assert str(path) in said_fact
    assert fact in said_fact
    assert hint is None or hint in str(said_hint)


def test_a_named_file_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"cannot read the settings file .*No such file"):
        values("mount", "--config", str(tmp_path / "none.toml"))
