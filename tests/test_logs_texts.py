"""Logs of texts: every format gives the same texts, whole; what is no text to ask is counted and left out."""

from __future__ import annotations

import base64
import csv
import json
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from test_logs import START, manifest, write_lines
from understudy import logs, registry, texts
from understudy.errors import UsageError
from understudy.history import History, Row
from understudy.history.chain import DEFAULT, Chain
from understudy.logs import _rows, _spill
from understudy.manifest import Manifest
from understudy.types import Answers, Signal

LONGEST = 400
WORDS = ["parcel", "größe", "now!", '"free"', "a, b", "line\nbreak", "\n\n", "[1, 2]", "\u2028", "😀", "{}", "x" * 90]
MAPPED = {
    "principal": "who",
    "party": "org",
    "time": "ts",
    "inputs": "said",
    "answers": {"label": "class", "probabilities": ["ham", "spam"]},
}


def spoken(part: dict[str, Any] | None = None, **more: Any) -> Manifest:
    """An endpoint of texts."""
    return manifest(part, space={"text": {"longest": LONGEST}}, **more)


class Talk:
    """What five accounts asked, in order of time."""

    def __init__(self, n: int = 120, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.n, self.who = n, [f"key:acct-{i}" for i in rng.integers(0, 5, n)]
        self.at = (START + np.sort(rng.uniform(0, 9e5, n)).round(3)).tolist()
        self.said = [f"{i} " + " ".join(rng.choice(WORDS, rng.integers(1, 4))) for i in range(n)]
        p = rng.random(n).round(4)
        self.p = np.column_stack([1 - p, p])

    def rows(self) -> list[dict[str, Any]]:
        return [
            {
                "who": self.who[i],
                "org": f"org-{self.who[i][-1]}",
                "ts": float(self.at[i]),
                "said": self.said[i],
                "class": int(self.p[i].argmax()),
                "ham": float(self.p[i, 0]),
                "spam": float(self.p[i, 1]),
            }
            for i in range(self.n)
        ]

    def is_read(self, source: Any, read_with: Manifest, soft: bool = True, tally: logs.Tally | None = None) -> None:
        """All of it, by account, in time order."""
        by = {
            who: list(parts) for who, parts in groupby(logs.read(source, read_with, tally), key=lambda q: q.principal)
        }
        assert set(by) == set(self.who)
        for who, parts in by.items():
            mine = [i for i in range(self.n) if self.who[i] == who]
            asked = np.concatenate([q.inputs for q in parts if q.inputs is not None])
            assert asked.dtype == object
            assert asked.tolist() == [self.said[i] for i in mine]
            np.testing.assert_allclose(np.concatenate([q.at for q in parts]), [self.at[i] for i in mine], atol=1e-3)
            if soft:
                p = np.concatenate([q.answers[Signal.PROBABILITIES] for q in parts])
                np.testing.assert_allclose(p, self.p[mine])
            assert np.concatenate([q.answers.labels() for q in parts]).tolist() == self.p[mine].argmax(1).tolist()


@pytest.fixture(params=["at once", "in small portions"])
def portions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that is held for a while is written and read in many portions."""
    if request.param == "in small portions":
        monkeypatch.setattr(_spill, "_ROWS", 7)
        monkeypatch.setattr(_spill, "_BYTES", 500)
        monkeypatch.setattr(_rows, "_LONG", 300)


@pytest.mark.usefixtures("portions")
def test_json_lines(tmp_path: Path) -> None:
    Talk().is_read(write_lines(tmp_path / "a.jsonl", Talk().rows()), spoken(MAPPED))


@pytest.mark.usefixtures("portions")
def test_parquet_by_column(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(Talk().rows()), tmp_path / "a.parquet")
    Talk().is_read(tmp_path / "a.parquet", spoken(MAPPED))


def test_parquet_record_by_record(tmp_path: Path) -> None:
    nested = [{**row, "said": [row["said"]]} for row in Talk().rows()]
    pq.write_table(pa.Table.from_pylist(nested), tmp_path / "a.parquet")
    Talk().is_read(tmp_path / "a.parquet", spoken(MAPPED))


def write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return path


def test_csv_with_lines_within_quotes(tmp_path: Path) -> None:
    Talk().is_read(write_csv(tmp_path / "a.csv", Talk().rows()), spoken(MAPPED))


def test_a_quote_that_does_not_end_spoils_its_own_line(tmp_path: Path) -> None:
    talk, path = Talk(), write_csv(tmp_path / "a.csv", Talk().rows())
    head, rest = path.read_bytes().split(b"\r\n", 1)
    path.write_bytes(head + b'\r\nkey:acct-0,org-0,1,"open,1,0.5,0.5\r\n' + rest + b'key:acct-0,org-0,2,"too,1,0,1\r\n')
    tally = logs.Tally(tmp_path / "rejects")
    found = list(logs.read(path, spoken(MAPPED), tally))
    assert sum(len(q) for q in found) + tally.rejected.total() >= talk.n - 1
    assert tally.rejected.total() <= 3


def test_a_batch_and_a_text_alone_in_a_list(tmp_path: Path) -> None:
    records = [
        {"who": "a", "ts": 1, "said": ["one", "two"], "class": [0, 1]},
        {"who": "a", "ts": 2, "said": ["three"], "class": [1]},
        {"who": "a", "ts": 3, "said": ["four"], "class": 0},
        {"who": "a", "ts": 4, "said": ["five", "six"], "class": [0]},
    ]
    tally = logs.Tally()
    part = {**MAPPED, "answers": {"label": "class"}}
    (found,) = logs.read(write_lines(tmp_path / "a.jsonl", records), spoken(part), tally)
    assert found.inputs is not None
    assert found.inputs.tolist() == ["one", "two", "three", "four"]
    assert found.answers.labels().tolist() == [0, 1, 1, 0]
    assert tally.rejected == {"there are not as many answers as inputs": 1}


def test_hostile_texts_are_counted_and_left_out(tmp_path: Path) -> None:
    fine = {"who": "a", "ts": 1, "said": "fine", "class": 1}
    lines = [
        *(orjson.dumps(r) for r in (fine, {**fine, "said": "x" * (LONGEST + 1)}, {**fine, "said": "nul\0"})),
        *(orjson.dumps({**fine, "said": value}) for value in ("", 3, {"a": 1}, [1, 2], True)),
        json.dumps({**fine, "said": "half \ud83d"}).encode(),
        b'{"who":"a","ts":1,"said":"\xff\xfe","class":1}',
        orjson.dumps({**fine, "said": None}),
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    tally, part = logs.Tally(tmp_path / "rejects"), {**MAPPED, "answers": {"label": "class"}}
    found = list(logs.read(tmp_path / "a.jsonl", spoken(part), tally))
    assert [None if q.inputs is None else q.inputs.tolist() for q in found] == [["fine"], None]
    assert tally.rejected == {
        "an input is longer than 400 characters": 1,
        "an input holds a NUL character": 1,
        "an input is empty": 1,
        "an input is not a text": 4,
        "the line is not JSON (NaN and Infinity are none)": 2,
    }
    assert "nul" not in (tmp_path / "rejects").read_text().lower().replace("a nul character", "")


def test_csv_that_is_not_utf8_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"who,ts,said,class\na,1,fine,1\na,2,caf\xe9,1\na,3,[1],0\n")
    tally, part = logs.Tally(), {**MAPPED, "answers": {"label": "class"}}
    (found,) = logs.read(path, spoken(part), tally)
    assert found.inputs is not None
    assert found.inputs.tolist() == ["fine", "[1]"]
    assert tally.rejected == {"the record is not UTF-8": 1}


def events(talk: Talk, codec: Any) -> list[dict[str, Any]]:
    """CloudEvents of KServe's logger, a request and a response each."""
    made = []
    for i in range(talk.n):
        sent = codec.request(texts.array([talk.said[i]]), frozenset({Signal.PROBABILITIES}))
        asked = codec.parse(sent.body, {**sent.headers}, ())
        told = codec.respond(asked, Answers({Signal.PROBABILITIES: talk.p[i : i + 1]}, 2), "m")
        common = {"specversion": "1.0", "id": f"e{i}", "time": talk.at[i]}
        person = {"x-principal": [talk.who[i]]}
        for kind, body in (("request", sent.body), ("response", told.body)):
            event = {**common, "type": f"org.kubeflow.serving.inference.{kind}", "metadata": json.dumps(person)}
            held = {"data": json.loads(body)} if i % 2 else {"data_base64": base64.b64encode(body).decode()}
            made.append({**event, **held})
    return made


@pytest.mark.parametrize("protocol", ["open-inference", "kserve-v1"])
def test_kserve_events(tmp_path: Path, protocol: str) -> None:
    talk = Talk()
    path = write_lines(tmp_path / "a.jsonl", events(talk, registry.create("protocols", protocol)))
    talk.is_read(path, spoken({"format": "kserve", "protocol": protocol}))


def test_hostile_bodies_are_counted(tmp_path: Path) -> None:
    made = events(Talk(6), registry.create("protocols", "open-inference"))
    tensor = made[2]["data"]["inputs"][0]
    tensor["data"] = ["x" * (LONGEST + 1)]
    made[6]["data"]["inputs"][0]["data"] = [7]
    made[10]["data"]["inputs"][0]["data"] = ["nul\0"]
    tally = logs.Tally()
    found = list(logs.read(write_lines(tmp_path / "a.jsonl", made), spoken({"format": "kserve"}), tally))
    assert sum(map(len, found)) == 3
    assert tally.rejected == {
        "an input is longer than 400 characters": 1,
        "the request: each input must be a text": 1,
        "an input holds a NUL character": 1,
    }


def test_sagemaker_csv(tmp_path: Path) -> None:
    talk, records = Talk(), []
    for i in range(talk.n):
        quoted = '"' + talk.said[i].replace('"', '""') + '"'
        captured = {
            "endpointInput": {"observedContentType": "text/csv", "data": quoted, "encoding": "CSV"},
            "endpointOutput": {"observedContentType": "text/csv", "data": str(talk.p[i, 1]), "encoding": "CSV"},
        }
        about = {"customAttributes": [talk.who[i]], "inferenceTime": talk.at[i], "eventId": str(i)}
        records.append({"captureData": captured, "eventMetadata": about})
    talk.is_read(write_lines(tmp_path / "a.jsonl", records), spoken({"signals": ["probabilities"]}))


def chats(talk: Talk) -> list[dict[str, Any]]:
    """LiteLLM's StandardLoggingPayload, in the shapes that messages have there."""
    system = {"role": "system", "content": "Answer ham or spam."}
    made = []
    for i, said in enumerate(talk.said):
        shapes: list[Any] = [
            [system, {"role": "user", "content": said}],
            [{"role": "user", "content": [{"type": "text", "text": said}, {"type": "image_url", "image_url": {}}]}],
            said,
            [system, {"role": "user", "content": said}, {"role": "assistant", "content": "?"}],
        ]
        made.append(
            {
                "id": f"c{i}",
                "call_type": "completion",
                "status": "success",
                "startTime": talk.at[i],
                "metadata": {"user_api_key_hash": talk.who[i], "user_api_key_team_id": None},
                "messages": shapes[i % 4],
                "response": {"choices": [{"message": {"content": ("ham", " spam\n")[int(talk.p[i].argmax())]}}]},
            }
        )
    return made


def test_litellm_payloads(tmp_path: Path) -> None:
    talk = Talk()
    path = write_lines(tmp_path / "a.jsonl", chats(talk))
    talk.is_read(path, spoken({"classes": ["ham", "spam"]}), soft=False)


def test_messages_of_a_user_are_one_text(tmp_path: Path) -> None:
    (one,) = chats(Talk(1))
    one["messages"] = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "?"}, {"content": ["two"]}]
    silent = {**one, "id": "c1", "messages": [{"role": "user", "content": [{"type": "image_url"}]}]}
    path, part = write_lines(tmp_path / "a.jsonl", [one, silent]), {"classes": ["ham", "spam"]}
    found = list(logs.read(path, spoken(part)))
    assert [None if q.inputs is None else q.inputs.tolist() for q in found] == [["one\ntwo"], None]
    last = spoken({**part, "inputs": "messages[-1].content"})
    (found_last,) = logs.read(path, last)
    assert found_last.inputs is not None
    assert found_last.inputs.tolist() == ["two"]


def recorded(folder: Path, talk: Talk, mode: str = "whole") -> Path:
    chain = Chain(folder, "0", mode, None, DEFAULT)
    rows = [
        Row(
            *(talk.at[i], talk.who[i], f"org-{talk.who[i][-1]}", "paid", "/r", "v", "ok", 200, 1),
            texts.array([talk.said[i]]),
            Answers({Signal.PROBABILITIES: talk.p[i : i + 1]}, 2),
        )
        for i in range(talk.n)
    ]
    for at in range(0, talk.n, 50):
        assert not any(chain.keep(rows[at : at + 50]))
    chain.close()
    return folder


def test_the_gateways_history_and_its_export(tmp_path: Path) -> None:
    talk = Talk()
    history = recorded(tmp_path / "history", talk)
    talk.is_read(history, spoken())
    assert History(history).verify()["0"].seq == talk.n
    History(history).export(tmp_path / "a.parquet")
    kept = pq.read_table(tmp_path / "a.parquet")
    assert kept["texts"].to_pylist() == [[said] for said in talk.said]
    assert kept["inputs"].null_count == kept["shape"].null_count == talk.n
    found = list(logs.read(tmp_path / "a.parquet", spoken()))
    assert len({q.principal for q in found}) == 5
    assert sorted(t for q in found if q.inputs is not None for t in q.inputs.tolist()) == sorted(talk.said)


def test_a_history_of_the_other_kind_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="another shape than the endpoint's"):
        list(logs.read(recorded(tmp_path / "history", Talk(5)), manifest()))


def test_a_part_needs_nothing_else(tmp_path: Path) -> None:
    """Parts can be read in any process, each by itself, and hold every account once; they are their owner's only."""
    talk = Talk()
    parts = logs.partition(write_lines(tmp_path / "a.jsonl", talk.rows()), spoken(MAPPED), tmp_path / "spill", parts=3)
    kept = [path for part in parts for path in part.path.iterdir()]
    assert {path.name for path in kept} == {"rows", "texts", "names.json"}
    assert {oct(path.stat().st_mode & 0o777) for path in kept if path.name != "names.json"} == {"0o600"}
    found = [q for part in parts for q in part.queries(frozenset({"key:acct-1"}))]
    assert sum(map(len, found)) == talk.who.count("key:acct-1")
