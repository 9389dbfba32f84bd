"""ckptfsd under a systemd that has really booted: a story in steps, each of which says what it has seen.

    make test-systemd       python -m tests.systemd

All is looked at from outside the daemon's unit, as other services and users see it.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ckptfs.transfer.confine import KEPT_CAPABILITIES
from tests.systemd.machine import Machine, MachineProgram, build

_MOUNT = """mkdir -p /ckpt/{name}
cat >/etc/ckptfs/conf.d/.{name} <<E
[mounts.{name}]
store = "file:///store/{name}"
mountpoint = "/ckpt/{name}"
{lines}
E
mv /etc/ckptfs/conf.d/.{name} /etc/ckptfs/conf.d/{name}.toml"""

_METADATA_SERVER = """mkdir -p /tmp/imds/latest/meta-data/spot
cat >/tmp/imds.py <<E
from http.server import SimpleHTTPRequestHandler, test
class Handler(SimpleHTTPRequestHandler):
    def do_PUT(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"token")
test(Handler, port=8099)
E
systemd-run -q -u imds --working-directory=/tmp/imds python3 /tmp/imds.py
cat >/etc/ckptfs/preempt.env <<E
CKPTFS_EC2_METADATA=http://127.0.0.1:8099
CKPTFS_GCE_METADATA=http://127.0.0.1:8099
CKPTFS_PREEMPT_EVERY_S=0.5
E
systemctl start ckptfs-preempt"""


class Story:
    """The steps, on one machine."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.began_s = time.monotonic()

    def say(self, line: str) -> None:
        """Tell what was seen."""
        sys.stdout.write(f"[{time.monotonic() - self.began_s:5.1f} s] ok  {line}\n")
        sys.stdout.flush()

    # what is asked again and again

    def describe(self, name: str, *lines: str) -> None:
        self.machine.sh(_MOUNT.format(name=name, lines="\n".join(lines)))

    def status(self, name: str) -> dict[str, Any]:
        return dict(json.loads(self.machine.sh(f"cat /ckpt/{name}/.status")))

    def status_text(self) -> str:
        return self.machine.unit("ckptfsd")["StatusText"]

    def wait_up(self, other_than: int = 0) -> int:
        """Return the daemon's pid when it is up."""

        def look() -> int:
            unit = self.machine.unit("ckptfsd")
            is_up = unit["ActiveState"] == "active" and int(unit["MainPID"]) not in (0, other_than)
            return int(unit["MainPID"]) if is_up else 0

        return int(self.machine.wait("the daemon is up", look))

    def under_load(self, action: Callable[[], str]) -> None:
        """Do something while programs are at work in /ckpt/a, with files open all the time."""
        machine = self.machine
        machine.sh("rm -rf /ckpt/a/load; mkdir /ckpt/a/load")
        programs: list[MachineProgram] = []
        try:
            for kind in ("write", "name", "read", "save"):
                programs.append(machine.start_program(kind, f"/ckpt/a/load/{kind}"))
            time.sleep(1.0)
            seen = action()
            time.sleep(1.0)
            done = ", ".join([program.stop() for program in programs])
        finally:
            for program in programs:
                program.kill()
        self.say(f"{seen}; no program met an error ({done})")

    # the steps

    def install_and_start(self) -> None:
        machine = self.machine
        self.wait_up()
        self.say(f"enabled at installation, up after boot with no mount: {self.status_text()!r}")
        self.describe("a", "save-on-exit = true", "confine-upload = true")
        self.describe("b")
        machine.wait("both are mounted", lambda: "2 of 2" in self.status_text())
        for name in "ab":
            assert machine.sh(f"findmnt -no FSTYPE /ckpt/{name}").strip() == "fuse.ckptfs"
        transport = self.status("a")["transport"]
        self.say(f"two files in conf.d were taken at once: {self.status_text()!r}, transport {transport}")

    def touch(self) -> None:
        self.machine.sh("echo weights >/ckpt/a/model; touch /ckpt/a/.save; sync /ckpt/a/.save")
        shown = json.loads(self.machine.sh("cat /ckpt/a/.save"))
        assert (shown["version"], shown["state"]) == (1, "durable"), shown
        (record,) = self.machine.journal("captured version=1")
        assert (record["CKPTFS_MOUNT"], record["CKPTFS_VERSION"]) == ("a", "1")
        find = "pgrep -of 'ckptfs[.]transfer[.]process.*/store-a-'"
        rights = self.machine.sh(f"grep -h CapEff /proc/$({find})/status").split()[1]
        assert int(rights, 16) & ~KEPT_CAPABILITIES == 0, rights
        self.say(f"the process that uploads a has confined itself: CapEff {rights}")
        self.say(f"touch makes a version; the journal has it with fields: CKPTFS_MOUNT=a, {record['MESSAGE']!r}")

    def restart(self) -> str:
        keeper, main = self.status("a")["keeper"], self.wait_up()
        for _ in range(3):
            self.machine.sh("systemctl restart ckptfsd")
        assert self.status("a")["keeper"] == keeper
        assert self.wait_up() != main
        found = [row for row in self.machine.journal("found mount=") if row["CKPTFS_MOUNT"] == "a"][-1]
        assert found["CKPTFS_HELD"] == "True", found
        return f"`systemctl restart` three times: the keeper is {keeper} all the time, systemd held its connection"

    def kill_daemon(self) -> str:
        main, keeper = self.wait_up(), self.status("a")["keeper"]
        self.machine.sh(f"kill -9 {main}")
        self.wait_up(other_than=main)
        assert self.status("a")["keeper"] == keeper
        return "kill -9 of the daemon, which systemd started again"

    def watchdog(self) -> str:
        drop_in = "/run/systemd/system/ckptfsd.service.d"
        script = f"mkdir -p {drop_in}; printf '[Service]\\nWatchdogSec=3\\n' >{drop_in}/w.conf; systemctl daemon-reload"
        self.machine.sh(f"{script}; systemctl restart ckptfsd")
        main = self.wait_up()
        self.machine.sh(f"kill -STOP {main}")
        self.wait_up(other_than=main)
        assert "Watchdog timeout" in self.machine.sh("journalctl -u ckptfsd --no-pager")
        return "a daemon that hangs (SIGSTOP) missed its watchdog, and was started again"

    def kill_all(self) -> str:
        before, main = self.status("a"), self.wait_up()
        self.machine.sh("systemctl kill -s KILL --kill-who=all ckptfsd")
        self.wait_up(other_than=main)
        self.machine.wait("it goes on", lambda: self.machine.journal("went on with mount=a"))
        after = self.status("a")
        assert not {before["keeper"], before["pid"]} & {after["keeper"], after["pid"]}
        return "kill -9 of the daemon, all keepers and all servers at once: gone on with what systemd held"

    def reload(self) -> str:
        machine = self.machine
        server = self.status("a")["pid"]
        self.describe("c")
        machine.wait("c is mounted", lambda: "3 of 3" in self.status_text())
        self.describe("c", "drain-timeout = 'soon'")
        machine.wait("the error shows", lambda: "configuration not taken" in self.status_text())
        text = self.status_text()
        machine.sh("systemctl reload ckptfsd; rm /etc/ckptfs/conf.d/c.toml; systemctl reload ckptfsd")
        machine.wait("c is gone", lambda: self.status_text() == "2 of 2 mounted")
        assert self.status("a")["pid"] == server
        return f"a mount added, broken, taken away; meanwhile `systemctl status` said {text!r}"

    def preempt(self) -> None:
        machine = self.machine
        machine.sh("echo more >>/ckpt/b/model")
        machine.sh(_METADATA_SERVER)
        time.sleep(2.0)
        assert machine.unit("ckptfs-preempt")["ActiveState"] == "active", "there is no notice yet"
        before = self.status("b")["version"]
        machine.sh("echo '{}' >/tmp/imds/latest/meta-data/spot/instance-action")
        machine.wait("it has saved", lambda: machine.unit("ckptfs-preempt")["ActiveState"] == "inactive")
        assert self.status("b")["version"] == before + 1
        assert machine.unit("ckptfs-preempt")["Result"] == "success"
        self.say("ckptfs-preempt saw a spot interruption notice, saved every mount, and waited until all was durable")

    def stop(self) -> None:
        machine = self.machine
        machine.sh("echo last >/ckpt/a/model; touch /ckpt/b/.save; systemctl stop ckptfsd")
        unit = machine.unit("ckptfsd")
        assert (unit["ActiveState"], unit["Result"]) == ("inactive", "success"), unit["Result"]
        assert machine.try_sh("findmnt -t fuse.ckptfs") == ""
        assert machine.try_sh("pgrep -f 'ckptfs[.]'") == ""
        message = machine.journal("stopped mounts=")[-1]["MESSAGE"]
        self.say(f"`systemctl stop` saved, drained and unmounted; nothing is left running; journal: {message!r}")

    def stop_with_versions_left(self) -> None:
        machine = self.machine
        self.describe("b", 'upload-limit = "100K"', 'drain-timeout = "2s"')
        machine.sh("systemctl start ckptfsd; head -c 4M /dev/urandom >/ckpt/b/noise; touch /ckpt/b/.save")
        version = self.status("b")["version"]
        machine.sh("systemctl stop ckptfsd")
        assert machine.unit("ckptfsd")["ActiveState"] == "failed"
        message = machine.journal("stopped with versions that are not durable")[-1]["MESSAGE"]
        self.describe("b")
        machine.sh("systemctl start ckptfsd; sync /ckpt/b/.save")
        assert self.status("b")["pending"] == []
        assert self.status("b")["version"] == version
        self.say(f"what could not be uploaded in time is said ({message!r}), and the next start finishes it")

    def boot_again(self) -> None:
        machine = self.machine
        machine.sh("echo before the reboot >/ckpt/a/model")
        machine.reboot(machine.lose_cache)
        self.wait_up()
        assert machine.sh("cat /ckpt/a/model") == "before the reboot\n"
        self.say("a reboot saved and drained; the next boot, with an empty cache directory, shows what there was")

    def single_mount_unit(self) -> None:
        machine = self.machine
        machine.sh(
            "mkdir -p /ckpt/single; printf 'CKPTFS_STORE=file:///store/single\\nCKPTFS_MOUNTPOINT=/ckpt/single\\n'"
            " >/etc/ckptfs/single.env; systemctl start ckptfs@single; echo x >/ckpt/single/x; touch /ckpt/single/.save"
        )
        machine.sh("systemctl stop ckptfs@single")
        assert machine.unit("ckptfs@single")["Result"] == "success"
        self.say("ckptfs@single: one mount as a unit of its own was started, saved and stopped")


def main() -> int:
    """Run the story; return an exit code."""
    build()
    with tempfile.TemporaryDirectory(prefix="ckptfs-systemd-") as directory:
        machine = Machine(Path(directory))
        story = Story(machine)
        try:
            story.install_and_start()
            story.touch()
            for action in (story.restart, story.kill_daemon, story.watchdog, story.kill_all, story.reload):
                story.under_load(action)
            story.preempt()
            story.stop()
            story.stop_with_versions_left()
            story.boot_again()
            story.single_mount_unit()
        except BaseException:
            sys.stdout.write(machine.try_sh("journalctl -o short-monotonic --no-pager | tail -n 80"))
            raise
        finally:
            machine.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
