"""Logs as they come: cut short, malformed, out of order, of the wrong types, or meant to do harm. Never fatal."""

from __future__ import annotations

import gzip
import json
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from test_logs import COLUMNS, KSERVE, MAPPED, START, Traffic, capture, events, holds, manifest, write_csv, write_lines
from understudy import logs
from understudy.errors import UsageError
from understudy.logs import _files
from understudy.types import Signal
from understudy.watch import Queries

SECRET = "4111111111111111"
SIMPLE = {"answers": {"label": "y", "probabilities": "p"}}
NOBODY = "no principal at principal: name its place in monitor.logs.principal"
NEVER = "no time at at: name its place in monitor.logs.time"
GOOD: dict[str, Any] = {"principal": "a", "at": START, "inputs": [1, 2, 3], "y": 0}


def rejects(path: Path, source: Path, places: dict[str, Any]) -> tuple[list[Queries], list[dict[str, Any]], logs.Tally]:
    """What was read, and what the reject file says."""
    tally = logs.Tally(path)
    found = list(logs.read(source, manifest(places), tally))
    told = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    return found, told, tally


def test_each_malformed_line_is_told_with_its_number_and_reason_and_nothing_of_it(tmp_path: Path) -> None:
    bad: list[tuple[bytes, str]] = [
        (b"not json " + SECRET.encode(), "the line is not JSON (NaN and Infinity are none)"),
        (b'{"principal": "' + SECRET.encode(), "the line is not JSON (NaN and Infinity are none)"),
        (b'"' + SECRET.encode() + b'"', "the line holds no record"),
        (orjson.dumps({**GOOD, "principal": None}), NOBODY),
        (orjson.dumps({**GOOD, "principal": {"name": SECRET}}), NOBODY),
        (orjson.dumps({**GOOD, "principal": "  "}), NOBODY),
        (orjson.dumps({**GOOD, "at": SECRET + "x"}), NEVER),
        (orjson.dumps({**GOOD, "at": True}), NEVER),
        (orjson.dumps({**GOOD, "inputs": [1, 2]}), "the inputs are not 3 numbers"),
        (orjson.dumps({**GOOD, "inputs": [1, 2, SECRET]}), "the inputs are not 3 numbers"),
        (orjson.dumps({**GOOD, "inputs": SECRET[:3]}), "the inputs are not 3 numbers"),
        (orjson.dumps({**GOOD, "inputs": {"a": 1, "b": 2, "c": 3}}), "the inputs are not 3 numbers"),
        (orjson.dumps({**GOOD, "inputs": [1, None, 2]}), "the inputs are not 3 numbers"),
        (
            b'{"principal":"a","at":1790000000,"inputs":[1,NaN,3],"y":0}',
            "the line is not JSON (NaN and Infinity are none)",
        ),
        (
            b'{"principal":"a","at":1790000000,"inputs":[1,1e999,3],"y":0}',
            "the line is not JSON (NaN and Infinity are none)",
        ),
        (orjson.dumps({**GOOD, "y": 7}), "label: another class was answered, expected 0 to 1 (classes changed?)"),
        (orjson.dumps({**GOOD, "y": SECRET}), "label is no class number"),
        (orjson.dumps({**GOOD, "p": [0.1, 0.2, 0.7]}), "probabilities is not what this endpoint answers"),
        (orjson.dumps({**GOOD, "p": SECRET}), "probabilities is not what this endpoint answers"),
        (b"\xff\xfe{}", "the line is not JSON (NaN and Infinity are none)"),
        (b"[" * 5000, "the line is not JSON (NaN and Infinity are none)"),
    ]
    lines = [orjson.dumps(GOOD)]
    for line, _ in bad:
        lines += [line, b"", orjson.dumps(GOOD)]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    found, told, tally = rejects(tmp_path / "r.jsonl", tmp_path / "a.jsonl", SIMPLE)
    assert {r["line"]: r["reason"] for r in told} == {2 + 3 * i: reason for i, (_, reason) in enumerate(bad)}
    assert sum(len(q.at) for q in found) == tally.queries == len(bad) + 1
    assert SECRET not in (tmp_path / "r.jsonl").read_text()
    assert (tmp_path / "r.jsonl").stat().st_mode & 0o077 == 0


def test_rejects_are_sampled(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", [GOOD, *[{**GOOD, "inputs": []}] * 1000])
    found, told, tally = rejects(tmp_path / "r.jsonl", tmp_path / "a.jsonl", SIMPLE)
    assert (len(found), len(told)) == (1, 20)
    assert tally.rejected.total() == 1000


@pytest.mark.parametrize("suffix", ["gz", "zst"])
@pytest.mark.parametrize("kind", ["cut", "flipped"])
def test_a_broken_compressed_stream_gives_what_came_before_it(tmp_path: Path, suffix: str, kind: str) -> None:
    t = Traffic(5000)
    raw = b"".join(orjson.dumps(r) + b"\n" for r in t.records())
    whole = bytearray(gzip.compress(raw) if suffix == "gz" else zstandard.compress(raw, 1))
    if kind == "cut":
        del whole[len(whole) * 2 // 3 :]
    else:
        middle = len(whole) * 2 // 3
        whole[middle : middle + 40] = bytes(40)
    (tmp_path / f"a.jsonl.{suffix}").write_bytes(whole)
    tally = logs.Tally()
    found = list(logs.read(tmp_path, manifest(MAPPED), tally))
    assert 1000 < sum(len(q.at) for q in found) < 5000
    assert tally.rejected
    assert kind == "flipped" or any("ends too early" in reason for reason in tally.rejected)


def test_a_file_that_is_not_what_its_name_says(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", [GOOD])
    for name in ("b.jsonl.gz", "c.jsonl.zst", "d.parquet", "e.parquet"):
        (tmp_path / name).write_bytes(b"" if name[0] == "e" else b"PAR1" + bytes(range(256)) * 9)
    found, told, _ = rejects(tmp_path / "r", tmp_path, SIMPLE)
    assert len(found) == 1
    assert {Path(r["file"]).name for r in told} == {"b.jsonl.gz", "c.jsonl.zst", "d.parquet", "e.parquet"}


def test_a_cut_parquet_file(tmp_path: Path) -> None:
    t = Traffic(5000)
    pq.write_table(pa.Table.from_pylist(t.records()), tmp_path / "a.parquet", row_group_size=500)
    whole = bytearray((tmp_path / "a.parquet").read_bytes())
    middle = len(whole) // 2
    whole[middle : middle + 3000] = bytes(3000)  # the foot still stands
    (tmp_path / "a.parquet").write_bytes(whole)
    tally = logs.Tally()
    found = list(logs.read(tmp_path / "a.parquet", manifest(MAPPED), tally))
    assert 4000 <= sum(len(q.at) for q in found) == tally.queries < 5000
    assert any("cannot be read any further" in reason for reason in tally.rejected)


def test_a_huge_line_is_passed_over_without_being_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_files, "LONGEST", 10_000)
    long = orjson.dumps({**GOOD, "note": "x" * 50_000})
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([orjson.dumps(GOOD), long, orjson.dumps(GOOD), long]))
    found, told, _ = rejects(tmp_path / "r", tmp_path / "a.jsonl", SIMPLE)
    assert sum(len(q.at) for q in found) == 2
    assert [(r["line"], r["reason"]) for r in told] == [(i, "a line of more than 10,000 bytes") for i in (2, 4)]


def test_out_of_order_and_equal_times(tmp_path: Path) -> None:
    t = Traffic(300)
    order = np.random.default_rng(0).permutation(300)
    records = t.records()
    write_lines(tmp_path / "a.jsonl", [records[i] for i in order])
    holds(logs.read(tmp_path, manifest(MAPPED)), t)
    same = [{**GOOD, "inputs": [i, 0, 0]} for i in range(50)]
    write_lines(tmp_path / "a.jsonl", same)
    (found,) = logs.read(tmp_path, manifest(SIMPLE))
    assert found.inputs is not None
    np.testing.assert_array_equal(found.inputs[:, 0], np.arange(50))  # as logged


def test_an_id_that_comes_again(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", [{**GOOD, "req": i % 7} for i in range(20)])
    tally = logs.Tally()
    (found,) = logs.read(tmp_path, manifest({**SIMPLE, "id": "req"}), tally)
    assert (len(found.at), tally.aside["the same id again"]) == (7, 13)


def test_names_of_every_script_stay_apart(tmp_path: Path) -> None:
    names = ["κλειδί:α", "ключ", "鍵🔑", "a\u202eb", "e\u0301", "é", "a" * 5000, "a\nb", "../../etc/passwd", "=cmd()"]
    write_lines(tmp_path / "a.jsonl", [{**GOOD, "principal": name} for name in names])
    found = list(logs.read(tmp_path, manifest(SIMPLE)))
    assert sorted(q.principal for q in found) == sorted(names)
    text = "principal,at,age,income,score,y\n" + "".join(f'"{n}",{START},1,2,3,0\n' for n in names if "\n" not in n)
    (tmp_path / "a.csv").write_text("\ufeff" + text, encoding="utf-8")
    places = {"inputs": COLUMNS, "answers": {"label": "y"}}
    assert len(list(logs.read(tmp_path / "a.csv", manifest(places)))) == len(names) - 1


def test_csv_that_is_torn(tmp_path: Path) -> None:
    head, good = "principal,at,age,income,score,y", f"a,{START},1,2,3,0"
    bad = {
        2: f"a,{START},1,2,3",
        3: f'"a,{START},1,2,3,0',
        4: f"a,{START},1,2,{SECRET}x,0",
        5: f"a,{START},1,nan,3,0",
        6: f"a,{START},1,,3,0",
        7: f"a,{START},1,2,3,maybe",
        8: f"a,{START},1,2,3,0,,,",
        9: f"{SECRET}" * 20_000,
        10: "\udcff,1,1,1,1,1",
    }
    text = "\n".join([head, *bad.values(), good]) + "\n"
    (tmp_path / "a.csv").write_bytes(text.encode("utf-8", "surrogateescape"))
    places = {"inputs": COLUMNS, "answers": {"label": "y"}}
    found, told, _ = rejects(tmp_path / "r", tmp_path / "a.csv", places)
    assert sum(len(q.at) for q in found) == 1
    assert {r["line"] for r in told} == set(bad)
    assert SECRET not in (tmp_path / "r").read_text()


def test_parquet_columns_with_gaps_nan_and_strange_lists(tmp_path: Path) -> None:
    columns: dict[str, Any] = {
        "principal": ["a", None, "a", "a", "a", "", "a", "ours"],
        "at": [START, START, float("nan"), START, START, START, START, START],
        "inputs": [[1, 2, 3], [1, 2, 3], [1, 2, 3], [1, 2], [1, np.inf, 3], [1, 2, 3], None, [1, 2, 3]],
        "p": [[0.5, 0.5], [0.5, 0.5], [0.5, 0.5], [0.5, 0.5], [0.5, 0.5], [0.5, 0.5], [0.5, 0.5], [0.5, 0.5]],
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    places = {"answers": {"probabilities": "p"}, "audits": ["ours"]}
    found, told, tally = rejects(tmp_path / "r", tmp_path / "a.parquet", places)
    assert [(len(q.at), q.inputs is None) for q in found] == [(1, False), (1, True)]
    assert {r["line"] for r in told} == {2, 3, 4, 5, 6}
    assert tally.aside == {"the owner's own audits": 1}


def test_kserve_events_of_every_kind_of_wrong(tmp_path: Path) -> None:
    t = Traffic()
    requests, responses = events(t, "open-inference", 1)
    broken: list[dict[str, Any]] = [
        {**requests[0], "id": None},
        {**requests[0], "id": "x1", "type": "org.kubeflow.serving.inference.explain"},
        {**requests[0], "id": "x2", "data": {"inputs": SECRET}},
        {**responses[0], "id": "x2"},
        {**requests[0], "id": "x3"},
        {**responses[0], "id": "x3", "data_base64": "*" + SECRET},
        {**requests[0], "id": "x4"},
        {**responses[0], "id": "x4", "data_base64": "e30="},
        {**requests[0], "id": "x5", "metadata": SECRET},
        {**responses[0], "id": "x5"},
        {**requests[0], "id": "x6", "time": None},
        {**responses[0], "id": "x6"},
        {k: v for k, v in requests[0].items() if k != "data"} | {"id": "x7"},
        {**responses[0], "id": "x7"},
        {**requests[0], "id": "x8"},
        {**responses[1], "id": "x9", "data_base64": None},
        {**requests[0], "id": "x9"},
    ]
    write_lines(tmp_path / "a.jsonl", [*requests, *broken, *responses])
    tally = logs.Tally(tmp_path / "r")
    holds(logs.read(tmp_path / "a.jsonl", manifest(KSERVE), tally), t)
    assert tally.rejected.total() == 10
    assert SECRET not in (tmp_path / "r").read_text()


def test_sagemaker_records_of_every_kind_of_wrong(tmp_path: Path) -> None:
    t = Traffic()
    records = capture(t, "CSV")

    def changed(name: str, **to: Any) -> dict[str, Any]:
        part = {**records[0]["captureData"][name], **to}
        return {**records[0], "eventMetadata": {}, "captureData": {**records[0]["captureData"], name: part}}

    broken = [
        {"captureData": {}, "eventMetadata": {}},
        {"captureData": None},
        changed("endpointInput", data=None),
        changed("endpointInput", data="1,2,x"),
        changed("endpointInput", data="1,2"),
        changed("endpointInput", data="*", encoding="BASE64"),
        changed("endpointInput", data="1,nan,2"),
        changed("endpointOutput", data="7"),
        changed("endpointOutput", data="0.1\n0.2"),
        changed("endpointOutput", data="", encoding="JSON", observedContentType="application/json"),
    ]
    for record in broken[2:]:
        record["eventMetadata"] = {**records[0]["eventMetadata"], "eventId": None}
    write_lines(tmp_path / "a.jsonl", [records[0], *broken, *records[1:]])
    tally = logs.Tally(tmp_path / "r")
    found = list(logs.read(tmp_path / "a.jsonl", manifest({"party": "eventMetadata.customAttributes[1]"}), tally))
    assert tally.rejected.total() in (9, 10)  # 7 may be a score that is called a probability
    assert sum(len(q.at) for q in found) == 70 - tally.rejected.total()


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda deeper: st.lists(deeper, max_size=4) | st.dictionaries(st.text(max_size=3), deeper, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.fixed_dictionaries({}, optional=dict.fromkeys([*GOOD, "p", "m"], values)), min_size=1, max_size=6))
def test_whatever_a_record_holds_it_is_read_or_told(tmp_path: Path, records: list[dict[str, Any]]) -> None:
    """Every record is accounted for once, and sound ones beside it are not lost."""
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in [GOOD, *records]))
    tally = logs.Tally()
    found = list(logs.read(path, manifest({**SIMPLE, "margin": "m"}), tally))
    queries = sum(len(q.at) for q in found)
    assert queries == tally.queries >= 1
    assert tally.rejected.total() + tally.aside.total() + queries >= len(records) + 1
    for q in found:
        assert q.principal
        assert np.isfinite(q.at).all()
        assert q.inputs is None or np.isfinite(q.inputs).all()
        assert len(q.answers) == len(q.at)
        assert Signal.LABEL not in q.answers or set(q.answers[Signal.LABEL]) <= {0, 1}
    assert [k for k, _ in groupby(q.principal for q in found)] == list(dict.fromkeys(q.principal for q in found))


def test_an_empty_log_is_told_from_one_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"\n\n")
    assert list(logs.read(tmp_path, manifest(SIMPLE))) == []
    (tmp_path / "a.jsonl").write_bytes(b"{}\n")
    with pytest.raises(UsageError, match="none of 1 records can be used"):
        list(logs.read(tmp_path, manifest(SIMPLE)))


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    write_csv(tmp_path / "a.csv", Traffic())
    found = logs.read(write_lines(tmp_path / "a.jsonl", Traffic().records()), manifest(MAPPED))
    next(found)
    assert list((tmp_path / "tmp").iterdir())
    found.close()  # type: ignore[attr-defined]  # it is a generator
    assert not list((tmp_path / "tmp").iterdir())
