"""`@checkpoint` in flows that really run: `make test-frameworks`."""

import base64
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from ckptfs.mount_table import mounts

pytestmark = pytest.mark.timeout(900)

FLOWS = Path(__file__).with_name("flows")
ROOT = Path(__file__).parents[2]

Runner = Callable[..., str]


@pytest.fixture
def flow(tmp_path: Path) -> Iterator[Runner]:
    """Runs a flow in a directory of its own; returns what it printed."""
    shutil.copytree(FLOWS, tmp_path / "flows")

    def run(name: str, *arguments: str, code: int | None = 0, through: Sequence[str] = (), **environment: str) -> str:
        own = {
            # Metaflow starts the other ranks as `python`
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "METAFLOW_USER": "ann",
            "METAFLOW_HOME": str(tmp_path / "home"),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "ignore",
            "CKPTFS_METAFLOW_DIR": str(tmp_path / "mounts"),
            # what is left of a flow whose store is away is unmounted in the end
            "CKPTFS_DRAIN_TIMEOUT": "10s",
            "OWN": str(tmp_path),
        }
        done = subprocess.run(
            [*through, sys.executable, f"{name}.py", *arguments],
            cwd=tmp_path / "flows",
            env=os.environ | own | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=800,
            check=False,
        )
        assert code is None or done.returncode == code, done.stdout[-6000:]
        # 2026-11-26 12:12:24.258 [1795695122132439/count/2 (pid 6349)] what the task printed
        return re.sub(r"^[\d-]+ [\d:.]+ (\[[^]]*\] )?", "", done.stdout, flags=re.MULTILINE)

    try:
        yield run
    finally:
        for mount in mounts():
            if mount.mountpoint.is_relative_to(tmp_path):
                subprocess.run([sys.executable, "-m", "ckptfs", "umount", mount.mountpoint], check=False, timeout=60)


def _lines(output: str, word: str) -> list[str]:
    return sorted(line for line in output.splitlines() if line.startswith(f"{word} "))


def test_the_flow_of_the_document_is_interrupted_by_its_timeout_and_reaches_all_rounds(
    flow: Runner, tmp_path: Path
) -> None:
    # half a minute of training; where the machine is too slow for the four attempts of 15 s, the run is resumed
    output = flow("xgboostflow", "run", "--rounds", "6000", code=None)
    for _ in range(10):
        if "\nDone!" in output:
            break
        # without its number, Metaflow resumes the run that was no resumed one
        output += flow("xgboostflow", "resume", "--origin-run-id", _runs(tmp_path, "CheckpointXGBoost")[-1], code=None)
    assert "Step train timed out" in output
    begun = [int(rounds) for rounds in re.findall(r"Checkpoint was trained for (\d+) rounds", output)]
    assert begun
    assert begun == sorted(begun)
    assert output.count("Training completed!") == 1
    assert "\nDone!" in output


@pytest.mark.parametrize("watch", ["", "1"], ids=["mounted", "watched"])
def test_attempts_go_on_and_the_tasks_of_a_foreach_never_mix(flow: Runner, tmp_path: Path, watch: str) -> None:
    output = flow("scopes", "run", "--fails", "1", CKPTFS_METAFLOW_WATCH=watch)
    assert _lines(output, "began") == [
        "began a 0 False  0",
        "began a 1 True aaa 3",
        "began b 0 False  0",
        "began b 1 True bbb 3",
    ]
    names = '["child", "best", "count-6", "count-5", "count-4", "best", "count-3", "count-2", "count-1"]'
    assert _lines(output, "ended") == [f"ended a aaaaaa 6 {names}", f"ended b bbbbbb 6 {names}"]
    # nothing is left on the machine
    assert list((tmp_path / "mounts").iterdir()) == []
    flow("scopes", "card", "get", _last_task(tmp_path, "count"), str(tmp_path / "card.html"), "--id", "checkpoints")
    parts = {part["type"]: part for part in _parts_of_card(tmp_path / "card.html")}
    assert re.search(r"This attempt began with `file://\S+@3`, saved at 20", parts["markdown"]["source"])
    saved = [(version, 0 if version <= 4 else 1) for version in range(9, 0, -1)]
    points = parts["vegaChart"]["spec"]["data"]["values"]
    assert [(point["version"], int(point["attempt"])) for point in points] == saved
    assert points[2]["metadata"] == "count=6"
    rows = parts["table"]["data"]
    assert [(version, attempt) for version, attempt, *_ in rows] == saved
    assert [name for *_, name, _ in rows][:3] == ["child", "best", "count-6"]


@pytest.mark.skipif(os.geteuid() != 0, reason="gives up a capability that only root has")
def test_where_there_is_dev_fuse_and_nobody_may_mount_the_directory_is_watched(flow: Runner) -> None:
    output = flow("bare", "run", "--with", "checkpoint", through=("setpriv", "--bounding-set=-sys_admin"))
    assert len(re.findall(r"could not mount on .*: the directory is watched instead", output)) == 2
    assert "\nDone!" in output


def test_an_attempt_that_was_killed_is_gone_on_from_its_newest_version(flow: Runner) -> None:
    output = flow("scopes", "run", "--fails", "1", "--dies", "1")
    assert [line for line in _lines(output, "began") if " 1 " in line] == [
        "began a 1 True aaa 3",
        "began b 1 True bbb 3",
    ]


def test_a_resumed_run_goes_on_from_the_run_before_and_that_from_the_one_before_it(
    flow: Runner, tmp_path: Path
) -> None:
    flow("scopes", "run", "--fails", "5", code=1)
    between = flow("scopes", "resume", code=1, EARLY="1")
    last = flow("scopes", "resume", "--origin-run-id", _runs(tmp_path, "Scopes")[-1], code=1)
    for output in (between, last):
        assert _lines(output, "began")[0] == "began a 0 True aaaaaa 6"
        assert _lines(output, "began")[2] == "began b 0 True bbbbbb 6"


def test_the_policy_says_what_a_new_run_begins_with_and_users_never_mix(flow: Runner) -> None:
    assert _lines(flow("scopes", "run"), "began") == ["began a 0 False  0", "began b 0 False  0"]
    assert _lines(flow("scopes", "run"), "began") == ["began a 0 False  0", "began b 0 False  0"]
    eager = _lines(flow("scopes", "run", POLICY="eager"), "began")
    assert eager == ["began a 0 True aaa 3", "began b 0 True bbb 3"]
    other = _lines(flow("scopes", "run", POLICY="eager", METAFLOW_USER="bob"), "began")
    assert other == ["began a 0 False  0", "began b 0 False  0"]


def test_with_none_no_attempt_begins_with_anything(flow: Runner) -> None:
    output = flow("scopes", "run", "--fails", "1", POLICY="none")
    assert [line for line in _lines(output, "began") if " 1 " in line] == ["began a 1 False  0", "began b 1 False  0"]


def test_an_attribute_that_cannot_be_is_named_before_anything_runs(flow: Runner) -> None:
    for given in ("load_policy=some", "drain_timeout=soon", "drain_timeout=-1"):
        output = flow("bare", "run", "--with", f"checkpoint:{given}", code=1)
        assert re.search(rf"{given.partition('=')[0]} is .*expected", output)
        assert "Workflow starting" not in output


def test_what_metaflow_checkpoint_offers_is_here_by_the_same_names_and_places(flow: Runner, tmp_path: Path) -> None:
    flow("surface", "run")
    output = flow("surface", "run")
    # the version of an attempt in which a shell has touched the marker
    assert _lines(output, "began") == ["began trained {'step': 7} mfchckpt None"]
    assert _lines(output, "saved") == ["saved {'loss': nan} False 8 files"]
    own = ["{'loss': nan}", "{'step': 7}"]
    # then those of the run before, whose threads have saved what lies elsewhere
    (listed,) = re.findall(r"^listed \[(.*)\]$", output, re.MULTILINE)
    shown = re.findall(r"{[^}]*}", listed)
    assert (shown[:2], shown[-2:]) == (own, own)
    assert sorted(shown[2:-2]) == [f"{{'who': '{number} {when}'}}" for number in range(4) for when in ("first", "then")]
    # not even that of a step that stays in its directory
    assert list((tmp_path / "mounts").iterdir()) == []


@pytest.mark.parametrize("notices", ["", "1"], ids=["unnoticed", "noticed"])
def test_a_mount_whose_store_another_machine_has_taken_over_is_not_gone_on_with(flow: Runner, notices: str) -> None:
    output = flow("overtaken", "run", NOTICES=notices)
    assert _lines(output, "began") == ["began 0 None", "began 1 elsewhere"]


def test_ranks_have_stores_of_their_own_and_go_on_from_the_first_ones_where_they_saved_nothing(flow: Runner) -> None:
    began = _lines(flow("ranks", "run"), "began")
    # the other rank's first attempt is ended by that of the first one, early or late
    assert [line for line in began if not line.startswith("began 1 0")] == [
        "began 0 0 None",
        "began 0 1 of rank 0",
        "began 1 1 of rank 0",
    ]


def test_outside_of_flows_the_versions_of_a_task_are_listed_and_loaded(flow: Runner, tmp_path: Path) -> None:
    flow("scopes", "run")
    program = f"""
from pathlib import Path
from ckptfs.metaflow import Checkpoint
found = Checkpoint().list(task={_last_task(tmp_path, "count", of="Scopes/")!r}, name="count-3")
with Checkpoint() as checkpoint:
    checkpoint.load(found[0])
    print("loaded", len(found), (Path(checkpoint.directory) / "count.json").read_text())
Checkpoint().load(found[0]["key"], path="loaded here")
print("loaded", (Path("loaded here") / "count.json").exists())
try:
    Checkpoint().save()
except Exception as error:
    print(error)
"""
    (tmp_path / "flows" / "outside.py").write_text(program)
    output = flow("outside")
    assert re.search(r'^loaded 1 \{"letters": "(aaa|bbb)", "count": 3\}$', output, re.MULTILINE)
    assert "loaded True" in output
    assert "no step with @checkpoint has started this program" in output


def test_a_finished_step_is_not_run_again_because_its_store_is_away(flow: Runner, tmp_path: Path) -> None:
    output = flow("away", "run", STORE=f"file://{tmp_path}/store")
    assert len(_lines(output, "stepped")) == 1
    assert "[@checkpoint]" in output
    assert "what is not durable is kept in" in output
    assert "\nDone!" in output


def test_the_alarm_of_a_time_limit_does_not_cut_the_waiting_of_a_step_that_failed(flow: Runner, tmp_path: Path) -> None:
    output = flow("away", "run", code=1, STORE=f"file://{tmp_path}/store", FAILS="1")
    assert "is not durable after 1 s" in output


def test_what_an_interrupted_run_left_is_taken_away_an_hour_later(flow: Runner, tmp_path: Path) -> None:
    for _ in range(2):
        flow("scopes", "run", "--max-workers", "1", code=-9, DIES_WITH_RUN="1")
    left = sorted((tmp_path / "mounts").iterdir())
    assert len(left) == 2
    assert all((directory / "mnt" / ".status").exists() for directory in left)
    # both began long ago, and one lives still
    for directory in left:
        os.utime(directory / "task.lock", (0, 0))
    with (left[0] / "task.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        flow("scopes", "run")
        deadline_s = time.monotonic() + 60
        while sorted((tmp_path / "mounts").iterdir()) != left[:1] and time.monotonic() < deadline_s:
            time.sleep(0.1)
        assert sorted((tmp_path / "mounts").iterdir()) == left[:1]
        assert (left[0] / "mnt" / ".status").exists()


def test_a_step_keeps_its_own_card_and_saves_no_directory_that_holds_the_mount(flow: Runner, tmp_path: Path) -> None:
    output = flow("odd", "run")
    assert _lines(output, "saved") == ["saved 1 1"]
    refused = _lines(output, "refused")
    assert [" holds " in line for line in refused] == [False, False, True, True]
    assert ["does not exist" in line for line in refused] == [True, True, False, False]
    assert _lines(output, "loaded") == ["loaded ['model']"]
    # and the step's own card keeps what is appended without an id
    assert "[@card WARNING]" not in output
    flow("odd", "card", "get", _last_task(tmp_path, "start", flow="Odd"), str(tmp_path / "card.html"), "--id", "own")
    assert [part["source"].strip() for part in _parts_of_card(tmp_path / "card.html")] == ["what the step appended"]


def test_the_extension_gives_metaflow_its_checkpoint(flow: Runner, tmp_path: Path) -> None:
    text = (FLOWS / "scopes.py").read_text().replace("from ckptfs.metaflow import checkpoint\n", "")
    text = text.replace("current, retry, step", "checkpoint, current, retry, step").replace(
        "from ckptfs.metaflow import Checkpoint", "from metaflow import Checkpoint"
    )
    (tmp_path / "flows" / "extended.py").write_text(text)
    output = flow("extended", "run", "--fails", "1")
    assert "began a 1 True aaa 3" in output


def _parts_of_card(page: Path) -> list[dict[str, Any]]:
    """Return what a card shows, in order; a page of Metaflow's holds it as JSON in base64."""
    found = re.search(r'__MF_DATA__\[[^]]*\] *= *"([A-Za-z0-9+/=]+)"', page.read_text())
    assert found is not None
    (whole,) = json.loads(base64.b64decode(found[1]))["components"]
    return [part for section in whole["contents"] for part in section["contents"]]


def _runs(directory: Path, name: str) -> list[str]:
    """Return the runs of a flow, the newest last."""
    return sorted(path.name for path in (directory / "flows" / ".metaflow" / name).glob("[0-9]*"))


def _last_task(directory: Path, step: str, of: str = "", flow: str = "Scopes") -> str:
    """Return run/step/task of the newest task of a step."""
    tasks = (directory / "flows" / ".metaflow" / flow).glob(f"*/{step}/[0-9]*")
    run, name, task = max(path.relative_to(path.parents[2]).parts for path in tasks)
    return f"{of}{run}/{name}/{task}"


VERSIONS = """
import sys
from ckptfs.metaflow import command
print(command.versions(sys.argv[1]))
"""


def test_a_store_that_cannot_be_asked_is_not_taken_for_one_without_versions(tmp_path: Path) -> None:
    def versions(directory: str) -> "subprocess.CompletedProcess[str]":
        arguments = [sys.executable, "-c", VERSIONS, f"file://{tmp_path}/{directory}"]
        return subprocess.run(arguments, capture_output=True, text=True, timeout=120)

    (tmp_path / "empty").mkdir()
    assert versions("missing").stdout == versions("empty").stdout == "[]\n"
    (tmp_path / "empty" / "format.json").write_text("damaged")
    damaged = versions("empty")
    assert damaged.returncode != 0
    assert "format.json" in damaged.stderr
