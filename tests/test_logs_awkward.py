"""Logs as other tools write them: odd names, odd types, odd files; what they hold is read, or it is said why not."""

from __future__ import annotations

import csv
import gzip
import json
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from test_logs import COLUMNS, FLAT, KSERVE, MAPPED, START, Traffic, capture, events, holds, manifest, write_lines
from test_logs_hostile import GOOD, SIMPLE, rejects
from understudy import logs
from understudy.errors import UsageError
from understudy.logs import _files
from understudy.logs._layout import Layout
from understudy.types import Signal


def flat(t: Traffic, names: list[str]) -> list[dict[str, Any]]:
    """A record a query, a column a coordinate."""
    return [
        {
            **dict(zip(names, t.x[i].tolist(), strict=True)),
            "who": t.who[i],
            "org": t.party[i],
            "ts": float(t.at[i]),
            "good": float(t.p[i, 0]),
            "bad": float(t.p[i, 1]),
        }
        for i in range(t.n)
    ]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_columns_may_be_called_anything(tmp_path: Path, kind: str) -> None:
    """As scikit-learn names those of its tables: with spaces, units and slashes."""
    names = ["mean radius", "petal width (cm)", "od280/od315_of_diluted_wines"]
    t = Traffic()
    records = [{"customer id": r.pop("who"), **r} for r in flat(t, names)]
    path = tmp_path / f"a.{kind}"
    if kind == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(records[0]))
            writer.writeheader()
            writer.writerows(records)
    elif kind == "jsonl":
        write_lines(path, records)
    else:
        pq.write_table(pa.Table.from_pylist(records), path)
    holds(logs.read(path, manifest({**FLAT, "principal": "customer id", "inputs": names})), t)


def test_a_file_that_two_patterns_name_is_read_once(tmp_path: Path) -> None:
    t = Traffic()
    path = write_lines(tmp_path / "a.jsonl", t.records())
    sources = [path, tmp_path / "*.jsonl", tmp_path, f"file://{path}"]
    assert sum(len(q) for q in logs.read(sources[:3], manifest(MAPPED))) == t.n
    holds(logs.read([sources[3]] * 2, manifest(MAPPED)), t)


def test_folders_that_a_pattern_or_a_url_names(tmp_path: Path) -> None:
    t = Traffic()
    for day in range(3):
        (tmp_path / f"day-{day}").mkdir()
        write_lines(tmp_path / f"day-{day}" / "a.jsonl", t.records()[day::3])
    (tmp_path / "day-1" / "README").write_text("not a log")
    for source in (tmp_path / "day-*", tmp_path / "**" / "*.jsonl", f"file://{tmp_path}"):
        holds(logs.read(source, manifest(MAPPED)), t)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no such log"):
        list(logs.read(tmp_path / "emp*", manifest(MAPPED)))


def test_a_zip_is_read_by_its_url(tmp_path: Path) -> None:
    t = Traffic()
    write_lines(tmp_path / "a.jsonl", t.records())
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.write(tmp_path / "a.jsonl", "deep/a.jsonl")
    for inside in ("deep/a.jsonl", "deep/*.jsonl"):
        holds(logs.read(f"zip://{inside}::file://{tmp_path}/a.zip", manifest(MAPPED)), t)
    (tmp_path / "b.zip").write_text("no zip")
    for url in (f"zip://a.jsonl::file://{tmp_path}/b.zip", f"zip://b.jsonl::file://{tmp_path}/a.zip"):
        with pytest.raises(UsageError, match="cannot be opened"):
            list(logs.read(url, manifest(MAPPED)))


class Talkative(fsspec.AbstractFileSystem):
    """A file system whose errors repeat the address."""

    protocol = "talkative"

    def _open(self, path: str, *args: Any, **more: Any) -> Any:
        raise RuntimeError(f"cannot reach talkative://user:hunter2@{path}?sig=hunter2")


def test_what_is_secret_in_an_address_is_not_repeated() -> None:
    fsspec.register_implementation("talkative", Talkative, clobber=True)
    url = "talkative://user:hunter2@host/a.jsonl?sig=hunter2"
    assert logs.shown(url) == "talkative://host/a.jsonl"
    assert logs.shown(f"zip://b.jsonl::{url}") == "zip://b.jsonl::talkative://host/a.jsonl"
    with pytest.raises(UsageError, match="RuntimeError") as told:
        list(logs.read("talkative://host/a.jsonl", manifest(MAPPED)))
    assert "hunter2" not in str(told.value)


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_what_is_packed_and_damaged(tmp_path: Path, suffix: str) -> None:
    """However short it is, what came before the damage is read; in one document, there is nothing before it."""
    t = Traffic(300)
    raw = b"".join(orjson.dumps(r) + b"\n" for r in t.records())
    pack = gzip.compress if suffix == "gz" else zstandard.ZstdCompressor().compress
    parts = [pack(raw[i : i + 4000]) for i in range(0, len(raw), 4000)]  # frame after frame
    (tmp_path / f"a.jsonl.{suffix}").write_bytes(b"".join(parts) + bytes(512 if suffix == "gz" else 0))
    holds(logs.read(tmp_path, manifest(MAPPED)), t)
    cut = b"".join(parts[:5])
    (tmp_path / f"a.jsonl.{suffix}").write_bytes(cut[:-9])
    found, _, tally = rejects(tmp_path / "r", tmp_path, MAPPED)
    assert sum(map(len, found)) >= 100
    assert tally.rejected.total() == 1
    (tmp_path / f"a.jsonl.{suffix}").unlink()
    whole = bytearray(pack(orjson.dumps(t.records())))
    whole[len(whole) // 2 : len(whole) // 2 + 40] = bytes(40)
    (tmp_path / f"a.json.{suffix}").write_bytes(whole)
    with pytest.raises(UsageError, match="is damaged"):
        list(logs.read(tmp_path, manifest(MAPPED)))


def test_parquet_that_is_packed(tmp_path: Path) -> None:
    t = Traffic()
    pq.write_table(pa.Table.from_pylist(t.records()), tmp_path / "a.parquet")
    raw = (tmp_path / "a.parquet").read_bytes()
    for suffix, pack in (("gz", gzip.compress), ("zst", zstandard.compress)):
        path = tmp_path / f"a.parquet.{suffix}"
        path.write_bytes(pack(raw))
        holds(logs.read(path, manifest(MAPPED)), t)
        path.write_bytes(pack(raw)[:-40])
        with pytest.raises(UsageError, match="ends too early"):
            list(logs.read(path, manifest(MAPPED)))


@pytest.mark.parametrize("nested", [False, True])
def test_parquet_with_texts_that_are_none_and_dates_beyond_all_dates(tmp_path: Path, nested: bool) -> None:
    n = 40
    raw = pa.array([b"\xff\xfe" if i < 3 else b"who-%d" % (i % 5) for i in range(n)], pa.binary())
    who = pa.Array.from_buffers(pa.string(), n, raw.buffers())
    at = pa.array([2**62 if 3 <= i < 6 else round((START + i) * 1e6) for i in range(n)], pa.timestamp("us"))
    table = pa.table({"principal": who, "at": at, "inputs": [[1.0, 2.0, 3.0]] * n, "y": [0] * n})
    if nested:
        table = table.append_column("more", pa.array([{"id": i} for i in range(n)]))
    pq.write_table(table, tmp_path / "a.parquet")
    places = {"answers": {"label": "y"}, **({"id": "more.id"} if nested else {})}
    found, told, tally = rejects(tmp_path / "r", tmp_path / "a.parquet", places)
    assert sum(map(len, found)) == n - 6
    assert {r["line"] for r in told} == set(range(1, 7))
    assert tally.rejected.total() == 6


def test_times_that_no_calendar_has(tmp_path: Path) -> None:
    records = [{**GOOD, "at": at} for at in (-1e15, -1e19, 9e19, START, "0001-01-01T00:00:00+14:00", "2026-11-30")]
    found, _, tally = rejects(tmp_path / "r", write_lines(tmp_path / "a.jsonl", records), SIMPLE)
    assert all(q.at.min() >= -62135596800 and q.at.max() < 253402300800 for q in found)
    assert sum(map(len, found)) + tally.rejected.total() == len(records)
    assert START in np.concatenate([q.at for q in found])
    columns = {
        "principal": ["a"] * 4,
        "at": [1e30, -1e30, START, float("inf")],
        "y": [0] * 4,
        "inputs": [[1.0] * 3] * 4,
    }
    pq.write_table(pa.table(columns), tmp_path / "b.parquet")
    (only,) = logs.read(tmp_path / "b.parquet", manifest(SIMPLE))
    assert only.at.tolist() == [START]


def test_days_and_whole_numbers_of_a_frame(tmp_path: Path) -> None:
    """A day as the time; numbers of accounts that became floating because some were missing."""
    days = pa.array([20_000, 20_001, 20_002], pa.int32()).cast(pa.date32())
    columns = {"principal": [7.0, 7.0, None], "at": days, "y": [0] * 3, "inputs": [[1.0] * 3] * 3}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    found, _, tally = rejects(tmp_path / "r", tmp_path / "a.parquet", SIMPLE)
    assert [(q.principal, q.at.tolist()) for q in found] == [("7", [20_000 * 86_400.0, 20_001 * 86_400.0])]
    assert tally.rejected.total() == 1


def test_a_file_that_only_says_it_is_an_export(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([GOOD]).replace_schema_metadata({"understudy.kind": "history"})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(UsageError, match="no whole export: it lacks audit, erased"):
        list(logs.read(tmp_path / "a.parquet", manifest(SIMPLE)))


def test_a_first_record_of_another_kind_decides_nothing(tmp_path: Path) -> None:
    t, tally = Traffic(), logs.Tally()
    write_lines(tmp_path / "a.jsonl", [{"heartbeat": 1}, *capture(t, "JSON")])
    holds(logs.read(tmp_path, manifest({"party": "eventMetadata.customAttributes[1]"}), tally), t)
    assert tally.rejected == {"no principal at principal: name its place in monitor.logs.principal": 1}


def test_a_place_where_nothing_is_is_a_mistake_and_not_a_log_without_inputs(tmp_path: Path) -> None:
    t = Traffic()
    write_lines(tmp_path / "a.jsonl", t.records())
    pq.write_table(pa.Table.from_pylist(flat(t, COLUMNS)), tmp_path / "b.parquet")
    for name, places in (
        ("a.jsonl", {**MAPPED, "inputs": "featurs"}),
        ("b.parquet", {**FLAT, "inputs": ["a", "b", "c"]}),
    ):
        with pytest.raises(UsageError, match=r"no record has anything where monitor\.logs\.inputs says"):
            list(logs.read(tmp_path / name, manifest(places)))
    with pytest.raises(UsageError, match=r"60 of them: not answered: is monitor\.logs\.answers right"):
        list(logs.read(tmp_path / "a.jsonl", manifest({**MAPPED, "answers": {"label": "labl"}})))
    unkept = {place: path for place, path in MAPPED.items() if place != "inputs"}
    assert all(q.inputs is None for q in logs.read(tmp_path / "a.jsonl", manifest(unkept)))


def test_two_columns_of_one_name(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('principal,at,inputs,y,y\na,1,"[1,2,3]",0,1\n')
    with pytest.raises(UsageError, match="two columns have the same name"):
        list(logs.read(tmp_path / "a.csv", manifest(SIMPLE)))


def picky(values: list[Any]) -> Any:
    """Numbers of words; of some it knows nothing."""
    return [[{"a": 1.0, "b": 2.0}[value], 0, 0] for value in values]


def test_an_encoder_that_fails_spoils_the_records_that_it_fails_at(tmp_path: Path) -> None:
    words = ["a", "b", "a", "zz", "b", "a", "yy"]
    path = write_lines(tmp_path / "a.jsonl", [{**GOOD, "at": START + i, "inputs": w} for i, w in enumerate(words)])
    found, told, tally = rejects(tmp_path / "r", path, {**SIMPLE, "encode": f"{__name__}:picky"})
    assert [q.inputs[:, 0].tolist() for q in found if q.inputs is not None] == [[1, 2, 1, 2, 1]]
    assert tally.rejected == {"monitor.logs.encode raised KeyError": 2}
    assert [r["line"] for r in told] == [4, 7]


def test_classes_that_are_called_by_numbers_are_names_in_every_format(tmp_path: Path) -> None:
    """Classes 3 and 8 of a digit reader: the third class is not meant."""
    t = [{**GOOD, "y": y} for y in (3, 8, "3", 8)]
    places = {"answers": {"label": "y"}, "classes": ["8", "3"]}
    (found,) = logs.read(write_lines(tmp_path / "a.jsonl", t), manifest(places))
    assert found.answers[Signal.LABEL].tolist() == [1, 0, 1, 0]


def test_images_as_lists_within_lists(tmp_path: Path) -> None:
    x = np.arange(24.0).reshape(4, 2, 3) / 24
    records: list[dict[str, Any]] = [{"principal": "a", "at": START, "inputs": x[0].tolist(), "y": 1}]
    records.append({"principal": "a", "at": START + 1, "inputs": x[1:3].tolist(), "y": [0, 1]})
    records.append({"principal": "a", "at": START + 2, "inputs": x[3].ravel().tolist(), "y": 0})
    records.append({"principal": "a", "at": START + 3, "inputs": [[1, 2, 3], [1, 2]], "y": 0})
    tally = logs.Tally()
    space = {"low": 0, "high": 1, "shape": [2, 3]}
    (found,) = logs.read(write_lines(tmp_path / "a.jsonl", records), manifest(SIMPLE, space=space), tally)
    np.testing.assert_array_equal(found.inputs, x.reshape(4, 6))
    assert found.answers[Signal.LABEL].tolist() == [1, 0, 1, 0]
    assert tally.rejected == {"the inputs are not lists of numbers of one length": 1}


def test_litellm_that_was_told_to_log_no_messages(tmp_path: Path) -> None:
    redacted = "redacted-by-litellm"
    record = {
        "id": "1",
        "call_type": "completion",
        "status": "success",
        "startTime": START,
        "metadata": {"user_api_key_hash": "88dc28"},
        "messages": [{"role": "user", "content": redacted}],
        "response": {"choices": [{"message": {"content": "ham"}}]},
    }
    space = {"text": {"longest": 200}}
    mapped = manifest({"classes": ["ham", "spam"]}, space=space)
    (found,) = logs.read(write_lines(tmp_path / "a.jsonl", [record]), mapped)
    assert found.inputs is None
    record["response"] = {"choices": [{"message": {"content": redacted}}]}
    with pytest.raises(UsageError, match="the answer is redacted: LiteLLM was told to log no messages"):
        list(logs.read(write_lines(tmp_path / "a.jsonl", [record]), mapped))


def test_sagemaker_cells_that_are_empty(tmp_path: Path) -> None:
    t = Traffic()
    records = capture(t, "CSV")
    for record in records[:2]:
        captured = record["captureData"]["endpointInput"]
        captured["data"] = ",".join(["", *captured["data"].split(",")[1:]])
    path = write_lines(tmp_path / "a.jsonl", records)
    tally = logs.Tally()
    assert sum(map(len, logs.read(path, manifest({}), tally))) == t.n - 2
    assert tally.rejected == {"an input is NaN or infinite": 2}
    space = {"low": -10, "high": 10, "shape": [3], "missing": [0]}
    found = np.concatenate([q.inputs for q in logs.read(path, manifest({}, space=space)) if q.inputs is not None])
    assert (len(found), int(np.isnan(found[:, 0]).sum())) == (t.n, 2)


def test_kserve_events_that_are_nested_without_end(tmp_path: Path) -> None:
    t, tally = Traffic(), logs.Tally()
    requests, responses = events(t, "open-inference")
    deep = orjson.dumps({**requests[0], "id": "deep", "data": "@"}).replace(b'"@"', b"[" * 600 + b"]" * 600)
    raw = b"".join(orjson.dumps(e) + b"\n" for e in (*requests, *responses))
    (tmp_path / "a.jsonl").write_bytes(deep + b"\n" + raw)
    holds(logs.read(tmp_path, manifest(KSERVE), tally), t)
    assert tally.rejected == {"the event is nested too deeply": 1}


def test_kserve_events_wait_in_memory_by_their_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    t = Traffic()
    requests, responses = events(t, "open-inference", 1)
    monkeypatch.setattr("understudy.logs._bodies.SIZE", 4000)
    waiting: list[int] = []
    from understudy.logs._joined import Join

    add = Join.add

    def watched(self: Join, *args: Any) -> Any:
        done = add(self, *args)
        waiting.append(sum(len(line) for _, line in self._waiting.values()))
        return done

    monkeypatch.setattr(Join, "add", watched)
    holds(logs.read(write_lines(tmp_path / "a.jsonl", [*requests, *responses]), manifest(KSERVE)), t)
    assert max(waiting) <= 4000


def test_wide_inputs_are_held_a_few_at_a_time(tmp_path: Path) -> None:
    """Pictures of 64 x 64 x 3: 300 of them are 30 MB, 16,384 would be 1.6 GB."""
    width = 64 * 64 * 3
    rng = np.random.default_rng(0)
    path = tmp_path / "a.jsonl"
    with path.open("wb") as file:
        for i in range(600):
            row = {"principal": f"a{i % 7}", "at": START + i, "inputs": rng.integers(0, 2, width).tolist(), "y": 0}
            file.write(orjson.dumps(row) + b"\n")
    wide = manifest(SIMPLE, space={"low": 0, "high": 1, "shape": [64, 64, 3]})
    assert Layout.of(wide).some * width * 8 <= 2**24
    tracemalloc.start()
    try:
        assert sum(len(q) for q in logs.read(path, wide)) == 600
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 150 * 2**20  # the rows alone are 59 MB as numbers, 236 MB as Python lists


def test_reasons_are_as_many_as_can_be_read(tmp_path: Path) -> None:
    tally = logs.Tally(tmp_path / "r")
    for i in range(1000):
        tally.reject("a", i, f"a reason of its own: {i}")
    tally.close()
    assert len(tally.rejected) == 101
    assert tally.rejected["other reasons"] == 900
    assert len((tmp_path / "r").read_text().splitlines()) == 120
    assert json.loads((tmp_path / "r").read_text().splitlines()[-1])["reason"] == "other reasons"


def test_a_name_is_a_url_or_a_path() -> None:
    assert _files.shown("logs/a@b?c.jsonl") == "logs/a@b?c.jsonl"
