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


_TRAINER = """cat >/etc/systemd/system/trainer.service <<E
[Unit]
After=ckptfsd.service
[Service]
ExecStart=/bin/sh -c 'trap "echo written at the end >model; exit 0" TERM; cd /ckpt/b; while :; do sleep 0.1; done'
ExecStopPost=ckptfs save /ckpt/b -m stopped --wait
TimeoutStopSec=120
E
systemctl daemon-reload; systemctl start trainer; sleep 1; systemctl stop trainer"""

_FSTAB = """mkdir -p /ckpt/fstab /ckpt/llama
echo CKPTFS_CACHE_DIR=/var/cache/ckptfs/fstab | tee /etc/ckptfs/fstab.env >/etc/ckptfs/llama.env
echo 'file:///store/fstab /ckpt/fstab ckptfs \
_netdev,nofail,save_on_exit,env-file=/etc/ckptfs/fstab.env,x-systemd.mount-timeout=330 0 0' >>/etc/fstab
cd /usr/local/share/doc/ckptfs
sed 's#s3://models/llama#file:///store/llama#' ckpt-llama.mount.example >/etc/systemd/system/ckpt-llama.mount
systemctl daemon-reload
systemctl enable -q --now ckpt-llama.mount
systemctl start ckpt-fstab.mount"""

_MOST_EXPOSED = {"ckptfsd.service": 5.1, "ckptfs@x.service": 5.0, "ckptfs-preempt.service": 2.1}
"""What `systemd-analyze security` makes of the units: of the first two most is for what would hide mounts."""


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
        self.describe("a", "save-on-exit = true")
        self.describe("b")
        machine.wait("both are mounted", lambda: "2 of 2" in self.status_text())
        for name in "ab":
            assert machine.sh(f"findmnt -no FSTYPE /ckpt/{name}").strip() == "fuse.ckptfs"
        transport = self.status("a")["transport"]
        self.say(f"two files in conf.d were taken at once: {self.status_text()!r}, transport {transport}")

    def harden(self) -> None:
        machine = self.machine
        assert machine.sh("systemd-analyze verify /etc/systemd/system/ckptfs*.service 2>&1") == ""
        found = {}
        for unit, most in _MOST_EXPOSED.items():
            last = machine.sh(f"systemd-analyze security --no-pager {unit}").splitlines()[-1]
            found[unit] = float(last.partition(": ")[2].split()[0])
            assert found[unit] <= most, last
        devices = Path("/sys/fs/cgroup/devices")
        if (devices / "tasks").exists():
            group = machine.sh(f"sed -n 's/.*:devices://p' /proc/{self.wait_up()}/cgroup").strip()
            allowed = machine.sh(f"cat {devices}{group}/devices.list").splitlines()
            assert "c 10:229 rw" in allowed, "/dev/fuse"
            assert not any(line.startswith(("a", "b")) and "r" in line for line in allowed), allowed
        self.say(f"systemd-analyze verifies the units; exposure: {found}")

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

    def trainer(self) -> None:
        before = self.status("b")["version"]
        self.machine.sh(_TRAINER)
        assert self.machine.unit("trainer")["Result"] == "success"
        newest = self.status("b")["newest"]
        assert (newest["version"], newest["state"], newest["note"]) == (before + 1, "durable", "stopped")
        assert self.machine.sh("cat /ckpt/b/.versions/latest/model") == "written at the end\n"
        self.say("ExecStopPost= of a training service saved what it wrote when it was stopped")

    def mount_units(self) -> None:
        machine = self.machine
        machine.sh(_FSTAB)
        for name in ("fstab", "llama"):
            assert machine.unit(f"ckpt-{name}.mount")["TimeoutUSec"] == "5min 30s"
            machine.sh(f"echo by {name} >/ckpt/{name}/model; systemctl stop ckpt-{name}.mount")
            assert machine.unit(f"ckpt-{name}.mount")["Result"] == "success"
            assert json.loads(machine.sh(f"ckptfs log --json file:///store/{name}"))[0]["version"] == 1
        machine.sh("mount -a; systemctl start ckpt-llama.mount")
        machine.sh("echo later | tee /ckpt/fstab/model >/ckpt/llama/model")
        machine.reboot(machine.lose_cache)
        machine.wait("systemd has mounted both", lambda: machine.try_sh("findmnt /ckpt/fstab && findmnt /ckpt/llama"))
        assert machine.sh("cat /ckpt/fstab/model /ckpt/llama/model") == "later\nlater\n"
        self.say("a line of fstab and the .mount unit: stopped, `mount -a`; a reboot saved, the next boot restored")

    def single_mount_unit(self) -> None:
        machine = self.machine
        machine.sh(
            "mkdir -p /ckpt/single; printf 'CKPTFS_STORE=file:///store/single\\nCKPTFS_MOUNTPOINT=/ckpt/single\\n'"
            " >/etc/ckptfs/single.env; systemctl start ckptfs@single; echo x >/ckpt/single/x; touch /ckpt/single/.save"
        )
        machine.sh(f"kill -9 {machine.unit('ckptfs@single')['MainPID']}")
        again = machine.wait("it is mounted again", lambda: machine.try_sh("cat /ckpt/single/x 2>/dev/null"))
        assert again == "x\n"
        machine.sh("systemctl stop ckptfs@single")
        assert machine.unit("ckptfs@single")["Result"] == "success"
        machine.sh("printf 'CKPTFS_UPLOAD_LIMIT=100K\\nCKPTFS_DRAIN_TIMEOUT=2s\\n' >>/etc/ckptfs/single.env")
        machine.sh("systemctl start ckptfs@single; head -c 4M /dev/urandom >/ckpt/single/x; touch /ckpt/single/.save")
        machine.sh("systemctl stop ckptfs@single")
        assert machine.unit("ckptfs@single")["Result"] == "exit-code"
        message = machine.journal("unmounted with 1 version(s) not durable", "ckptfs@single")[-1]["MESSAGE"]
        self.say(f"ckptfs@single: started, killed and mounted again, stopped; what is left fails the unit: {message!r}")

    def uninstall(self) -> None:
        machine = self.machine
        machine.sh("systemctl start ckptfs@single; cd /src; if make uninstall-systemd; then exit 1; fi")
        assert machine.try_sh("pgrep -f ckptfsd") == ""
        machine.sh("systemctl stop ckpt-fstab.mount ckpt-llama.mount; cd /src; make uninstall-systemd")
        left = machine.try_sh("find /opt /usr/local /sbin/ /etc/systemd -name '*ckptfs*'")
        assert left == "", left
        machine.sh("ls /etc/ckptfs/conf.d/a.toml /var/cache/ckptfs/seen")
        machine.sh("cd /src; make install-systemd; systemctl start ckptfsd")
        assert self.status("b")["version"] > 0
        self.say("`make uninstall-systemd` refused while others were mounted, then left configuration and cache alone")


def main() -> int:
    """Run the story; return an exit code."""
    build()
    with tempfile.TemporaryDirectory(prefix="ckptfs-systemd-") as directory:
        machine = Machine(Path(directory))
        story = Story(machine)
        try:
            story.install_and_start()
            story.harden()
            story.touch()
            for action in (story.restart, story.kill_daemon, story.watchdog, story.kill_all, story.reload):
                story.under_load(action)
            story.preempt()
            story.trainer()
            story.stop()
            story.stop_with_versions_left()
            story.boot_again()
            story.mount_units()
            story.single_mount_unit()
            story.uninstall()
        except BaseException:
            sys.stdout.write(machine.try_sh("journalctl -o short-monotonic --no-pager | tail -n 80"))
            raise
        finally:
            machine.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
