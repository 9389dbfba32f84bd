"""Saves of little: nothing changed, one file of 20 MB with 200 small ones, 2,000 small files."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.durable.peers import Boto3, S5cmd
from bench.durable.place import Place, take_turns, walls
from bench.figures import Figure
from bench.product import Mounted, Timed, mounted, run_ckptfs
from bench.proxy import CountingProxy, Request
from bench.sequences import Sequence

_KIB = 1 << 10
_SMALL_BYTES = 4 * _KIB
_MIXED_SMALL_FILES = 200
_MIXED_LARGE_BYTES = 20_000_000
_MANY_FILES = 2_000
_CHANGED = 10
"""Every tenth."""


def measure_unchanged(place: Place, sequence: Sequence, rounds: int) -> Iterator[Figure]:
    """Save again what has not changed."""
    durable = Figure(name="unchanged save: time to durable", unit="s", target=0.3)
    sent = Figure(name="unchanged save: sent to the store", unit="KB", target=10.0)
    requests = Figure(name="unchanged save: requests", unit="requests")
    with place.bucket("ours") as bucket, place.directory("unchanged") as root:
        store = f"s3://{bucket}/store"
        with mounted(root, store, place.env) as mount:
            sequence.write(0, mount.run)
            mount.save()
            durable.ours += [mount.save()[1] for _ in range(rounds)]
        with mounted(root, store, place.counted_env) as mount:
            mount.settle()
            for _ in range(rounds):
                asked = _requests_of(place.proxy, mount.save)
                requests.ours.append(len(asked))
                sent.ours.append(sum(request.body_bytes for request in asked) / 1e3)
    requests.note = _kinds(asked)
    yield from (durable, sent, requests)


def measure_mixed(place: Place, rounds: int) -> Iterator[Figure]:
    """Save 20 MB and 200 small files, all of them changed."""
    work = "20 MB + 200 small files"
    durable = Figure(name=f"{work}: time to durable", unit="s", against="s5cmd")
    requests = Figure(name=f"{work}: requests of a save", unit="requests", target=6.0)
    s5cmd = S5cmd(place.env)
    with place.bucket("ours") as bucket, place.bucket("s5cmd") as theirs, place.directory("mixed") as root:
        with mounted(root, f"s3://{bucket}/store", place.env) as mount:
            for number in range(rounds + 1):
                for top in (mount.run, root / "source"):
                    _write_mixed(top)
                sides = {
                    "ckptfs": lambda: Timed(mount.save()[1], 0.0),
                    "s5cmd": lambda: s5cmd.upload(root / "source", theirs, "run"),
                }
                times = take_turns(sides, number)
                if number:
                    durable.add(walls(times))
        with mounted(root, f"s3://{bucket}/store", place.counted_env) as mount:
            mount.settle()
            for _ in range(rounds):
                _write_mixed(mount.run)
                asked = _requests_of(place.proxy, mount.save)
                requests.ours.append(len(asked))
    requests.note = _kinds(asked)
    yield from (durable, requests)


def measure_many(place: Place, rounds: int) -> Iterator[Figure]:
    """Save 2,000 files of 4 KB, all of them new or written anew, restore them, and save again with every tenth changed.

    Nothing is deleted until the end: ext4 goes past every inode that was deleted within the last minutes when it makes
    a file, which takes up to 0.7 ms each once 2,000 were.
    """
    work = f"{_MANY_FILES} files of 4 KB"
    stall = Figure(name=f"{work}: stall of the touch", unit="s", target=1.0)
    durable = Figure(name=f"{work}: time to durable", unit="s", target=1.0)
    restore = Figure(name=f"{work}: full restore", unit="s", target=1.3)
    tenth = Figure(name=f"{work}, 10 % changed: added", unit="% of all", target=15.0)
    peers: dict[str, S5cmd | Boto3] = {"s5cmd": S5cmd(place.env), "boto3": Boto3(place.env)}
    with place.bucket("ours") as bucket, place.bucket("theirs") as theirs, place.directory("many") as root:
        store, source = f"s3://{bucket}/store", root / "source"
        with mounted(root, store, place.env) as mount:
            for number in range(rounds + 1):
                _write_many(mount.run)
                _write_many(source)
                times = take_turns(_saves(mount, stall, peers, source, theirs, number), number)
                if number:
                    durable.add(walls(times))
                _change_some(mount.run)
                mount.save()
                tenth.ours.append(100 * int(mount.newest()["bytes_added"]) / (_MANY_FILES * _SMALL_BYTES))
        del stall.ours[0]
        for number in range(rounds):
            sides = _restores(store, peers, theirs, rounds, root / f"restored-{number}", place.env)
            restore.add(walls(take_turns(sides, number)))
    yield from (stall, durable, restore, tenth)


def _saves(
    mount: Mounted, stall: Figure, peers: dict[str, S5cmd | Boto3], source: Path, bucket: str, number: int
) -> dict[str, Callable[[], Timed]]:
    def save() -> Timed:
        stall_s, durable_s = mount.save()
        stall.ours.append(stall_s)
        return Timed(durable_s, 0.0)

    def upload(name: str) -> Callable[[], Timed]:
        # a name of its own for each round: nobody overwrites
        return lambda: peers[name].upload(source, bucket, f"{name}/{number}")

    return {"ckptfs": save} | {name: upload(name) for name in peers}


def _restores(
    store: str, peers: dict[str, S5cmd | Boto3], bucket: str, number: int, top: Path, env: dict[str, str]
) -> dict[str, Callable[[], Timed]]:
    def into(name: str, run: Callable[[Path], Timed]) -> Callable[[], Timed]:
        def side() -> Timed:
            target = top / name
            target.mkdir(parents=True)
            timed = run(target)
            if (found := sum(path.is_file() for path in target.rglob("*"))) != _MANY_FILES:
                raise RuntimeError(f"{found} files came back, {_MANY_FILES} were stored")
            return timed

        return side

    def download(name: str) -> Callable[[Path], Timed]:
        return lambda target: peers[name].download(bucket, f"{name}/{number}", target)

    ours = into("ckptfs", lambda target: run_ckptfs("restore", store, str(target), env=env))
    return {"ckptfs": ours} | {name: into(name, download(name)) for name in peers}


def _write_mixed(top: Path) -> None:
    top.mkdir(exist_ok=True)
    (top / "large").write_bytes(os.urandom(_MIXED_LARGE_BYTES))
    for number in range(_MIXED_SMALL_FILES):
        (top / f"small-{number}").write_bytes(os.urandom(_SMALL_BYTES))


def _write_many(top: Path) -> None:
    for number in range(_MANY_FILES):
        path = top / str(number % 20) / f"file-{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(_SMALL_BYTES))


def _change_some(top: Path) -> None:
    for number in range(0, _MANY_FILES, _CHANGED):
        (top / str(number % 20) / f"file-{number}").write_bytes(os.urandom(_SMALL_BYTES))


def _requests_of(proxy: CountingProxy, action: Callable[[], object]) -> list[Request]:
    with proxy.recording() as recording:
        action()
    return recording.counted


def _kinds(requests: list[Request]) -> str:
    """Return in words what was asked: `2 PUT p/, 1 PUT c/`."""
    kinds = [f"{request.method} {_area(request.path)}" for request in requests]
    return ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))


def _area(path: str) -> str:
    """Return which objects of the store a request is about: `p/`, `c/`, `m/`; or the path."""
    _, _, key = path.partition("/store/")
    return f"{key.partition('/')[0]}/" if "/" in key else key or "list"
