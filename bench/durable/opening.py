"""Opening a store: the first byte of a file after mounting, and whether history makes it slower."""

import os
import secrets
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from bench.durable.peers import S5cmd
from bench.durable.place import Place, take_turns, walls
from bench.figures import Figure
from bench.product import Timed, mounted, run_ckptfs
from bench.sequences import Sequence
from ckptfs.format.commit import CommitRecord
from ckptfs.format.manifest import Entry, Kind, Part
from ckptfs.store.open import open_store
from ckptfs.versions.leasing import Holder
from ckptfs.versions.parts import plan_parts
from ckptfs.versions.writer import SaveDraft, Writer


def measure_first_byte(place: Place, sequence: Sequence, rounds: int) -> Iterator[Figure]:
    """Mount with an empty cache and read the first byte of the largest file, which is stored against an anchor."""
    first = Figure(name="first byte of a file after mounting", unit="s", target=0.10)
    requests = Figure(name="requests for it", unit="requests", target=3.0, note="without prefetch")
    with place.bucket("ours") as bucket, place.directory("opening") as root:
        store = f"s3://{bucket}/store"
        with mounted(root, store, place.env) as mount:
            for number in (0, 1):
                sequence.write(number, mount.run)
                mount.save()
            files = sequence.files(1)
        name = max(files, key=lambda name: len(files[name]))
        for _ in range(rounds):
            with mounted(root, store, place.env) as mount:
                first.ours.append(_first_byte_s(mount.top / "run" / name, files[name]))
            with mounted(root, store, place.counted_env, "--no-prefetch") as mount:
                with place.proxy.recording() as recording:
                    _first_byte_s(mount.top / "run" / name, files[name])
                requests.ours.append(len(recording.counted))
    yield from (first, requests)


def measure_history(place: Place, versions: int, rounds: int) -> Iterator[Figure]:
    """Open the newest of many versions, and of 10, in turn."""
    peer = "10 versions"
    figures = {
        "log": Figure(name=f"log -n 1 of {versions} versions", unit="s", against=peer, target=1.1),
        "mount": Figure(name=f"mount of {versions} versions", unit="s", against=peer, target=1.1),
    }
    requests = {
        name: Figure(name=f"requests of {figure.name}", unit="requests", against=peer, target=1.0)
        for name, figure in figures.items()
    }
    with place.bucket("ours") as bucket, place.directory("history") as root:
        stores = {}
        for name, count in {"ckptfs": versions, peer: 10}.items():
            _make_history(root / str(count), count)
            S5cmd(place.env).upload(root / str(count), bucket, str(count))
            stores[name] = f"s3://{bucket}/{count}"
        for what, figure in figures.items():
            for number in range(rounds):
                sides = {name: partial(_open, what, root, store, place.env) for name, store in stores.items()}
                figure.add(walls(take_turns(sides, number)))
                asked = {}
                for name, store in stores.items():
                    with place.proxy.recording() as recording:
                        _open(what, root, store, place.counted_env)
                    asked[name] = len(recording.counted)
                requests[what].add(asked)
    yield from (*figures.values(), *requests.values())


def _open(what: str, root: Path, store: str, env: dict[str, str]) -> Timed:
    if what == "log":
        return run_ckptfs("log", store, "-n", "1", env=env)
    started_s = time.perf_counter()
    with mounted(root, store, env) as mount:
        return Timed(mount.mounted_s - started_s, 0.0)


def _first_byte_s(path: Path, content: bytes) -> float:
    started_s = time.perf_counter()
    fd = os.open(path, os.O_RDONLY)
    try:
        byte = os.pread(fd, 1, 0)
    finally:
        os.close(fd)
    took_s = time.perf_counter() - started_s
    if byte != content[:1]:
        raise RuntimeError(f"{path} begins with {byte!r}")
    return took_s


def _make_history(directory: Path, count: int) -> None:
    """Make a store of many small versions, as a writer commits them."""
    store = open_store(f"file://{directory}", create=True)
    holder = Holder(host="bench", pid=os.getpid(), machine="bench", lock="/dev/null", lock_id="0:0")
    writer = Writer.acquire(store, holder)
    record: CommitRecord | None = None
    for number in range(1, count + 1):
        entries = [
            Entry(path=b"", kind=Kind.DIRECTORY, mode=0o755),
            Entry(path=b"step-%d" % number, kind=Kind.FILE, mode=0o644),
        ]
        tree = {entry.path: entry for entry in entries}
        removed = (b"step-%d" % (number - 1),) if number > 1 else ()
        parts, inline = plan_parts(record, Part(tuple(entries), removed), partial(dict, tree), _no_segment)
        draft = SaveDraft(
            version=number,
            commit_id=secrets.token_hex(16),
            captured_ns=time.time_ns(),
            note={"step": number},
            files=1,
            bytes=0,
            bytes_added=0,
            torn=0,
            parts=parts,
            inline=inline,
        )
        record = writer.commit_save(draft)
    writer.release()


def _no_segment(_: bytes) -> str:
    raise AssertionError("two entries need no segment")
