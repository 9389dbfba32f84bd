"""What users are promised of commands and mounts, as a stranger would try it."""

import errno
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ckptfs.cache.pending import list_pending
from ckptfs.cli import progress
from ckptfs.cli.application import COMMANDS, run
from tests.cli.scene import StoreWithVersions, ckptfs
from tests.mounting import Mounts, touch

PROMISED = {
    "mount", "umount", "save", "status", "log", "show", "diff", "restore", "tag", "prune", "verify", "recover",
    "doctor",
}  # fmt: skip
MOUNT_OPTIONS = {
    "--foreground", "--read-only", "--follow", "--version", "--cache-dir", "--cache-size", "--transport",
    "--allow-other", "--takeover", "--save-on-exit", "--drain-timeout", "--max-pending-bytes",
}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_documents_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert set(COMMANDS) >= PROMISED
    assert run([command, "--help"]) == 0
    said = capsys.readouterr().out
    usage, _, text = said.partition("\n\n")
    assert usage.startswith(f"Usage: ckptfs {command} ")
    assert text[:2] == "  "
    assert len(text.split("Options:")[0].split()) > 5
    if command == "mount":
        assert {option for option in MOUNT_OPTIONS if f"{option} " in said or f"{option}\n" in said} == MOUNT_OPTIONS
        assert "CKPTFS_CACHE_DIR" in said
    assert run([command, "-h"]) == 0
    assert capsys.readouterr().out == said


@pytest.mark.fuse
def test_all_that_lists_prints_one_json_document_with_what_was_promised(
    mount: Mounts, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(command: str, *arguments: str) -> Any:
        # in this process, for each of its own takes half a second to start
        assert run([command, *arguments, "--json"]) == 0, command
        return json.loads(capsys.readouterr().out)

    mounted = mount()
    (mounted.root / "model.bin").write_bytes(b"first")
    mounted.save("step=1")
    (mounted.root / "model.bin").write_bytes(b"second")
    assert ckptfs("save", mounted.root, "--wait", "-m", '{"step": 2}').code == 0
    assert ckptfs("tag", mounted.root, "1", "best").code == 0
    version = {"version", "time", "host", "files", "bytes", "bytes_added", "note", "tags"}
    saved = {"version", "state", "note", "error", "files", "bytes", "bytes_uploaded"}
    forms: list[tuple[list[str], type, set[str]]] = [
        (["log"], list, version),
        (["show", "1"], dict, version | {"entries"}),
        (["diff", "1", "2"], dict, {"added", "removed", "changed"}),
        (["tag"], dict, {"best"}),
        (["verify"], dict, {"ok", "findings"}),
        (["recover"], list, set()),
        (["doctor"], list, {"check", "result", "fact", "hint"}),
        (["status"], dict, {"store", "mountpoint", "transport", "version", "pending", "error"}),
        (["save"], dict, saved),
        (["prune", "--keep-last", "1", "--dry-run"], dict, set()),
    ]
    for (command, *arguments), kind, keys in forms:
        document = said(command, str(mounted.root), *arguments)
        assert type(document) is kind, command
        assert keys <= set(document[0] if kind is list and document else document), command
    assert str(mounted.root) in [each["mountpoint"] for each in said("status")]
    mounted.sync()
    assert [each["note"] for each in said("log", str(mounted.root))] == [None, {"step": 2}, {"step": 1}]
    assert saved <= set(json.loads((mounted.root / ".save").read_bytes()))


@pytest.mark.fuse
def test_old_versions_are_read_only_and_the_marker_is_no_file(mount: Mounts) -> None:
    mounted = mount()
    (mounted.root / "model.bin").write_bytes(b"first")
    mounted.save()
    mounted.sync()
    old = mounted.root / ".versions" / "1"
    refused: list[tuple[Callable[[], object], set[int]]] = [
        (lambda: (old / "model.bin").write_bytes(b"x"), {errno.EROFS}),
        (lambda: (old / "new").mkdir(), {errno.EROFS}),
        (lambda: (old / "model.bin").unlink(), {errno.EROFS}),
        (lambda: (old / "model.bin").rename(mounted.root / "moved"), {errno.EROFS, errno.EXDEV}),
        (lambda: (mounted.root / ".versions" / "latest").unlink(), {errno.EROFS}),
        (lambda: os.listdir(mounted.root / ".versions" / "99"), {errno.ENOENT}),
        (lambda: os.listdir(mounted.root / ".versions" / "01"), {errno.ENOENT}),
        (lambda: (mounted.root / ".save").mkdir(), {errno.EEXIST}),
        (lambda: (mounted.root / ".save").rename(mounted.root / "kept"), {errno.EPERM}),
        (lambda: os.link(mounted.root / ".save", mounted.root / "kept"), {errno.EPERM}),
        (lambda: (mounted.root / ".status").unlink(), {errno.EPERM}),
        (lambda: (mounted.root / ".versions").rmdir(), {errno.EPERM}),
    ]
    for number, (action, expected) in enumerate(refused):
        with pytest.raises(OSError) as caught:
            action()
        assert caught.value.errno in expected, number
    (mounted.root / ".save").unlink()
    assert os.listdir(mounted.root) == ["model.bin"]
    assert mounted.marker()["version"] == 1


@pytest.mark.fuse
def test_capturing_looks_at_what_changed_and_not_at_what_is_there(mount: Mounts) -> None:
    mounted = mount()
    for number in range(300):
        (mounted.root / f"{number}").write_bytes(b"a file")
    mounted.save()
    mounted.sync()
    pid = mounted.upload_pid()
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        (mounted.root / "7").write_bytes(b"changed")
        mounted.save()
        (pending,) = list_pending(mounted.cache / "pending")
        assert [entry.path for entry in pending.part().entries] == [b"7"]
        assert pending.header.files == 300
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.fuse
def test_a_mount_shows_an_old_version_and_saves_on_exit_if_asked(mount: Mounts) -> None:
    mounted = mount(save_on_exit=True)
    (mounted.root / "model.bin").write_bytes(b"first")
    touch(mounted.root)
    (mounted.root / "model.bin").write_bytes(b"second")
    assert ckptfs("umount", mounted.root).code == 0
    mounted.wait()
    mount(save_on_exit=True).unmount()  # nothing changed
    assert [each["version"] for each in ckptfs("log", mount.file_store, "--json").json] == [2, 1]
    old = mount(version="1", name="old", cache="cache-2")
    assert (old.root / "model.bin").read_bytes() == b"first"
    assert old.marker()["version"] == 1
    with pytest.raises(OSError) as caught:
        touch(old.root)
    assert caught.value.errno == errno.EROFS


def test_long_work_shows_a_bar_on_a_terminal_and_lines_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "_LINE_EVERY_S", 0.0)
    with progress.progress("restoring") as report:
        report(1 << 20, 4 << 20)
    assert capsys.readouterr().err == "restoring: 1.00 MiB of 4.00 MiB\n"
    store = StoreWithVersions(tmp_path)
    store.save({"model.bin": bytes(1000)})
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "ckptfs", "restore", store.url, tmp_path / "out"]
    done = subprocess.run(command, stderr=theirs, stdout=subprocess.PIPE, text=True, timeout=60, check=True)
    os.close(theirs)
    shown = os.read(ours, 1 << 16)
    os.close(ours)
    assert b"restoring" in shown
    assert b"\x1b[" in shown
    assert done.stdout.startswith("restored version 1")
