"""The cache directory: whose it must be, and that nobody else can put another in its place."""

import os
import stat
from pathlib import Path

import pytest

from ckptfs.cache.directory import CacheDirectory
from ckptfs.errors import CacheError

STRANGER = 65532

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")


@pytest.fixture
def sticky(tmp_path: Path) -> Path:
    """A directory like /tmp."""
    path = tmp_path / "sticky"
    path.mkdir()
    path.chmod(0o1777)
    return path


def refused(cache: Path) -> str:
    """Try to use a directory, which must fail; return what is said."""
    with pytest.raises(CacheError) as caught:
        CacheDirectory(cache / "store").prepare()
    assert "--cache-dir" in (caught.value.hint or "")
    return caught.value.fact


def test_below_a_directory_like_tmp_it_is_this_users_alone(sticky: Path) -> None:
    cache = CacheDirectory(sticky / "cache" / "store")
    before = os.umask(0)
    try:
        cache.prepare()
    finally:
        os.umask(before)
    assert stat.S_IMODE(cache.root.stat().st_mode) == 0o700
    assert stat.S_IMODE((sticky / "cache").stat().st_mode) == 0o755


def test_below_a_directory_where_everybody_may_rename_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    assert f"any user may put another {tmp_path}/open/cache in its place" in refused(tmp_path / "open" / "cache")


@needs_root
def test_below_such_a_directory_it_is_taken_if_nobody_else_gets_there(tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir()
    (tmp_path / "volume").chmod(0o777)
    cache = CacheDirectory(tmp_path / "volume" / "store")
    cache.prepare(trusted=True)
    assert stat.S_IMODE(cache.root.stat().st_mode) == 0o700


def test_what_another_user_planted_below_a_directory_like_tmp_is_refused(sticky: Path, tmp_path: Path) -> None:
    (sticky / "planted" / "below").mkdir(parents=True)
    os.chown(sticky / "planted", STRANGER, STRANGER)
    (tmp_path / "elsewhere").mkdir()
    (sticky / "link").symlink_to("../elsewhere")
    os.lchown(sticky / "link", STRANGER, STRANGER)
    (tmp_path / "indirect").symlink_to("./sticky/link")
    for cache in (sticky / "planted", sticky / "planted" / "below"):
        assert f"any user may put another {sticky}/planted in its place" in refused(cache)
    for cache in (sticky / "link", tmp_path / "indirect"):
        assert f"any user may put another {sticky}/link in its place" in refused(cache)


def test_links_of_ones_own_are_followed_and_circles_end(sticky: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (sticky / "link").symlink_to("../elsewhere")
    (tmp_path / "indirect").symlink_to(sticky / "link")
    CacheDirectory(tmp_path / "indirect" / "store").prepare()
    assert (tmp_path / "elsewhere" / "store" / "live").is_dir()
    (tmp_path / "circle").symlink_to("circle")
    refused(tmp_path / "circle")


@needs_root
def test_a_directory_of_another_user_is_refused_and_one_that_was_opened_is_closed(tmp_path: Path) -> None:
    cache = CacheDirectory(tmp_path / "cache" / "store")
    cache.prepare()
    cache.root.chmod(0o777)
    cache.pending.chmod(0o755)
    cache.live.chmod(0o755)
    cache.prepare()
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (cache.root, cache.pending, cache.live)]
    # the live tree's is the mode of the mount's root
    assert modes == [0o700, 0o700, 0o755]
    os.chown(cache.root, STRANGER, STRANGER)
    assert f"it belongs to another user (uid {STRANGER})" in refused(tmp_path / "cache")


def test_a_link_in_the_place_of_the_directory_or_of_a_part_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "store").symlink_to(tmp_path / "elsewhere")
    refused(tmp_path / "cache")
    assert list((tmp_path / "elsewhere").iterdir()) == []
    (tmp_path / "cache" / "store").unlink()
    CacheDirectory(tmp_path / "cache" / "store").prepare()
    for name in ("pending", "contents"):
        (tmp_path / "cache" / "store" / name).rmdir()
        (tmp_path / "cache" / "store" / name).symlink_to(tmp_path / "elsewhere")
        refused(tmp_path / "cache")
