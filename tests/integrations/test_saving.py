"""What all callbacks share: which version is gone on from, when it is saved, and with what note."""

from pathlib import Path
from typing import Any

import pytest
import xgboost
from sklearn.linear_model import SGDClassifier

import ckptfs
from ckptfs.errors import InvalidInputError, MountError, NotDurableError
from ckptfs.integrations.saving import Saves, come_to
from ckptfs.integrations.sklearn import Checkpointer as Batches
from ckptfs.integrations.xgboost import MODEL, Checkpointer, load
from tests.mounting import Mount, Mounts

PARAMETERS = {"nthread": 1, "max_depth": 1}


@pytest.fixture(scope="module")
def data() -> xgboost.DMatrix:
    return xgboost.DMatrix([[float(number)] for number in range(20)], [float(number % 3) for number in range(20)])


def test_what_was_half_written_before_the_first_version_is_not_gone_on_from(mount: Mounts) -> None:
    run = mount().root / "run"
    ckptfs.checkpoint(run)
    for name in (MODEL, "model.joblib"):
        (run / name).write_bytes(b"half writt")  # and it is killed
    assert load(run) is None
    assert Batches(SGDClassifier(), run).step == 0


def test_a_checkpoint_with_an_older_version_is_gone_on_from_there(shared: Mount, data: xgboost.DMatrix) -> None:
    checkpoint = ckptfs.checkpoint(shared.root / "older")
    xgboost.train(PARAMETERS, data, 4, callbacks=[Checkpointer(checkpoint, every=2)])
    second, first = checkpoint.list()[:2]
    second.wait()
    assert _rounds(load(checkpoint)) == 4
    checkpoint.load(first)
    (checkpoint.directory / MODEL).write_bytes(b"half writt")
    assert _rounds(load(checkpoint)) == 2
    assert _rounds(load(checkpoint.directory)) == 4
    checkpoint.load(first)
    checkpoint.save()
    assert _rounds(load(checkpoint.directory)) == 2


def _rounds(model: xgboost.Booster | None) -> int:
    assert model is not None
    return model.num_boosted_rounds()


def test_the_step_of_a_note_is_that_of_the_version_whatever_the_metrics_are_called(shared: Mount) -> None:
    saves = Saves(shared.root / "notes", 1)
    version = saves.save({"step": 10, "epoch": 0.5, "picture": object(), "loss": float("nan")}, step=15)
    assert version.note == {"step": 15, "epoch": 0.5, "loss": "NaN"}


@pytest.mark.parametrize("every", [0, -1, 1.5, float("inf"), float("nan"), None, "10"])
def test_what_is_no_number_of_steps_is_named(shared: Mount, every: Any) -> None:
    with pytest.raises(InvalidInputError, match="expected a whole number of steps"):
        Checkpointer(shared.root, every=every)


def test_a_callback_that_serves_two_trainings_saves_both(shared: Mount, data: xgboost.DMatrix) -> None:
    checkpoint = ckptfs.checkpoint(shared.root / "twice")
    callback = Checkpointer(checkpoint, every=100)
    numbers = []
    for _ in range(2):
        xgboost.train(PARAMETERS, data, 3, callbacks=[callback])
        numbers.append(shared.status()["version"])
    assert numbers[1] == numbers[0] + 1


def test_a_cross_validation_is_refused(shared: Mount, data: xgboost.DMatrix) -> None:
    with pytest.raises(InvalidInputError, match="has no model to save"):
        xgboost.cv(PARAMETERS, data, 3, callbacks=[Checkpointer(shared.root)])


def test_a_rank_of_another_machine_waits_until_the_version_that_the_first_has_is_there(mount: Mounts) -> None:
    writer = mount(name="writer")
    first = ckptfs.checkpoint(writer.root)
    first.save(wait=True)
    follower = ckptfs.checkpoint(mount(name="follower", cache="its own", read_only=True, follow=True).root)
    stays = ckptfs.checkpoint(mount(name="stays", cache="another", read_only=True).root)
    store = Path(writer.store.removeprefix("file://"))
    store.rename(store.with_name("away"))
    (first.directory / "state").write_text("two")
    newest = first.save().number
    come_to(first, newest)
    with pytest.raises(NotDurableError, match="shows version 1, and the first rank has version 2"):
        come_to(follower, newest, timeout_s=0.5)
    store.with_name("away").rename(store)
    come_to(follower, newest, timeout_s=60)
    assert (follower.directory / "state").read_text() == "two"
    with pytest.raises(MountError, match="shows version 1") as caught:
        come_to(stays, newest)
    assert "--follow" in str(caught.value.hint)
