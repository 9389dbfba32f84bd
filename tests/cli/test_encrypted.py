"""The commands on an encrypted store: the key from wherever it is, and never shown."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from ckptfs.cli import application
from ckptfs.crypto.secret import Secret
from ckptfs.versions.opening import Access
from tests.cli.scene import Run, StoreWithVersions, assert_failed, ckptfs

KEY = "correct horse battery staple"


Here = Callable[..., Run]


@pytest.fixture
def here(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Here:
    """Runs the program in this process: what a new one costs to start is paid where it matters."""
    monkeypatch.setenv("XDG_CONFIG_HOME", "/nonexistent")
    monkeypatch.setenv("CKPTFS_CACHE_DIR", str(tmp_path / "cache"))

    def run(*arguments: str, env: Mapping[str, str] | None = None) -> Run:
        for name, value in (env or {}).items():
            monkeypatch.setenv(name, value)
        capfd.readouterr()
        code = application.run(arguments)
        return Run(code, *capfd.readouterr())

    return run


@pytest.fixture
def encrypted(tmp_path: Path) -> StoreWithVersions:
    store = StoreWithVersions(tmp_path, Access(key=lambda: Secret(KEY.encode()), encrypts=True))
    store.save({"a.bin": b"a" * 1000, "PLAIN-NAME": b"PLAIN-CONTENT" * 50}, {"step": 1, "word": "PLAIN-NOTE"})
    store.save({"a.bin": b"A" * 1000})
    return store


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_text(KEY + "\n")
    return path


def test_every_command_that_reads_a_store_opens_it_with_the_key(
    encrypted: StoreWithVersions, key_file: Path, tmp_path: Path
) -> None:
    key = ("--key-file", key_file)
    assert [each["version"] for each in ckptfs("log", encrypted.url, "--json", *key).json] == [2, 1]
    assert "PLAIN-NAME" in ckptfs("show", encrypted.url, "1", *key).out
    assert "a.bin" in ckptfs("diff", encrypted.url, "1", "2", *key).out
    assert ckptfs("tag", encrypted.url, "1", "best", *key).code == 0
    assert ckptfs("verify", encrypted.url, "--read-data", *key).out.startswith("2 versions checked: every byte")
    assert ckptfs("restore", encrypted.url, tmp_path / "out", "--version", "best", *key).code == 0
    assert (tmp_path / "out" / "a.bin").read_bytes() == b"a" * 1000
    pruned = ckptfs("prune", encrypted.url, "--keep-last", "1", "--json", *key)
    assert (pruned.json["dropped"], pruned.json["kept"]) == ([], 2)  # the tagged one stays
    assert ckptfs("tag", encrypted.url, "best", "--delete", *key).code == 0
    assert ckptfs("prune", encrypted.url, "--keep-last", "1", "--json", *key).json["dropped"] == [1]
    assert ckptfs("verify", encrypted.url, "--read-data", *key).out.startswith("1 version checked: every byte")
    found = {each["check"]: each for each in ckptfs("doctor", encrypted.url, "--json", *key).json}
    assert found["history"]["fact"].startswith("newest version 2, written by ")


@pytest.mark.parametrize("command", ["log", "show", "diff", "restore", "tag", "verify"])
def test_without_the_key_each_says_so_in_one_line(
    encrypted: StoreWithVersions, tmp_path: Path, here: Here, command: str
) -> None:
    more = {"show": ["1"], "diff": ["1", "2"], "restore": [str(tmp_path / "out")]}.get(command, [])
    run = here(command, encrypted.url, *more)
    assert_failed(run, f"{encrypted.url} is encrypted, and no key was given", "--key-file")
    run = here(command, encrypted.url, *more, env={"CKPTFS_KEY": "not-the-key"})
    assert_failed(run, f"the key that was given is not the key of {encrypted.url}", "--key-file")
    assert "not-the-key" not in run.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        (["--key-file", "KEYFILE"], {}),
        (["--key-command", "cat KEYFILE"], {}),
        ([], {"CKPTFS_KEY": KEY}),
        ([], {"CKPTFS_KEY_FILE": "KEYFILE"}),
        ([], {"CKPTFS_KEY_COMMAND": "head -c 100 KEYFILE | cat"}),
        (["--key-file", "KEYFILE"], {"CKPTFS_KEY": "another"}),
        (["--key-command", "cat KEYFILE"], {"CKPTFS_KEY_FILE": "/nonexistent"}),
        (["--config", "SETTINGS"], {}),
        (["--config", "SETTINGS-OF-ANOTHER"], {"CKPTFS_KEY": KEY}),
    ],
)
def test_the_key_comes_from_a_file_a_command_or_the_environment_and_a_flag_counts_first(
    encrypted: StoreWithVersions,
    key_file: Path,
    tmp_path: Path,
    here: Here,
    arguments: list[str],
    environment: dict[str, str],
) -> None:
    (tmp_path / "SETTINGS").write_text(f"[mount]\nkey-file = '{key_file}'\n")
    (tmp_path / "SETTINGS-OF-ANOTHER").write_text("[mount]\nkey-command = 'echo another'\n")
    places = {"KEYFILE": str(key_file), "SETTINGS": str(tmp_path / "SETTINGS")}

    def at(text: str) -> str:
        for name, place in places.items():
            text = text.replace(name, place)
        return text

    env = {name: at(value) for name, value in environment.items()}
    run = here("log", encrypted.url, *map(at, arguments), env=env)
    assert run.code == 0, run.err


@pytest.mark.parametrize(
    ("arguments", "fact"),
    [
        (["--key-file", "/nonexistent/key"], "cannot read the key from /nonexistent/key"),
        (["--key-file", "/dev/null"], "the key is empty"),
        (["--key-file", "/dev/zero"], "the key has more than 1048576 bytes"),
        (["--key-command", "echo geheim; exit 3"], "the key command ended with exit code 3"),
        (["--key-command", "true"], "the key is empty"),
        (["--key-command", "head -c 2000000 /dev/zero; sleep 100"], "the key has more than 1048576 bytes"),
    ],
)
def test_a_key_that_cannot_be_had_is_one_line_that_does_not_show_it(
    encrypted: StoreWithVersions, here: Here, arguments: list[str], fact: str
) -> None:
    run = here("log", encrypted.url, *arguments)
    assert_failed(run, fact)
    for verbose in (run, here("-v", "log", encrypted.url, *arguments)):
        assert "geheim" not in verbose.err.replace("echo geheim", "")


def test_a_key_for_a_store_that_is_not_encrypted_is_refused(store: StoreWithVersions) -> None:
    run = ckptfs("log", store.url, env={"CKPTFS_KEY": KEY})
    assert_failed(run, f"{store.url} is not encrypted, but a key was given", "leave it out")


def test_nothing_in_the_store_can_be_read_but_sizes(encrypted: StoreWithVersions, key_file: Path) -> None:
    assert ckptfs("tag", encrypted.url, "1", "PLAIN-TAG", "--key-file", key_file).code == 0
    words = [
        b"PLAIN",
        b"a.bin",
        b"step",
        b"gpu-07",
        b'"host"',
        b"aaaa",
        b"AAAA",
        b"ckptfsC",
        b"ckptfsP",
    ]
    objects = [path for path in encrypted.directory.rglob("*") if path.is_file()]
    assert len(objects) >= 7
    for path in objects:
        body = path.read_bytes()
        assert not any(word in body for word in words), path
        assert path.name == "format.json" or b'"' * 2 not in body


def rolled_back(store: StoreWithVersions, tmp_path: Path) -> None:
    """Have this machine see the store, then put it back by a version."""
    shutil.copytree(store.directory, tmp_path / "older", symlinks=True)
    store.save({"a.bin": b"newer"})
    assert ckptfs("log", store.url, "--cache-dir", tmp_path / "cache").code == 0
    shutil.rmtree(store.directory)
    (tmp_path / "older").rename(store.directory)


def test_a_store_that_was_put_back_is_refused_until_the_user_accepts_it(
    store: StoreWithVersions, tmp_path: Path
) -> None:
    rolled_back(store, tmp_path)
    cache = ("--cache-dir", tmp_path / "cache")
    for command in ("log", "verify"):
        assert_failed(ckptfs(command, store.url, *cache), "this machine has seen commit 5", "--accept-rollback")
    accepted: Run = ckptfs("log", store.url, *cache, "--json", "--accept-rollback")
    assert [each["version"] for each in accepted.json] == [3, 2, 1]
    assert ckptfs("log", store.url, *cache).code == 0


def test_sse_is_for_s3_alone(store: StoreWithVersions) -> None:
    assert_failed(ckptfs("tag", store.url, "1", "best", "--sse", "AES256"), "is not in S3", "--encrypt")
    run = ckptfs("tag", store.url, "1", "best", "--sse-kms-key-id", "x")
    assert (run.code, "--sse aws:kms" in run.err) == (2, True)
