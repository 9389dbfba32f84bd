"""What a configuration may say, and how it is told what is wrong with it."""

import re
from pathlib import Path

import pytest

from ckptfs.cli.commands.mount import command as mount_command
from ckptfs.cli.settings import settings_of
from ckptfsd.configuration import load_configuration
from ckptfsd.configuration_files import ConfigurationError, configuration_files
from ckptfsd.settings import DaemonSettings, mount_setting_keys

EXAMPLE = Path(__file__).parents[2] / "systemd" / "ckptfs.toml.example"


def write(directory: Path, text: str, **others: str) -> Path:
    (directory / "conf.d").mkdir(exist_ok=True)
    for name, content in others.items():
        (directory / "conf.d" / f"{name}.toml").write_text(content)
    path = directory / "ckptfs.toml"
    path.write_text(text)
    return path


MOUNT = '[mounts.llama]\nstore = "s3://models/llama"\nmountpoint = "/ckpt/llama"\n'


def test_a_mount_has_its_own_settings_then_the_defaults_then_those_of_the_command(tmp_path: Path) -> None:
    text = (
        '[mount]\ncache-dir = "/c"\nlease = "10s"\ndrain-timeout = "1m"\n[defaults]\nlease = "20s"\nupload_nice = 5\n'
    )
    path = write(tmp_path, text + MOUNT + 'drain-timeout = "2m"\nno-prefetch = true\n')
    options = load_configuration(path).mounts["llama"].options
    assert (options.cache_dir, options.lease_s, options.drain_timeout_s) == (Path("/c"), 20.0, 120.0)
    assert (options.upload_nice, options.prefetch, options.allow_other) == (5, False, False)


def test_settings_of_the_command_that_a_daemon_has_no_use_for_do_no_harm(tmp_path: Path) -> None:
    path = write(tmp_path, "[mount]\nforeground = true\naccept-rollback = true\n" + MOUNT)
    assert set(load_configuration(path).mounts) == {"llama"}


def test_every_option_of_the_mount_command_is_a_setting() -> None:
    theirs = {setting.key for setting in settings_of(mount_command)}
    ours = {setting.key for setting in mount_setting_keys()}
    assert theirs - ours == {"foreground", "accept-rollback", "fuse-fd", "fuse-socket"}
    assert {"cache-dir", "read-only", "version", "save-on-exit"} <= ours


def test_environments_are_put_together_key_by_key(tmp_path: Path) -> None:
    text = '[defaults.environment]\nAWS_PROFILE = "a"\nAWS_REGION = "eu-1"\n' + MOUNT
    path = write(tmp_path, text + '[mounts.llama.environment]\nAWS_PROFILE = "b"\n')
    assert load_configuration(path).mounts["llama"].environment == {"AWS_PROFILE": "b", "AWS_REGION": "eu-1"}


def test_files_of_conf_d_are_put_together_in_the_order_of_their_names(tmp_path: Path) -> None:
    first = '[defaults]\nlease = "11s"\n' + MOUNT
    second = '[defaults]\nlease = "12s"\n' + MOUNT.replace("llama", "bert")
    path = write(tmp_path, '[defaults]\nlease = "10s"\n', a=first, b=second)
    mounts = load_configuration(path).mounts
    assert {name: mount.options.lease_s for name, mount in mounts.items()} == {"llama": 12.0, "bert": 12.0}


def test_what_an_editor_or_a_tool_puts_into_conf_d_for_a_moment_is_no_part_of_it(tmp_path: Path) -> None:
    path = write(tmp_path, "", llama=MOUNT)
    (tmp_path / "conf.d" / ".#llama.toml").symlink_to("somebody@somewhere.1234")  # Emacs, while a change is not saved
    (tmp_path / "conf.d" / ".ansible_tmp12345llama.toml").write_text(MOUNT)
    (tmp_path / "conf.d" / "llama.toml~").write_text(MOUNT)
    assert configuration_files(path) == [path, tmp_path / "conf.d" / "llama.toml"]
    assert set(load_configuration(path).mounts) == {"llama"}


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        ("[mounts.llama\n", ":1: it is not TOML", None),
        (MOUNT + 'drain-timeout = "soon"\n', ":4: mounts.llama.drain-timeout: 'soon' is not a duration", None),
        (MOUNT + "upload-nice = 20\n", ":4: mounts.llama.upload-nice: 20 is not in the range", None),
        (
            MOUNT + "allow-other = 1\n",
            ":4: mounts.llama.allow-other: allow-other is 1, and should be true or false",
            None,
        ),
        (MOUNT + 'transport = "magic"\n', ":4: mounts.llama.transport: 'magic' is not one of", None),
        (MOUNT + 'drain-tmeout = "1m"\n', ":4: mounts.llama.drain-tmeout: there is no setting", "'drain-timeout'"),
        (MOUNT + "follow = true\n", ":1: follow goes with read-only", None),
        ('# what\n\n[mounts.a]\nstore = "s3://bkt/c"\n', ":3: mounts.a.mountpoint: 'mountpoint' is missing", None),
        ('[mounts.a]\nmountpoint = "/a"\nstore = """\nftp://x"""\n', ":4: mounts.a.store: ftp:// is not a store", None),
        ('[mounts.a]\nmountpoint = "/a"\nstore = "s3://"\n', ":3: mounts.a.store: '' is not the name of a", None),
        (
            '[mounts.a]\nmountpoint = "/a"\nstore = "file:///"\n',
            ":3: mounts.a.store: file:/// names no directory",
            None,
        ),
        ('[mounts.a]\nstore = "s3://bkt/c"\nmountpoint = "a"\n', ":3: mounts.a.mountpoint: 'a' is not an abs", None),
        (
            '[mounts.a]\nstore = "s3://bkt/c"\nmountpoint = "/"\n',
            ":3: mounts.a.mountpoint: a mount point is not /",
            None,
        ),
        (MOUNT + 'cache-dir = "cache"\n', ":4: mounts.llama.cache-dir: 'cache' is not an absolute path", None),
        ('[daemon]\nruntime-dir = "run"\n', ":2: daemon.runtime-dir: 'run' is not an absolute path", None),
        ("[daemon]\ntoken-file = 7\n", ":2: daemon.token-file: 7 is not an absolute path", None),
        ('[defaults]\nlaese = "1m"\n', ":2: defaults.laese: there is no setting 'laese'", "'lease'"),
        ('[defaults]\nlease = "x"\n', ":2: defaults.lease: 'x' is not a duration", None),
        ('[mount]\nkey-file = "~/key"\n', ":2: mount.key-file: '~/key' is not an absolute path", None),
        ('[mounts."a b"]\nstore = "s3://bkt/c"\nmountpoint = "/a"\n', ":1: mounts.a b: a mount's name has", None),
        ('[defaults]\nlease = "x"\n' + MOUNT, ":2: defaults.lease: 'x' is not a duration", None),
        ('[daemon]\nlisten = "0.0.0.0:9470"\n', ":2: daemon.listen: only an address of this machine", None),
        ('[daemon]\nlisten = "127.0.0.1:9470"\n', ":2: `listen` needs a token-file", "openssl"),
        ("[daemon]\nwach = false\n", ":2: daemon.wach: there is no setting", "'watch'"),
        ("[mout]\n", ":1: there is no table 'mout'", "'mount'"),
        ('mountpoint = "/a"\n', ":1: 'mountpoint' is a value, and should be in a table", "[mounts.NAME]"),
        (MOUNT + MOUNT.replace("mounts.llama", "mounts.b"), ":6: the mount point /ckpt/llama is at that", None),
        (MOUNT + '[mounts.b]\nstore = "s3://bkt/c"\nmountpoint = "/ckpt/llama/b"\n', ":6: the mount point", None),
        (
            MOUNT + '[mounts.b]\nstore = "s3://bkt/c"\nmountpoint = "/ckpt"\n',
            ":6: the mount point /ckpt is above",
            None,
        ),
        (
            MOUNT + '[mounts.b]\nstore = "s3://models/llama/"\nmountpoint = "/b"\n',
            ":5: s3://models/llama/ is written by the mount 'llama' already",
            "read-only",
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, text: str, said: str, hint: str | None) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigurationError) as caught:
        load_configuration(path)
    assert caught.value.fact.startswith(f"{path}{said}"), caught.value.fact
    assert hint is None or hint in str(caught.value.hint)


def test_an_error_names_the_file_that_it_is_in(tmp_path: Path) -> None:
    path = write(tmp_path, MOUNT, other="\n\n" + MOUNT)
    with pytest.raises(
        ConfigurationError, match=r"conf\.d/other\.toml:3: the mount 'llama' is described in another file"
    ):
        load_configuration(path)
    with pytest.raises(ConfigurationError, match=r"cannot read .*absent\.toml: No such file"):
        load_configuration(tmp_path / "absent.toml")


def test_the_example_has_every_setting_and_is_valid_as_it_is_and_with_all_of_them(tmp_path: Path) -> None:
    text = EXAMPLE.read_text()
    assert set(load_configuration(write(tmp_path, text)).mounts) == {"llama"}
    # a line that is `#key = value` is a setting that is left at its default
    uncommented = "\n".join(line[1:] if re.match(r"#[a-z-]+ = |#\[", line) else line for line in text.splitlines())
    token = tmp_path / "token"
    configuration = load_configuration(write(tmp_path, uncommented.replace("/etc/ckptfs/token", str(token))))
    assert set(configuration.mounts) == {"llama", "eval"}
    ours = [setting.key for setting in mount_setting_keys()]
    for key in [*ours, *(str(field.alias) for field in DaemonSettings.model_fields.values())]:
        assert f"\n{key} = " in uncommented, f"{key} is not in the example"


@pytest.mark.parametrize(
    "more",
    [
        "read-only = true\nfollow = true\n",
        'version = "best"\n',
        'environment = { AWS_ENDPOINT_URL = "http://127.0.0.1:9000" }\n',
    ],
)
def test_a_store_may_be_read_beside_its_writer_and_its_url_may_mean_another_one_elsewhere(
    tmp_path: Path, more: str
) -> None:
    path = write(tmp_path, MOUNT + MOUNT.replace("llama]", "b]").replace("/ckpt/llama", "/ckpt/b") + more)
    assert set(load_configuration(path).mounts) == {"llama", "b"}
