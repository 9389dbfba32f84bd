"""`python -m bench.memory`: the most memory that all processes together have while one large file and very many small
ones are saved to an S3 server and restored; write JSON.

The file is written in full and compresses to 2 % (its blocks of 1 MiB differ, but each is one piece repeated), so that
a store of it fits on the disk: at the defaults 25 GB are needed, most of it for the file itself. What compresses less
fills packs faster than they can be sent: --percent 100 shows the memory that this takes, at a size that fits.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from bench.figures import RESULTS, Figure, stamp, write_figures
from bench.processes import MemoryWatch
from bench.product import mounted, run_watched, size_of
from ckptfs.units import parse_size
from demo.seaweedfs import SeaweedFS

_MIB = 1 << 20
_TARGET_MIB = 512.0
_FILES_PER_DIRECTORY = 1_000
_SMALL_BYTES = 1 << 10


def main() -> int:
    """Measure at the sizes that were asked for."""
    parser = argparse.ArgumentParser(prog="python -m bench.memory", description=__doc__)
    parser.add_argument("--size", type=parse_size, default=parse_size("20G"), help="of the large file (20G)")
    parser.add_argument("--files", type=int, default=100_000, help="how many small ones (100000)")
    parser.add_argument("--percent", type=int, default=2, help="of the large file, what it compresses to (2)")
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()), help="where all of it happens")
    arguments = parser.parse_args()
    figures = []
    with tempfile.TemporaryDirectory(prefix="ckptfs-memory-", dir=arguments.directory) as scratch:
        with SeaweedFS(Path(scratch, "server")) as server:
            server.create_bucket("memory")
            for figure in _measure(server.env, Path(scratch), arguments):
                figures.append(figure)
                print(figure.line(), flush=True)
    more = {"size_bytes": arguments.size, "files": arguments.files, "percent": arguments.percent}
    write_figures(RESULTS / f"memory-{stamp()}.json", figures, more)
    return 0


def _measure(env: dict[str, str], root: Path, arguments: argparse.Namespace) -> list[Figure]:
    size_bytes: int = arguments.size
    files: int = arguments.files
    work = f"{size_bytes / (1 << 30):.3g} GiB ({arguments.percent} %) and {files} files"
    saving = Figure(name=f"{work}: peak memory while saving", unit="MiB", target=_TARGET_MIB)
    restoring = Figure(name=f"{work}: peak memory while restoring", unit="MiB", target=_TARGET_MIB)
    durable = Figure(name=f"{work}: time to durable", unit="s")
    restored = Figure(name=f"{work}: full restore", unit="s")
    store = "s3://memory/store"
    with mounted(root, store, env) as mount:
        _write_large(mount.run / "large", size_bytes, arguments.percent)
        _write_small(mount.run / "small", files)
        with MemoryWatch(mount.keeper) as watch:
            durable.ours.append(mount.save()[1])
        saving.ours.append(watch.peak_bytes / _MIB)
        saving.note = ", ".join(f"{peak / _MIB:.0f}" for peak in sorted(watch.peaks_bytes.values(), reverse=True))
        saving.note = f"by process: {saving.note}"
    target = root / "target"
    started_s = time.perf_counter()
    restoring.ours.append(run_watched("restore", store, str(target), env=env) / _MIB)
    restored.ours.append(time.perf_counter() - started_s)
    expected = size_bytes + files * _SMALL_BYTES
    if size_of(target) != expected:
        raise RuntimeError(f"{size_of(target)} bytes came back, {expected} were saved")
    shutil.rmtree(target)
    return [saving, restoring, durable, restored]


def _write_large(path: Path, size_bytes: int, percent: int) -> None:
    with path.open("wb", buffering=0) as file:
        left = size_bytes
        while left:
            piece = os.urandom(_MIB * percent // 100)
            block = piece * -(-_MIB // len(piece))
            left -= file.write(block[: min(_MIB, left)])


def _write_small(top: Path, files: int) -> None:
    for number in range(files):
        path = top / str(number // _FILES_PER_DIRECTORY) / f"file-{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(_SMALL_BYTES))


if __name__ == "__main__":
    sys.exit(main())
