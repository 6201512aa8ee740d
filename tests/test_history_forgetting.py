"""Usage counted again, retention, erasure, export: what an owner does to a history later."""

from __future__ import annotations

import asyncio
import os
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from test_history import DAY, T0, answers, keep, row
from understudy.errors import HistoryError
from understudy.history import History, Writer, segments
from understudy.history.chain import Limits


def everything(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir())


def test_usage_is_counted_by_day_party_and_principal(tmp_path: Path) -> None:
    rows = [row(i, T0 + i * DAY / 2, "acme-1", n=3) for i in range(4)]
    rows += [row(9, T0 + 5, "acme-2", n=1, audit=True), row(8, T0 + 6, "acme-1", n=50, status=429, answers=None)]
    keep(tmp_path, rows, limits=Limits(rows=2), together=False)
    keep(tmp_path, [row(7, T0 + 1, "acme-1", n=10)], "w2")
    used = [tuple(u) for u in History(tmp_path).usage()]
    first, second = date(2024, 10, 4), date(2024, 10, 5)
    assert used == [
        (first, "acme-1", "acme", "free", False, 16, 3, T0),
        (first, "acme-2", "acme", "free", True, 1, 1, T0 + 5),
        (second, "acme-1", "acme", "free", False, 6, 2, T0 + DAY),
    ]
    assert [u.rows for u in History(tmp_path).usage(since=T0 + 1.2 * DAY)] == [3]


# retention


def test_retention_removes_whole_segments_and_the_chain_holds_across(tmp_path: Path) -> None:
    head = keep(tmp_path, [row(i, T0 + i * DAY) for i in range(10)], limits=Limits(rows=2), together=False)
    history = History(tmp_path)
    stones = history.expire(T0 + 10 * DAY, 5.5)
    assert [(s.number, s.rows, s.first, s.last) for s in stones] == [
        (1, 2, T0, T0 + DAY),
        (2, 2, T0 + 2 * DAY, T0 + 3 * DAY),
    ]
    assert all(s.removed == T0 + 10 * DAY and s.name.startswith(f"{s.number:04d}-w1-") for s in stones)
    assert [s.number for s in history.segments()] == [3, 4, 5]
    assert history.verify({"w1": head}) == {"w1": head}
    assert len(list(history.rows())) == 6
    assert history.expire(T0 + 10 * DAY, 5.5) == []
    next(iter(tmp_path.glob("0004-*"))).unlink()
    with pytest.raises(HistoryError, match="segment 4 is not there"):
        history.verify()


def test_a_worker_goes_on_after_everything_of_it_expired(tmp_path: Path) -> None:
    keep(tmp_path, [row(i) for i in range(4)], limits=Limits(rows=3), together=False)
    history = History(tmp_path)
    assert [s.number for s in history.expire(T0 + 9 * DAY, 1)] == [1, 2]  # the last one too: nobody writes to it
    assert history.segments() == []
    head = keep(tmp_path, [row(5)])
    assert head.seq == 5
    assert [s.number for s in history.segments()] == [3]
    assert history.verify() == {"w1": head}


def test_a_segment_in_use_stays_and_an_idle_one_is_let_go(tmp_path: Path) -> None:
    async def work() -> None:
        history = History(tmp_path)
        busy, idle = Writer(tmp_path, "busy"), Writer(tmp_path, "idle", limits=Limits(age=0.2))
        await asyncio.gather(busy.append(row()), idle.append(row()))
        for _ in range(100):
            if any(s.closed for s in history.segments()):
                break
            await asyncio.sleep(0.05)
        assert [s.worker for s in history.expire(T0 + 9 * DAY, 1)] == ["idle"]
        await asyncio.gather(busy.append(row(1)), idle.append(row(1)))
        assert {name: head.seq for name, head in history.verify().items()} == {"busy": 2, "idle": 2}
        busy.close()
        idle.close()

    asyncio.run(work())


def test_a_removal_cut_short_is_finished(tmp_path: Path) -> None:
    head = keep(tmp_path, [row(i) for i in range(4)], limits=Limits(rows=2), together=False)
    history = History(tmp_path)
    path = history.segments()[0].path
    copy = path.read_bytes()
    segments.bury(tmp_path, history.segments()[:1], T0)
    path.write_bytes(copy)
    assert history.verify() == {"w1": head}
    assert [s.number for s in history.expire(T0 + 9 * DAY, 1)] == [2]
    assert history.segments() == []
    assert history.verify() == {"w1": head}


# erasure


def test_an_erased_principal_is_gone_from_the_bytes_and_the_chain_holds(tmp_path: Path) -> None:
    canary = np.full((2, 4), 1234.56789012345)
    gone = [row(i, principal="zanzibar-77", inputs=canary, context={"agent": "Canary/9"}) for i in range(0, 40, 2)]
    others = [row(i, principal="acme-1") for i in range(1, 40, 2)]
    mixed = [r for pair in zip(gone, others, strict=True) for r in pair]

    async def work() -> None:
        writer = Writer(tmp_path, "w1", limits=Limits(rows=15))
        for r in mixed:
            await writer.append(r)
        history = History(tmp_path)
        assert canary.tobytes() in everything(tmp_path)
        assert history.erase("zanzibar-77", T0 + 99) == 20
        for trace in (canary[0].tobytes(), b"zanzibar", b"Canary/9"):
            assert trace not in everything(tmp_path)
        await writer.append(row(50, principal="acme-1"))
        assert history.verify() == {"w1": writer.head}
        writer.close()

    asyncio.run(work())
    history = History(tmp_path)
    assert history.verify()["w1"].seq == 41
    erased = [k for k in history.rows() if k.erased]
    assert len(erased) == 20
    assert {(k.erased, k.row.principal, k.row.party, k.row.inputs, k.row.answers) for k in erased} == {
        (T0 + 99, "", "", None, None)
    }
    assert [k.row.rule for k in erased] == [r.rule for r in gone]
    assert len(list(history.exchanges())) == len(list(history.rows(principal="acme-1"))) == 21
    assert list(history.rows(principal="zanzibar-77")) == list(history.rows(principal="-" * 11)) == []
    assert {u.principal for u in history.usage()} == {"", "acme-1"}
    assert history.erase("zanzibar-77") == 0
    assert history.recent(100, "-" * 11) == history.recent(100, "zanzibar-77") == []
    assert {r.principal for r in history.recent(100)} == {"", "acme-1"}
    assert [r.at for r in history.recent(3, "acme-1")] == [T0 + 50, T0 + 39, T0 + 37]


def test_erasing_beside_a_busy_writer_loses_nothing(tmp_path: Path) -> None:
    async def work() -> None:
        writer = Writer(tmp_path, "w1", limits=Limits(rows=200))
        history = History(tmp_path)
        await asyncio.gather(*(writer.append(row(i, principal=f"p-{i % 2}")) for i in range(600)))
        erasing = asyncio.create_task(asyncio.to_thread(history.erase, "p-1"))
        n = 600
        while not erasing.done():
            await asyncio.gather(*(writer.append(row(n + i, principal="p-0")) for i in range(10)))
            n += 10
        assert await erasing == 300
        assert history.verify() == {"w1": writer.head}
        assert writer.head.seq == n
        writer.close()

    asyncio.run(work())


# export


def test_an_export_holds_everything_and_names_nobody(tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet", reason="needs the extra parquet")
    rows = [row(i, principal=f"acme-{i % 2}") for i in range(10)]
    rows += [row(10, status=429, inputs=None, answers=None, margin=None), row(11, inputs=np.ones((2, 3, 5)))]
    rows += [row(12, principal="zoe-1"), row(13, n=0, inputs=np.zeros((0, 4)), answers=answers(0), margin=np.zeros(0))]
    keep(tmp_path, rows, limits=Limits(rows=4), together=False)
    keep(tmp_path, [row(20)], "sketched", inputs="sketch")
    keep(tmp_path, [row(21)], "hashed", inputs="hash")
    history = History(tmp_path)
    history.erase("zoe-1", T0 + 50)
    out = tmp_path / "out.parquet"
    assert history.export(out) == 16
    table = pq.read_table(out)
    assert table.schema.metadata[b"understudy.schema"] == b"1"
    back = table.to_pylist()
    assert [b["at"].timestamp() for b in back] == [T0 + i for i in [*range(14), 20, 21]]
    for sent, got in zip(rows[:10], back, strict=False):
        assert sent.answers is not None
        np.testing.assert_array_equal(got["inputs"], sent.inputs)
        np.testing.assert_array_equal(got["label"], sent.answers["label"])
        np.testing.assert_array_equal(got["margin"], sent.margin)
        for values, mask, shown in zip(
            sent.answers["probabilities"], sent.answers.mask("probabilities"), got["probabilities"], strict=True
        ):
            assert shown == [v if m else None for v, m in zip(values.tolist(), mask, strict=True)]
        assert got["logits"] is None
        assert got["shape"] == [4]
    assert len({b["principal"] for b in back[:10]}) == 2
    assert len({b["party"] for b in back[:10]}) == 1
    assert (back[10]["inputs"], back[10]["label"], back[10]["status"]) == (None, None, 429)
    assert back[11]["shape"] == [3, 5]
    assert len(back[11]["inputs"][0]) == 15
    assert (back[12]["principal"], back[12]["inputs"], back[12]["rows"]) == (None, None, 2)
    assert back[12]["erased"].timestamp() == T0 + 50
    assert back[13]["inputs"] == back[13]["probabilities"] == []
    assert (len(back[14]["signs"]), len(back[14]["norms"]), len(back[15]["hashes"][0])) == (2, 2, 16)
    for trace in (b"acme", b"curl", b"r1", b"zoe"):
        assert trace not in out.read_bytes()
    assert history.export(out, since=T0 + 12) == 4
    assert not list(tmp_path.glob(".*part"))


def test_an_export_is_written_in_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq = pytest.importorskip("pyarrow.parquet", reason="needs the extra parquet")
    monkeypatch.setattr("understudy.history.export._GROUP", 50)
    keep(tmp_path, [row(i) for i in range(230)])
    History(tmp_path).export(tmp_path / "out.parquet")
    assert pq.ParquetFile(tmp_path / "out.parquet").num_row_groups == 5


def test_an_export_that_fails_leaves_nothing(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="needs the extra parquet")
    keep(tmp_path / "h", [row()])
    with pytest.raises(HistoryError, match="cannot be written"):
        History(tmp_path / "h").export(tmp_path / "nowhere" / "out.parquet")
    assert os.listdir(tmp_path) == ["h"]
