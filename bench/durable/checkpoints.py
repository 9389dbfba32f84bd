"""Checkpoints of training: one version after another made durable, then restored, by everybody in turn."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.durable.peers import Boto3, S5cmd
from bench.durable.place import Place, take_turns, walls
from bench.figures import Figure
from bench.processes import MemoryWatch, processor_s
from bench.product import Mounted, Timed, mounted, run_ckptfs, run_watched
from bench.sequences import Sequence

TARGETS = {"fp32-adamw-3e-4": 0.75, "fine-tune": 0.50, "lora-merged": 0.50}
"""Sequences, and the most that the time to durable may be of s5cmd's."""
_RESTORE_TARGET = 1.0
_PROCESSOR_TARGETS_S = {"fp32-adamw-3e-4": 0.8}
_MIB = 1 << 20
_MEMORY_TARGET_MIB = 512.0


class _Figures:
    def __init__(self, name: str) -> None:
        self.stall = Figure(name=f"{name}: stall of the touch", unit="s")
        self.durable = Figure(name=f"{name}: time to durable", unit="s", against="s5cmd", target=TARGETS[name])
        self.processor = Figure(
            name=f"{name}: processor time of a save", unit="s", target=_PROCESSOR_TARGETS_S.get(name)
        )
        self.added = Figure(name=f"{name}: added to the store", unit="% of raw")
        self.restore = Figure(name=f"{name}: full restore", unit="s", against="s5cmd", target=_RESTORE_TARGET)
        self.restore_processor = Figure(name=f"{name}: processor time of a restore", unit="s")
        self.fetched = Figure(name=f"{name}: fetched by a restore", unit="% of raw")
        self.restore_requests = Figure(name=f"{name}: requests of a restore", unit="requests")
        self.memory = Figure(name=f"{name}: peak memory of a save", unit="MiB", target=_MEMORY_TARGET_MIB)
        self.restore_memory = Figure(name=f"{name}: peak memory of a restore", unit="MiB", target=_MEMORY_TARGET_MIB)

    def all(self) -> list[Figure]:
        return [value for value in vars(self).values() if isinstance(value, Figure)]


def measure_checkpoints(place: Place, sequence: Sequence, rounds: int) -> Iterator[Figure]:
    """Save and restore the versions of one sequence; the first, which stands alone, is not timed.

    Args:
        rounds: At most as many as there are versions after the first.
    """
    figures = _Figures(sequence.name)
    with place.bucket("ours") as bucket, place.directory("checkpoints") as root:
        store = f"s3://{bucket}/store"
        (root / "source").mkdir()
        _measure_saves(place, sequence, rounds, store, root, figures)
        _measure_restores(place, sequence.files(rounds), rounds, store, root, figures)
    yield from figures.all()


def _measure_saves(place: Place, sequence: Sequence, rounds: int, store: str, root: Path, figures: _Figures) -> None:
    """Save version after version; the last is left in the directory `source`."""
    s5cmd, boto3 = S5cmd(place.env), Boto3(place.env)
    source = root / "source"
    with (
        place.bucket("s5cmd") as theirs,
        place.bucket("boto3") as others,
        mounted(root, store, place.env) as mount,
    ):
        peers: dict[str, Callable[[], Timed]] = {
            "s5cmd": lambda: s5cmd.upload(source, theirs, "run"),
            "boto3": lambda: boto3.upload(source, others, "run"),
        }
        with MemoryWatch(mount.keeper) as watch:
            sequence.write(0, mount.run)
            mount.save()
        figures.memory.ours.append(watch.peak_bytes / _MIB)
        sequence.write(0, source)
        for upload in peers.values():
            upload()
        for number in range(1, rounds + 1):
            size_bytes = sequence.write(number, mount.run)
            sequence.write(number, source)
            _save_in_turns(mount, figures, peers, number)
            figures.added.ours.append(100 * int(mount.newest()["bytes_added"]) / size_bytes)


def _measure_restores(
    place: Place, files: dict[str, bytes], rounds: int, store: str, root: Path, figures: _Figures
) -> None:
    """Restore the newest version again and again."""
    s5cmd, boto3 = S5cmd(place.env), Boto3(place.env)
    target = root / "target"
    # a bucket of its own: files that only earlier versions had are not to be downloaded
    with place.bucket("last") as last:
        s5cmd.upload(root / "source", last, "run")
        sides: dict[str, Callable[[], Timed]] = {
            "ckptfs": lambda: run_ckptfs("restore", store, str(target), env=place.env),
            "s5cmd": lambda: s5cmd.download(last, "run", target / "run"),
            "boto3": lambda: boto3.download(last, "run", target / "run"),
        }
        for number in range(rounds):
            _restore_in_turns(figures, target, sides, number, files)
    _empty(target)
    figures.restore_memory.ours.append(run_watched("restore", store, str(target), env=place.env) / _MIB)
    _empty(target)
    with place.proxy.recording() as recording:
        run_ckptfs("restore", store, str(target), env=place.counted_env)
    figures.restore_requests.ours.append(len(recording.counted))
    fetched_bytes = sum(request.answer_bytes for request in recording.counted)
    figures.fetched.ours.append(100 * fetched_bytes / sum(map(len, files.values())))


def _save_in_turns(mount: Mounted, figures: _Figures, peers: dict[str, Callable[[], Timed]], number: int) -> None:
    stalls = []

    def save() -> Timed:
        before_s = processor_s(mount.keeper)
        stall_s, durable_s = mount.save()
        stalls.append(stall_s)
        return Timed(durable_s, processor_s(mount.keeper) - before_s)

    times = take_turns({"ckptfs": save, **peers}, number)
    figures.stall.ours += stalls
    figures.durable.add(walls(times))
    figures.processor.add({name: timed.processor_s for name, timed in times.items()})


def _restore_in_turns(
    figures: _Figures, target: Path, sides: dict[str, Callable[[], Timed]], number: int, files: dict[str, bytes]
) -> None:
    def emptied(side: Callable[[], Timed]) -> Callable[[], Timed]:
        def run() -> Timed:
            _empty(target)
            timed = side()
            _check(files, target / "run")
            return timed

        return run

    times = take_turns({name: emptied(side) for name, side in sides.items()}, number)
    figures.restore.add(walls(times))
    figures.restore_processor.add({name: timed.processor_s for name, timed in times.items()})


def _empty(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    (directory / "run").mkdir(parents=True)


def _check(files: dict[str, bytes], directory: Path) -> None:
    for name, content in files.items():
        if (directory / name).read_bytes() != content:
            raise RuntimeError(f"{name} did not come back as it was")
