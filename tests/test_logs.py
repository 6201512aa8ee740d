"""Reading logs: every format gives the same queries, account by account and in time order."""

from __future__ import annotations

import base64
import csv
import gzip
import json
from collections.abc import Callable, Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from understudy import logs
from understudy.errors import ManifestError, UsageError
from understudy.history import History, Row
from understudy.history.chain import DEFAULT, Chain
from understudy.manifest import Manifest
from understudy.registry import create
from understudy.types import Answers, Signal
from understudy.watch import Queries

COLUMNS = ["age", "income", "score"]
START = 1_790_000_000.0


def manifest(logs: dict[str, Any] | None = None, **changes: Any) -> Manifest:
    """An endpoint of three inputs and two classes."""
    body: dict[str, Any] = {
        "apiVersion": "understudy/v1",
        "kind": "Endpoint",
        "metadata": {"id": "risk", "owner": "o@example.org", "contact": "c@example.org"},
        "model": {"version": "1"},
        "target": {"python": "model:predict", "signals": {"probabilities": {}}, "outputs": 2},
        "space": {"low": -10, "high": 10, "shape": [3]},
        "evaluation": {"data": "e.npy"},
        "goals": [{"id": "copy", "threshold": 0.95, "basis": "test"}],
        "tiers": [
            {"id": "public", "who": "anybody", "signals": {"label": {}}},
            {"id": "paid", "who": "customers", "signals": {"label": {}, "probabilities": {}}},
        ],
        "monitor": {"logs": logs, "segments": {"tools": {"parties": ["org-1"]}}},
    }
    return Manifest.model_validate({**body, **changes})


class Traffic:
    """What five accounts asked, in order of time."""

    def __init__(self, n: int = 60, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.n, self.who = n, [f"key:acct-{i}" for i in rng.integers(0, 5, n)]
        self.party = [f"org-{int(w[-1]) // 2}" for w in self.who]
        self.at = START + np.sort(rng.uniform(0, 9e5, n)).round(3)
        self.x = rng.normal(size=(n, 3)).round(3)
        p = rng.random(n).round(4)
        self.p = np.column_stack([1 - p, p])

    def of(self, principal: str) -> np.ndarray[Any, Any]:
        return np.array([w == principal for w in self.who])

    def records(self) -> list[dict[str, Any]]:
        """Lines of a log of the owner's own making."""
        return [
            {
                "ts": float(self.at[i]),
                "user": {"id": self.who[i], "org": self.party[i]},
                "features": self.x[i].tolist(),
                "scores": self.p[i].tolist(),
            }
            for i in range(self.n)
        ]


MAPPED = {
    "principal": "user.id",
    "party": "user.org",
    "time": "ts",
    "inputs": "features",
    "answers": {"probabilities": "scores"},
}
FLAT = {
    "principal": "who",
    "party": "org",
    "time": "ts",
    "inputs": COLUMNS,
    "answers": {"probabilities": ["good", "bad"]},
}


def holds(found: Iterable[Queries], traffic: Traffic, exact: bool = True) -> None:
    """What was read is what was asked: all of it, by account, in time order."""
    accounts = {who: list(parts) for who, parts in groupby(found, key=lambda q: q.principal)}
    assert set(accounts) == set(traffic.who)
    for who, parts in accounts.items():
        mine = traffic.of(who)
        assert {q.party for q in parts} == {traffic.party[int(np.argmax(mine))]}
        assert {q.segment for q in parts} == {"tools" if parts[0].party == "org-1" else None}
        np.testing.assert_allclose(np.concatenate([q.at for q in parts]), traffic.at[mine], atol=0 if exact else 1e-3)
        np.testing.assert_array_equal(
            np.concatenate([q.inputs for q in parts if q.inputs is not None]), traffic.x[mine]
        )
        p = np.concatenate([q.answers[Signal.PROBABILITIES] for q in parts])
        np.testing.assert_allclose(p, traffic.p[mine], atol=1e-12)


def write_lines(path: Path, records: Iterable[Any]) -> Path:
    path.write_bytes(b"".join(orjson.dumps(r) + b"\n" for r in records))
    return path


def table(traffic: Traffic) -> pa.Table:
    columns = {"who": traffic.who, "org": traffic.party, "ts": traffic.at}
    columns |= {name: traffic.x[:, i] for i, name in enumerate(COLUMNS)}
    return pa.table({**columns, "good": traffic.p[:, 0], "bad": traffic.p[:, 1]})


def write_csv(path: Path, traffic: Traffic) -> Path:
    with path.open("w", newline="") as file:
        found = table(traffic)
        rows = csv.writer(file)
        rows.writerow(found.column_names)
        rows.writerows(zip(*(found[c].to_pylist() for c in found.column_names), strict=True))
    return path


def test_json_lines(tmp_path: Path) -> None:
    holds(logs.read(write_lines(tmp_path / "a.jsonl", Traffic().records()), manifest(MAPPED)), Traffic())


def test_csv(tmp_path: Path) -> None:
    holds(logs.read(write_csv(tmp_path / "a.csv", Traffic()), manifest(FLAT)), Traffic())


def test_parquet_by_column(tmp_path: Path) -> None:
    pq.write_table(table(Traffic()), tmp_path / "a.parquet")
    holds(logs.read(tmp_path / "a.parquet", manifest(FLAT)), Traffic())


def test_parquet_of_lists_and_timestamps(tmp_path: Path) -> None:
    t = Traffic()
    times = pa.array((t.at * 1e6).round().astype("int64"), pa.timestamp("us", "UTC"))
    columns = {"who": pa.array(t.who).dictionary_encode(), "org": t.party, "ts": times}
    found = pa.table({**columns, "features": t.x.tolist(), "scores": t.p.tolist()})
    pq.write_table(found, tmp_path / "a.parquet")
    places = {**MAPPED, "principal": "who", "party": "org"}
    holds(logs.read(tmp_path / "a.parquet", manifest(places)), t, exact=False)


def test_parquet_of_structs_goes_record_by_record(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(Traffic().records()), tmp_path / "a.parquet")
    holds(logs.read(tmp_path / "a.parquet", manifest(MAPPED)), Traffic())


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".zst", zstandard.compress)])
def test_packed(tmp_path: Path, suffix: str, pack: Callable[[bytes], bytes]) -> None:
    plain = write_lines(tmp_path / "a.jsonl", Traffic().records())
    packed = tmp_path / f"b.jsonl{suffix}"
    half = len(Traffic().records()) // 2
    lines = plain.read_bytes().splitlines(keepends=True)
    packed.write_bytes(pack(b"".join(lines[:half])) + pack(b"".join(lines[half:])))  # as appended to
    plain.unlink()
    holds(logs.read(tmp_path, manifest(MAPPED)), Traffic())


def test_several_files_by_pattern_folder_list_and_url(tmp_path: Path) -> None:
    records = Traffic().records()
    write_lines(tmp_path / "a.jsonl", records[40:])
    write_lines(tmp_path / "b.ndjson", records[:20])
    (tmp_path / "c.json").write_text(json.dumps(records[20:40], indent=1))
    for source in (
        str(tmp_path / "*"),
        tmp_path,
        [tmp_path / "c.json", tmp_path / "a.jsonl", tmp_path / "b.ndjson"],
        f"file://{tmp_path}/*",
    ):
        holds(logs.read(source, manifest(MAPPED)), Traffic())


def test_a_url_in_memory(tmp_path: Path) -> None:
    import fsspec

    body = b"".join(orjson.dumps(r) + b"\n" for r in Traffic().records())
    fsspec.filesystem("memory").pipe("/traffic/day.jsonl.gz", gzip.compress(body))
    holds(logs.read("memory://traffic/*.gz", manifest(MAPPED)), Traffic())


def history(folder: Path, traffic: Traffic) -> None:
    chain = Chain(folder, "w1", "whole", None, DEFAULT)
    rows = [
        Row(
            *(traffic.at[i], traffic.who[i], traffic.party[i], "paid", "/", "1", "r", 200, 1, traffic.x[i : i + 1]),
            Answers({Signal.PROBABILITIES: traffic.p[i : i + 1]}, 2),
            np.abs(np.diff(traffic.p[i : i + 1]))[:, 0],
        )
        for i in range(traffic.n)
    ]
    audit = rows[0]._replace(principal="key:ours", audit=True)
    refused = rows[0]._replace(status=429, answers=None)
    assert chain.keep([*rows, audit, refused]) == [None] * (traffic.n + 2)
    chain.close()


def test_the_gateways_history_and_its_export(tmp_path: Path) -> None:
    t, tally = Traffic(), logs.Tally()
    history(tmp_path / "history", t)
    found = list(logs.read(tmp_path / "history", manifest(), tally))
    holds(found, t)
    assert tally.aside == {"the owner's own audits": 1, "not answered": 1}
    for q in found:
        assert q.margin is not None
        np.testing.assert_allclose(q.margin, np.abs(np.diff(q.answers[Signal.PROBABILITIES]))[:, 0])
    History(tmp_path / "history").export(tmp_path / "export.parquet")
    exported = list(logs.read(tmp_path / "export.parquet", manifest()))
    assert sum(len(q.at) for q in exported) == t.n
    assert not {q.principal for q in exported} & set(t.who)  # pseudonyms
    key = lambda qs: sorted(np.concatenate([q.inputs for q in qs if q.inputs is not None]).tolist())  # noqa: E731
    assert key(exported) == key(found)


def events(t: Traffic, protocol: str, step: int = 3) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Requests and responses of `step` rows of one account each, as KServe's logger sends them."""
    codec = create("protocols", protocol)
    requests, responses = [], []
    for who in sorted(set(t.who)):
        mine = np.flatnonzero(t.of(who))
        for k in range(0, len(mine), step):
            some = mine[k : k + step]
            t.at[some] = t.at[some[0]]
            message = codec.request(t.x[some], frozenset({Signal.PROBABILITIES}))
            asked = codec.parse(message.body, message.headers, (3,))
            answer = codec.respond(asked, Answers({Signal.PROBABILITIES: t.p[some]}, 2), "m")
            key = f"{who}-{k}"
            about = {
                "specversion": "1.0",
                "id": key,
                "source": "http://localhost:9081/",
                "time": np.datetime64(round(t.at[some[0]] * 1e3), "ms").item().isoformat() + "Z",
                "datacontenttype": "application/json",
                "inferenceservicename": "risk",
                "metadata": json.dumps({"X-Principal": [who], "X-Party": [t.party[some[0]]]}),
            }
            kind = "org.kubeflow.serving.inference."
            requests.append({**about, "type": kind + "request", "data": orjson.loads(message.body)})
            body = base64.b64encode(answer.body).decode()
            responses.append({**about, "metadata": "{}", "type": kind + "response", "data_base64": body})
    return requests, responses


KSERVE = {"party": 'metadata."x-party"'}


@pytest.mark.parametrize("protocol", ["open-inference", "kserve-v1"])
def test_kserve_events_are_joined_in_any_order(tmp_path: Path, protocol: str) -> None:
    t, rng = Traffic(), np.random.default_rng(1)
    requests, responses = events(t, protocol)
    mixed = [*requests, *responses, *requests[:5], *responses[:3]]  # delivered twice
    rng.shuffle(mixed)  # type: ignore[arg-type]
    tally = logs.Tally()
    write_lines(tmp_path / "a.jsonl", mixed)
    holds(logs.read(tmp_path, manifest({**KSERVE, "protocol": protocol}), tally), t)
    assert tally.aside == {"the same id again": 8}
    assert not tally.rejected


def test_kserve_halves_in_files_of_their_own_wait_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    t, tally = Traffic(), logs.Tally(tmp_path / "rejects.jsonl")
    requests, responses = events(t, "open-inference", 1)
    folder = tmp_path / "log"
    folder.mkdir()
    write_lines(folder / "requests.jsonl", [*requests, {**requests[0], "id": "alone"}])
    write_lines(folder / "responses.jsonl", [*responses, {**responses[0], "id": "lonely"}])
    monkeypatch.setattr("understudy.logs._bodies.ROOM", 7)
    holds(logs.read(folder, manifest(KSERVE), tally), t)
    assert tally.rejected == {"there is no response of its id": 1, "there is no request of its id": 1}
    told = [json.loads(line) for line in (tmp_path / "rejects.jsonl").read_text().splitlines()]
    assert {(Path(r["file"]).name, r["line"]) for r in told} == {("requests.jsonl", 61), ("responses.jsonl", 61)}


def capture(t: Traffic, form: str) -> list[dict[str, Any]]:
    codec, made = create("protocols", "sagemaker"), []
    for i in range(t.n):
        message = codec.request(t.x[i : i + 1], frozenset({Signal.PROBABILITIES}))
        asked = codec.parse(message.body, message.headers, (3,))
        answer = codec.respond(asked, Answers({Signal.PROBABILITIES: t.p[i : i + 1]}, 2), "m").body
        parts = {"endpointInput": ("INPUT", message.body), "endpointOutput": ("OUTPUT", answer)}
        if form == "CSV":
            parts = {
                "endpointInput": ("INPUT", ",".join(map(repr, t.x[i].tolist())).encode()),
                "endpointOutput": ("OUTPUT", repr(float(t.p[i, 1])).encode()),
            }
        content = "text/csv" if form == "CSV" else "application/json"
        captured = {
            name: {
                "observedContentType": content,
                "mode": mode,
                "encoding": form,
                "data": base64.b64encode(data).decode() if form == "BASE64" else data.decode(),
            }
            for name, (mode, data) in parts.items()
        }
        when = np.datetime64(round(t.at[i] * 1e3), "ms").item().isoformat() + "Z"
        meta = {"eventId": str(i), "customAttributes": [t.who[i], t.party[i]], "inferenceTime": when}
        made.append({"captureData": captured, "eventMetadata": meta, "eventVersion": "0"})
    return made


@pytest.mark.parametrize("form", ["CSV", "JSON", "BASE64"])
def test_sagemaker_data_capture(tmp_path: Path, form: str) -> None:
    t, tally = Traffic(), logs.Tally()
    records = capture(t, form)
    write_lines(tmp_path / "a.jsonl", [*records, records[-1]])
    holds(logs.read(tmp_path, manifest({"party": "eventMetadata.customAttributes[1]"}), tally), t)
    assert tally.aside == {"the same id again": 1}


def encode(texts: list[str]) -> Any:
    """A text's three numbers."""
    return [[len(t), t.count(" "), t.count("!")] for t in texts]


def test_litellm_payloads_of_a_classifier(tmp_path: Path) -> None:
    texts, answers = ["win money!", "dear sir", "hi!", "a b c", "lost"], ["spam", "ham", "ham\n", "ham", "essay"]
    records = [
        {
            "id": f"chat-{i}",
            "call_type": "acompletion",
            "status": "failure" if i == 2 else "success",
            "startTime": START + i,
            "metadata": {"user_api_key_hash": "88dc28", "user_api_key_team_id": "team"},
            "messages": [{"role": "system", "content": "Spam or ham?"}, {"role": "user", "content": texts[i]}],
            "response": {"choices": [{"message": {"content": answers[i]}}]},
        }
        for i in range(5)
    ]
    write_lines(tmp_path / "a.jsonl", [*records, records[0]])
    tally = logs.Tally()
    places = {"classes": ["ham", "spam"], "encode": f"{__name__}:encode"}
    (found,) = logs.read(tmp_path, manifest(places), tally)
    assert (found.principal, found.party) == ("88dc28", "team")
    np.testing.assert_array_equal(found.answers[Signal.LABEL], [1, 0, 0])
    np.testing.assert_array_equal(found.inputs, [[10, 1, 1], [8, 1, 0], [5, 2, 0]])
    assert tally.aside == {"not answered": 1, "the same id again": 1}
    assert tally.rejected == {"label is not one of monitor.logs.classes": 1}
    with pytest.raises(ManifestError, match=r"monitor\.logs\.classes"):
        list(logs.read(tmp_path, manifest({"encode": f"{__name__}:encode"})))


def test_signals_that_come_and_go_make_runs(tmp_path: Path) -> None:
    """An account that changes its tier receives other signals; a masked entry is withheld, not zero."""
    base = {"principal": "a", "inputs": [1, 2, 3]}
    records: list[dict[str, Any]] = [
        {**base, "at": START + 3, "label": 1, "margin": 0.2},
        {**base, "at": START + 1, "p": [0.2, 0.8], "label": 1},
        {**base, "at": START + 2, "p": [None, 0.9], "label": 1},
        {"principal": "a", "at": START + 4, "label": 0},
    ]
    write_lines(tmp_path / "a.jsonl", records)
    places = {"answers": {"probabilities": "p", "label": "label"}, "margin": "margin"}
    first, second, third = logs.read(tmp_path, manifest(places))
    assert set(first.answers.values) == {Signal.LABEL, Signal.PROBABILITIES}
    np.testing.assert_array_equal(first.answers.mask(Signal.PROBABILITIES), [[True, True], [False, True]])
    assert set(second.answers.values) == {Signal.LABEL}
    np.testing.assert_array_equal(second.margin, [0.2])
    assert third.inputs is None
    np.testing.assert_array_equal(np.concatenate([first.at, second.at, third.at]), START + np.arange(1, 5))


def test_a_batch_in_one_record(tmp_path: Path) -> None:
    record = {"principal": "a", "at": "2026-11-24T10:00:00+01:00", "inputs": [[1, 2, 3], [4, 5, 6]], "y": [0, 1]}
    write_lines(tmp_path / "a.jsonl", [record, {**record, "y": [0]}])
    tally = logs.Tally()
    (found,) = logs.read(tmp_path, manifest({"answers": {"label": "y"}}), tally)
    np.testing.assert_array_equal(found.inputs, [[1, 2, 3], [4, 5, 6]])
    np.testing.assert_array_equal(found.answers[Signal.LABEL], [0, 1])
    assert tally.rejected == {"there are not as many answers as inputs": 1}


@pytest.mark.parametrize("unit", [1, 1e3, 1e6, 1e9])
def test_times_are_read_in_any_unit(tmp_path: Path, unit: float) -> None:
    whole = [{"principal": "a", "at": round((START + i) * unit), "inputs": [1, 2, 3], "y": 0} for i in range(3)]
    write_lines(tmp_path / "a.jsonl", whole)
    places = {"answers": {"label": "y"}}
    for path in (tmp_path / "a.jsonl", tmp_path / "a.parquet"):
        if path.suffix == ".parquet":
            pq.write_table(pa.Table.from_pylist(whole), path)
        (found,) = logs.read(path, manifest(places))
        np.testing.assert_allclose(found.at, START + np.arange(3), atol=1e-6)


def test_parts_are_whole_accounts_and_stand_alone(tmp_path: Path) -> None:
    """What a pool of processes or a cluster is given: pickled, and read without anything else."""
    import pickle

    t = Traffic(400)
    write_lines(tmp_path / "a.jsonl", t.records())
    parts = logs.partition(tmp_path / "a.jsonl", manifest(MAPPED), tmp_path / "spill", parts=4)
    assert len(parts) > 1
    seen: list[str] = []
    for part in pickle.loads(pickle.dumps(parts)):
        seen += [who for who, _ in groupby(part.queries(), key=lambda q: q.principal)]
    assert sorted(seen) == sorted(set(t.who))
    assert all(p.stat().st_mode & 0o077 == 0 for p in (tmp_path / "spill").rglob("*") if p.name == "rows")


def test_missing_values_where_the_space_has_them(tmp_path: Path) -> None:
    rows = [{"principal": "a", "at": START, "inputs": [1, None, 3], "y": 0}]
    write_lines(tmp_path / "a.jsonl", [*rows, {**rows[0], "inputs": [None, 2, 3]}])
    space = {"low": -10, "high": 10, "shape": [3], "missing": [1]}
    tally = logs.Tally()
    (found,) = logs.read(tmp_path, manifest({"answers": {"label": "y"}}, space=space), tally)
    np.testing.assert_array_equal(found.inputs, [[1, np.nan, 3]])
    assert tally.rejected == {"an input is NaN or infinite": 1}


def test_what_is_wrong_with_a_source_or_a_mapping_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such log"):
        list(logs.read(tmp_path / "nothing*.jsonl", manifest(MAPPED)))
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(UsageError, match="cannot be told from its name"):
        list(logs.read(tmp_path / "a.txt", manifest(MAPPED)))
    write_lines(tmp_path / "a.jsonl", Traffic().records())
    with pytest.raises(UsageError, match="none of 60 records can be used; 60 of them: no principal where"):
        list(logs.read(tmp_path / "a.jsonl", manifest({**MAPPED, "principal": "user.name"})))
    with pytest.raises(UsageError, match=r"there is no column 'user\[', and it is no JMESPath expression"):
        list(logs.read(tmp_path / "a.jsonl", manifest({**MAPPED, "principal": "user["})))
