"""Which versions the rules keep."""

from ckptfs.versions.retention import Retention

DAY_NS = 86_400 * 10**9
NUMBERS = list(range(12, 0, -1))


def four_a_day(number: int) -> int:
    """Versions 1 to 3 on day 0, 4 to 7 on day 1, 8 to 11 on day 2, 12 on day 3."""
    return number * DAY_NS // 4


def kept(**rules: int) -> list[int]:
    return sorted(Retention(**rules).kept(NUMBERS, four_a_day))


def test_without_a_rule_everything_is_kept() -> None:
    assert kept() == NUMBERS[::-1]
    assert Retention().keeps_all


def test_the_last_so_many_are_kept() -> None:
    assert kept(keep_last=3) == [10, 11, 12]
    assert kept(keep_last=99) == NUMBERS[::-1]


def test_the_newest_of_each_of_the_last_days_is_kept() -> None:
    assert kept(keep_daily=1) == [12]
    assert kept(keep_daily=3) == [7, 11, 12]
    assert kept(keep_daily=99) == [3, 7, 11, 12]


def test_days_without_a_version_do_not_count() -> None:
    assert Retention(keep_daily=2).kept([9, 2], four_a_day) == {2, 9}


def test_every_so_manieth_is_kept_for_ever_and_the_newest_whatever_its_number() -> None:
    assert kept(keep_every=5) == [5, 10, 12]


def test_what_one_rule_keeps_is_kept() -> None:
    assert kept(keep_last=2, keep_daily=2, keep_every=6) == [6, 11, 12]


def test_no_more_versions_are_looked_at_than_it_takes_to_find_the_days() -> None:
    asked: list[int] = []

    def captured_ns(number: int) -> int:
        asked.append(number)
        return four_a_day(number)

    Retention(keep_daily=2).kept(NUMBERS, captured_ns)
    assert asked == [12, 11]


def test_clocks_that_jump_between_versions_never_cost_the_newest() -> None:
    jumping = {4: 0, 3: 400 * DAY_NS, 2: DAY_NS, 1: 400 * DAY_NS}
    assert Retention(keep_daily=1).kept([4, 3, 2, 1], jumping.__getitem__) == {4}
    assert Retention(keep_daily=3).kept([4, 3, 2, 1], jumping.__getitem__) == {4, 3, 2}
