"""A soak: training-like load on a store that misbehaves, with kills, tags and prunes: `python -m tests.soak`.

Every version is restored and compared with what was captured; memory and disk stay bounded; figures come at the end.
Anything lost, half visible or wrong ends it with a traceback. The seed decides what is done, chance when it strikes.
"""

import argparse
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

from ckptfs.cache.pending import pending_numbers
from ckptfs.store.open import open_store
from ckptfs.versions.history import open_history
from ckptfs.versions.references import needed_packs
from demo.seaweedfs import SeaweedFS
from tests.cli.scene import ckptfs
from tests.conftest import BUCKET
from tests.faults.proxy import FaultyProxy, Plan
from tests.faults.stories import mount_again, run_again, sync_again
from tests.mounting import Mount, Mounts
from tests.soak.books import Books
from tests.soak.watch import Watch, quarters

MIB = 1 << 20
CACHE_BYTES = 256 * MIB
PENDING_BYTES = 512 * MIB
# what a mount with its upload process and encoders may take, of files of 16 MiB
MOST_MEMORY_BYTES = 640 * MIB
# the live tree, what is pending, and what was kept of other deaths since it was last looked at
MOST_DISK_BYTES = CACHE_BYTES + 2 * PENDING_BYTES
# half of them may be saved while a prune looks; the trainer pauses then
KEPT_VERSIONS = 200
# of commands that read all of the store
_PATIENCE_S = 3600.0
# share of requests
USUAL_RATE, BURST_RATE = 0.03, 0.3


@dataclass
class Soak:
    """One store, one mount after another, one trainer after another."""

    server: SeaweedFS
    proxy: FaultyProxy
    directory: Path
    seed: int
    done: Counter[str] = field(default_factory=Counter)
    machines: int = 1
    tagged: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.url = f"s3://{BUCKET}/{secrets.token_hex(8)}"
        # another that knows the store without the proxy, to look at what is there
        with _environment(AWS_ENDPOINT_URL=self.server.endpoint):
            self.store = open_store(self.url)
        self.books = Books(self.directory / "records", self.directory / "restored")
        self.mounts = Mounts(
            self.directory, 1e6, prefetch=True, cache_size_bytes=CACHE_BYTES, max_pending_bytes=PENDING_BYTES
        )
        self.mount = self._start_mount()
        self.trainer = self._start_trainer()
        self.watch = Watch(lambda: self.mount.keeper_pid if self.mount.is_alive else None, self.directory)

    @property
    def cache_name(self) -> str:
        return f"cache-{self.machines}"

    def run(self, minutes: float) -> None:
        """Do it all at random until the time is over, then look at everything."""
        self.watch.start()
        end_s = time.monotonic() + 60 * minutes
        said_s = 0.0
        while time.monotonic() < end_s:
            time.sleep(self.chance.uniform(0.5, 5.0))
            self._check_trainer()
            name, act, _ = self.chance.choices(ACTS, [weight for _, _, weight in ACTS])[0]
            act(self)
            self.done[name] += 1
            if time.monotonic() - said_s > 60:
                said_s = time.monotonic()
                self.check()
                print(f"{(said_s - end_s) / 60 + minutes:5.1f} min  {self.figures()}", flush=True)
        self.finish()

    # what is done

    def kill_trainer(self) -> None:
        self._end_trainer()
        self.trainer = self._start_trainer()

    def kill_server(self) -> None:
        """The process that serves: another takes over, and the trainer notices nothing."""
        if self.mount.server_pid() is not None:
            self.mount.kill_server()

    def kill_upload_process(self) -> None:
        self.mount.kill_upload_process()

    def kill_everything(self) -> None:
        self._end_trainer()
        self.mount.kill()
        self.mount = self._start_mount()
        self._check_mounted()
        self.trainer = self._start_trainer()

    def move_to_another_machine(self) -> None:
        """It has an empty cache directory; what was not durable stays where it was captured."""
        self._end_trainer()
        upload = self.mount.upload_pid()
        self.mount.kill()
        if upload is not None:
            _kill(upload)
        former = self.directory / self.cache_name
        self.machines += 1
        self.mount = self._start_mount(takeover=True)
        step = self._newest_step()
        self.books.read()
        self.books.other_machine(step)
        self._check_mounted()
        shutil.rmtree(former)
        self.trainer = self._start_trainer()

    def tag(self) -> None:
        numbers = open_history(self.store).numbers()
        if numbers:
            number = self.chance.choice(numbers)
            if run_again("tag", self.url, str(number), f"tag-{len(self.tagged)}").code == 0:
                self.tagged.add(number)

    def prune(self) -> None:
        # afterwards there is nothing left to compare: so many stay as may come after the newest that was compared
        while self.books.check_new_versions(self.store) > KEPT_VERSIONS // 4:
            pass
        last_step = self.books.last_step + KEPT_VERSIONS // 2
        kept = KEPT_VERSIONS + len(pending_numbers(self.mount.cache / "pending"))
        with ThreadPoolExecutor() as pool:
            pruning = pool.submit(
                run_again, "prune", self.url, "--keep-last", str(kept), "--keep-every", "25", "--json"
            )
            while not pruning.done():
                self.books.read()
                if self.books.last_step >= last_step:
                    self.trainer.send_signal(signal.SIGSTOP)
                wait([pruning], 0.2)
        self.trainer.send_signal(signal.SIGCONT)
        done = pruning.result()
        assert done.code == 0, done
        unseen = set(done.json["dropped"]) - self.books.checked.keys()
        assert not unseen, f"versions {sorted(unseen)} were pruned before they were compared"

    def burst(self) -> None:
        """Many requests go wrong for a while."""
        self._set_rate(BURST_RATE)
        time.sleep(self.chance.uniform(2, 8))
        self._set_rate(USUAL_RATE)

    def outage(self) -> None:
        """The store is away for a while."""
        self.server.stop()
        time.sleep(self.chance.uniform(2, 10))
        self.server.start()

    # what is checked

    def check(self) -> None:
        """Compare the versions that are new."""
        self.books.check_new_versions(self.store)

    def finish(self) -> None:
        """Let all become durable, and look at everything."""
        self._check_trainer()
        self._end_trainer()
        self._set_rate(0.0)
        sync_again(self.mount)
        assert self.mount.unmount() == 0
        self.check()
        self.books.check_complete()
        # what a prune has left is left for good
        pruned = ckptfs("prune", self.url, "--keep-last", "8", "--keep-every", "25", timeout_s=_PATIENCE_S)
        assert pruned.code == 0, pruned
        verified = ckptfs("verify", self.url, "--read-data", timeout_s=_PATIENCE_S)
        assert verified.code == 0, verified
        history = open_history(self.store)
        assert self.tagged <= set(history.numbers()), "a tagged version was pruned"
        needed = {pack for record in history.versions() for pack in needed_packs(history.tree(record).values())}
        kept = {info.key for info in self.store.list("p/")}
        assert needed <= kept
        newest = history.newest()
        orphans = {key for key in kept - needed if newest is not None and int(key[2:12]) < newest.epoch}
        assert not orphans, f"{len(orphans)} packs that no version needs were left"
        self.watch.stop()
        self._check_bounds()

    def _check_bounds(self) -> None:
        assert max(self.watch.memory_bytes) < MOST_MEMORY_BYTES, f"{max(self.watch.memory_bytes) / MIB:.0f} MiB"
        assert max(self.watch.disk_bytes) < MOST_DISK_BYTES, f"{max(self.watch.disk_bytes) / MIB:.0f} MiB"
        first, last = quarters(self.watch.memory_bytes)
        assert last < 1.5 * first + 64 * MIB, f"memory grew from {first / MIB:.0f} to {last / MIB:.0f} MiB"

    def figures(self) -> str:
        """Return what was done and seen so far, in one line."""
        stored = sum(info.size_bytes for info in self.store.list("p/"))
        memory, disk = self.watch.memory_bytes or [0], self.watch.disk_bytes or [0]
        return (
            f"{len(self.books.tried)} saves, {len(self.books.checked)} versions restored and compared, "
            f"{len(self.books.left_behind)} left on other machines, {self.proxy.injected.total()} faults in "
            f"{self.proxy.requests} requests, memory {memory[-1] / MIB:.0f} (most {max(memory) / MIB:.0f}) MiB, "
            f"local disk {disk[-1] / MIB:.0f} (most {max(disk) / MIB:.0f}) MiB, store {stored / MIB:.0f} MiB"
        )

    def _newest_step(self) -> int:
        note = self.mount.marker()["note"]
        return int(note["step"]) if note else 0

    def _check_mounted(self) -> None:
        """What is mounted is the newest version that was captured."""
        self.books.read()
        step = self._newest_step()
        captured = max(self.books.captured.keys() - self.books.left_behind, default=0)
        assert captured <= step <= self.books.last_step, f"step {step} is mounted, step {captured} was captured"
        if step:
            self.books.check_tree(self.mount.root, step)

    def _check_trainer(self) -> None:
        """The trainer lives: nothing that was killed since may have ended it."""
        if self.trainer.poll() is not None:
            said = self.trainer.stderr.read().decode() if self.trainer.stderr is not None else ""
            raise AssertionError(
                f"the trainer ended by itself ({self.trainer.returncode})\n{said}\n{self.mount.log[-3000:]}"
            )

    # processes

    def _start_mount(self, **options: object) -> Mount:
        # what crashes have left unsaved goes, as a person would have it: it would fill the disk over hours
        for path in self.directory.glob(f"{self.cache_name}/*/unsaved/*"):
            shutil.rmtree(path)
        return mount_again(self.mounts, self.url, cache=self.cache_name, **options)

    def _start_trainer(self) -> subprocess.Popen[bytes]:
        self.books.skip_torn_line()
        command = [sys.executable, "-m", "tests.soak.trainer", self.mount.root, self.books.records]
        return subprocess.Popen(
            [*map(str, command), str(self.books.last_step + 1), str(self.seed)], stderr=subprocess.PIPE
        )

    def _end_trainer(self) -> None:
        self.trainer.kill()
        self.trainer.wait(60)
        if self.trainer.stderr is not None:
            self.trainer.stderr.close()
        self.books.skip_torn_line()

    def _set_rate(self, rate: float) -> None:
        self.proxy.plan = Plan(rate=rate, seed=self.seed)

    def close(self) -> None:
        """Leave nothing behind."""
        self._end_trainer()
        self.watch.stop()
        self.mounts.close()


ACTS: list[tuple[str, Callable[[Soak], None], int]] = [
    ("kills of the trainer", Soak.kill_trainer, 20),
    ("kills of the mount process", Soak.kill_server, 20),
    ("kills of the upload process", Soak.kill_upload_process, 20),
    ("kills of keeper and mount process", Soak.kill_everything, 8),
    ("moves to another machine", Soak.move_to_another_machine, 3),
    ("tags", Soak.tag, 4),
    ("prunes", Soak.prune, 8),
    ("bursts of faults", Soak.burst, 6),
    ("outages of the store", Soak.outage, 2),
]


class _environment:  # noqa: N801 (used as a function)
    """Sets variables for a block."""

    def __init__(self, **values: str) -> None:
        self._values = values

    def __enter__(self) -> None:
        self._before = {name: os.environ.get(name) for name in self._values}
        os.environ.update(self._values)

    def __exit__(self, *_: object) -> None:
        for name, value in self._before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=120.0, help="how long (120)")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="decides what is done (default: the time)")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
    with SeaweedFS() as server, tempfile.TemporaryDirectory(prefix="ckptfs-soak-") as directory:
        os.environ.update(server.env)
        server.create_bucket(BUCKET)
        with FaultyProxy(server.endpoint, Plan(rate=USUAL_RATE, seed=arguments.seed)) as proxy:
            os.environ["AWS_ENDPOINT_URL"] = proxy.endpoint
            soak = Soak(server, proxy, Path(directory), arguments.seed)
            try:
                soak.run(arguments.minutes)
            finally:
                soak.close()
            print(soak.figures())
            first, last = quarters(soak.watch.memory_bytes)
            print(f"median memory {first / MIB:.0f} MiB in the first quarter, {last / MIB:.0f} MiB in the last")
            print(", ".join(f"{count} {name}" for name, count in soak.done.items()))
            print(proxy.report())
            print("0 lost, 0 half visible, 0 wrong")


if __name__ == "__main__":
    main()
