"""What the daemon answers, and the commands that ask it."""

import base64
import json
import os
import re
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.cli.scene import Run, assert_failed, ckptfs
from tests.daemon.running import RunningDaemon
from tests.mounting import check_apart, children, command_line

pytestmark = [pytest.mark.fuse]
ROOT = Path(__file__).parents[2]
TOKEN = "a token of enough characters"


@pytest.fixture(scope="module")
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, port: int) -> Iterator[RunningDaemon]:
    directory = tmp_path_factory.mktemp("api")
    token = directory / "token"
    token.write_text(TOKEN + "\n")
    token.chmod(0o600)
    lines = f'listen = "127.0.0.1:{port}"\ntoken-file = "{token}"'
    running = RunningDaemon(directory / "d", 280.0, daemon=lines)
    try:
        running.describe("llama")
        yield running.start()
    finally:
        running.close()


def run(daemon: RunningDaemon, *arguments: str | Path) -> Run:
    return ckptfs(*arguments, env={"CKPTFS_DAEMON_SOCKET": str(daemon.runtime / "ckptfsd.sock")})


def test_metrics_tell_of_saves_uploads_and_the_lease(daemon: RunningDaemon) -> None:
    place = daemon.place("llama")
    (place / "zeros").write_bytes(b"weights " * 100_000)
    assert daemon.ask("POST", "/v1/mounts/llama/save", {"note": {"step": 1}, "wait": True})[0] == 200
    daemon.wait(lambda: metrics(daemon)["ckptfs_durable_versions_total"] == 1, "the mount has been asked again")
    found = metrics(daemon)
    assert found["ckptfs_up"] == found["ckptfs_saves_total"] == 1
    assert found["ckptfs_saved_bytes_total"] == found["ckptfs_changed_bytes_total"] == 800_000
    assert found["ckptfs_new_bytes_total"] == 800_000
    assert 0 < found["ckptfs_uploaded_bytes_total"] < 80_000
    assert found["ckptfs_compression_ratio"] > 10
    assert found["ckptfs_capture_seconds_total"] >= found["ckptfs_stall_seconds_total"] > 0
    assert found["ckptfs_pending_bytes"] == found["ckptfs_pending_age_seconds"] == 0
    assert found["ckptfs_lease_state{state=held}"] == 1
    assert found["ckptfs_lease_renewed_seconds_ago"] < 30
    assert found["ckptfs_errors_total{kind=store}"] == 0


def test_one_touch_is_counted_as_one_save_however_often_it_captures(daemon: RunningDaemon) -> None:
    before = metrics(daemon)
    # the shell closes a duplicate before it writes: captured then, and again with the text
    script = "echo changed >model; echo step=2 >.save; sync .save"
    subprocess.run(["bash", "-c", script], cwd=daemon.place("llama"), check=True, timeout=60)
    captured = [line["message"].split()[:3] for line in daemon.lines("captured")]
    assert captured[-1] == ["captured", "version=2", "captures=2"]
    daemon.wait(lambda: metrics(daemon)["ckptfs_durable_versions_total"] == 2, "the mount has been asked again")
    grown = {name: value - before[name] for name, value in metrics(daemon).items()}
    assert grown["ckptfs_saves_total"] == 1
    assert grown["ckptfs_changed_bytes_total"] == len("changed\n")
    assert grown["ckptfs_captured_bytes_total"] == 800_000 + len("changed\n")


def test_every_metric_is_documented_and_every_documented_one_is_there(daemon: RunningDaemon) -> None:
    _, _, section = (ROOT / "docs/DAEMON.md").read_text().partition("### Metrics")
    documented = set(re.findall(r"`(ckptfsd?_[a-z_]+)", section.partition("## Logs")[0]))
    assert {name.partition("{")[0] for name in metrics(daemon)} == documented


def metrics(daemon: RunningDaemon) -> dict[str, float]:
    """Return the samples of the one mount, with the label that is not its name."""
    status, text = daemon.ask("GET", "/metrics")
    assert status == 200
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            others = ",".join(f"{key}={value}" for key, value in sample.labels.items() if key != "mount")
            found[sample.name + (f"{{{others}}}" if others else "")] = sample.value
    return found


def test_errors_are_counted_by_their_kind(daemon: RunningDaemon) -> None:
    _, server = daemon.pids("llama")
    (upload,) = [pid for pid in children(server) if b"ckptfs.transfer.process" in command_line(pid)]
    os.kill(upload, signal.SIGKILL)
    daemon.wait(lambda: metrics(daemon).get("ckptfs_errors_total{kind=upload_process}") == 1, "the death is counted")


def test_a_note_that_is_too_long_is_refused(daemon: RunningDaemon) -> None:
    before = daemon.status_of("llama")["version"]
    status, answer = daemon.ask("POST", "/v1/mounts/llama/save", {"note": "x" * (100 << 10)})
    assert (status, answer["error"]) == (500, "the note has 102400 bytes")
    assert daemon.status_of("llama")["version"] == before


def test_the_port_asks_for_the_token_and_the_socket_does_not(daemon: RunningDaemon, port: int) -> None:
    url = f"http://127.0.0.1:{port}/v1/mounts"
    for given in (None, "Bearer wrong", "Basic ???", "Basic " + base64.b64encode(b"x:wrong").decode()):
        request = urllib.request.Request(url, headers={"Authorization": given} if given else {})
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, timeout=30)
        assert caught.value.code == 401
        caught.value.close()
    for given in (f"Bearer {TOKEN}", "Basic " + base64.b64encode(f"x:{TOKEN}".encode()).decode()):
        request = urllib.request.Request(url, headers={"Authorization": given})
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert json.load(answer)["mounts"][0]["name"] == "llama"
    assert (daemon.runtime / "ckptfsd.sock").stat().st_mode & 0o777 == 0o600


def test_what_changes_something_is_not_for_forms_of_web_pages(daemon: RunningDaemon, port: int) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "text/plain"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/save", b"{}", headers)
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=30)
    assert caught.value.code == 415
    caught.value.close()


def test_the_page_shows_every_mount_and_runs_no_script(daemon: RunningDaemon) -> None:
    status, page = daemon.ask("GET", "/")
    assert status == 200
    assert str(daemon.place("llama")) in page
    assert "<script" not in page


def test_unknown_mounts_and_bad_bodies_are_said(daemon: RunningDaemon) -> None:
    assert daemon.ask("GET", "/v1/mounts/none") == (
        404, {"error": f"there is no mount 'none' in {daemon.config}", "hint": "`ckptfs status` lists the mounts"},
    )  # fmt: skip
    assert daemon.ask("POST", "/v1/mounts/llama/save", ["x"])[0] == 400
    assert daemon.ask("GET", "/nothing")[0] == 404


@pytest.mark.parametrize(
    ("body", "fact"),
    [
        (b'{"wiat": true}', "nothing here is called 'wiat'"),
        (b'{"wait": "yes"}', "wait is neither true nor false"),
        (b'{"note": "a\\u0000b"}', "the note has characters that are no text: "),
        (b'{"note": "half \\ud800"}', "the note has characters that are no text: "),
        (b"[" * 100_000, "the body is not JSON: "),
        (b"\xff", "the body is not JSON: "),
    ],
)
def test_what_is_no_request_to_save_is_refused_and_nothing_is_saved(
    daemon: RunningDaemon, body: bytes, fact: str
) -> None:
    before = daemon.status_of("llama")["version"]
    status, answer = daemon.send("POST", "/v1/mounts/llama/save", body, {})
    assert (status, answer["error"][: len(fact)]) == (400, fact)
    assert daemon.status_of("llama")["version"] == before


def test_a_body_that_is_not_compressed_as_it_says_is_refused(daemon: RunningDaemon) -> None:
    status, answer = daemon.send("POST", "/v1/save", b"{}", {"Content-Encoding": "gzip"})
    assert (status, answer["error"].partition(":")[0]) == (400, "the body is not JSON")


def test_commands_ask_the_daemon_of_its_mounts(daemon: RunningDaemon) -> None:
    place = daemon.place("llama")
    saved = run(daemon, "save", place, "--note", "from a shell", "--wait", "--json").json
    assert (saved["note"], saved["state"]) == ("from a shell", "durable")
    assert run(daemon, "status", place, "--json").json["daemon"]["state"] == "mounted"

    assert run(daemon, "umount", place).out == f"unmounted {place}\n"
    (here,) = [row for row in run(daemon, "status", "--json").json if row["mountpoint"] == str(place)]
    assert here["daemon"]["state"] == "unmounted"
    assert daemon.ask("GET", "/healthz")[0] == 200, "it is as it is wanted"
    assert_failed(run(daemon, "save", place), "'llama' is not mounted: down")

    assert run(daemon, "status", place, "--check").code == 1
    assert daemon.ask("POST", "/v1/mounts/llama/start")[1]["state"] == "mounted"
    daemon.wait_mounted("llama")
    assert run(daemon, "status", place, "--check").code == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a mount namespace")
def test_a_check_is_content_with_a_daemon_that_answers_while_its_mounts_cannot_be_made(daemon: RunningDaemon) -> None:
    daemon.describe("away", make=False)
    daemon.wait(lambda: daemon.ask("GET", "/v1/mounts/away")[1].get("state") == "waiting", "it could not be mounted")
    assert check_apart(CKPTFS_DAEMON_SOCKET=os.fspath(daemon.runtime / "ckptfsd.sock")) == 0
    assert check_apart(CKPTFS_DAEMON_SOCKET=os.fspath(daemon.runtime / "nobody.sock")) == 1
    daemon.file_of("away").unlink()
    daemon.wait(lambda: daemon.ask("GET", "/healthz")[0] == 200, "it is gone")
