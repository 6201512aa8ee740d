"""Following a history: every row once and in time, through restarts, new segments, retention and erasure."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.history import History, Place, Row, Writer, read_on
from understudy.history.writer import Limits
from understudy.types import Answers, Signal


def row(at: float, principal: str = "a") -> Row:
    answers = Answers({Signal.LABEL: np.array([1])}, 2)
    return Row(at, principal, principal, "t", "/", "v", "within", 200, 1, np.array([[at]]), answers)


def write(folder: Path, worker: str, times: list[float], principal: str = "a", rows: int = 1000) -> None:
    async def all_of_them() -> None:
        writer = Writer(folder, worker, limits=Limits(rows=rows))
        for at in times:
            await writer.append(row(at, principal))
        writer.close()

    asyncio.run(all_of_them())


def read_all(folder: Path, limit: int, places: dict[str, Place] | None = None) -> tuple[list[float], dict[str, Place]]:
    """Everything, in as many reads as it takes; every read is held to its promises."""
    places, times = places or {}, list[float]()
    while True:
        found = read_on(folder, places, limit)
        got = [kept.row.at for kept in found.rows]
        assert got == sorted(got)
        assert not times or not got or got[0] >= times[-1]
        times += got
        if found.places == places:
            assert not found.behind
            return times, places
        places = found.places


@given(
    st.lists(st.integers(0, 50), max_size=12), st.lists(st.integers(0, 50), max_size=12), st.integers(1, 5),
    st.integers(2, 5),
)  # fmt: skip
@settings(max_examples=25, deadline=None)
def test_every_row_comes_once_and_in_time(
    tmp_path_factory: pytest.TempPathFactory, one: list[int], other: list[int], limit: int, rows: int
) -> None:
    folder = tmp_path_factory.mktemp("history")
    for worker, times in (("0", one), ("1", other)):
        write(folder, worker, sorted(map(float, times)), rows=rows)
    times, places = read_all(folder, limit)
    assert times == sorted(map(float, one + other))
    write(folder, "0", [100.0, 101.0], rows=rows)
    assert read_all(folder, limit, places)[0] == [100.0, 101.0]


def test_a_worker_with_more_holds_the_others_back(tmp_path: Path) -> None:
    write(tmp_path, "0", [1, 2, 3, 4])
    write(tmp_path, "1", [2.5, 3.5])
    found = read_on(tmp_path, {}, 2)
    assert [kept.row.at for kept in found.rows] == [1, 2]
    assert found.behind == 4
    assert found.places == {"0": Place(1, 2)}


def test_what_retention_removed_unread_is_counted(tmp_path: Path) -> None:
    write(tmp_path, "0", [1, 2, 3, 4, 5], rows=2)
    places = read_on(tmp_path, {}, 1).places
    History(tmp_path).expire(86_400 * 10 + 4.5, 10)
    found = read_on(tmp_path, places, 10)
    assert [kept.row.at for kept in found.rows] == [5]
    assert found.lost == 3
    assert read_on(tmp_path, {}, 10).lost == 0  # whoever begins has lost nothing


def test_erased_and_damaged_rows_are_passed_over(tmp_path: Path) -> None:
    write(tmp_path, "0", [1, 2], "a")
    write(tmp_path, "0", [3, 4], "b")
    History(tmp_path).erase("a")
    path = next(tmp_path.glob("0001-*.sqlite"))
    with sqlite3.connect(path) as db:
        db.execute("UPDATE rows SET body = x'00' WHERE seq = 3")
    found = read_on(tmp_path, {}, 10)
    assert [kept.row.at for kept in found.rows] == [4]
    assert (found.damaged, found.places) == (1, {"0": Place(1, 4)})
