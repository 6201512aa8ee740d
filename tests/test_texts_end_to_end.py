"""A text classifier behind a guard: customers ask over HTTP; their record is calibrated on, watched and exported."""

from __future__ import annotations

import json
import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import urllib3
import yaml

from conftest import Cli
from documentation import sentences
from running import Guard, add_key, free_port, listens, start_guard, wait_for
from understudy.alerts import Alert
from understudy.gateway.keys import Keys
from understudy.history import History

ROUTE, LONGEST, LIFE, CUSTOMERS = "/v2/models/topics/infer", 300, 24, 90
TEXTS, TOPIC = sentences()
LATER = len(TEXTS) // 3  # the model was trained on what comes before


@dataclass
class Place:
    """The guard, and how to ask it."""

    path: Path
    server: str
    guard: Guard
    keys: dict[str, str]

    @property
    def folder(self) -> Path:
        return self.path.parent / "guard" / "topics"

    def open_account(self, who: str, tier: str = "paid") -> None:
        with Keys(self.folder / "keys.sqlite") as keys:
            self.keys[who] = keys.add(tier, principal=who)

    def ask(self, who: str, texts: list[Any], **tensor: Any) -> Any:
        body = {"inputs": [{"name": "x", "shape": [len(texts)], "datatype": "BYTES", "data": texts, **tensor}]}
        return self.guard.post(ROUTE, body, self.keys[who])

    def truth(self, texts: list[str]) -> Any:
        """What the server itself says."""
        parameters = {"content_type": "str"}
        tensor = {"name": "x", "shape": [len(texts), 1], "datatype": "BYTES", "data": texts, "parameters": parameters}
        return outputs(urllib3.request("POST", self.server + ROUTE, json={"inputs": [tensor]}))["predict_proba"]


def declared(folder: Path, port: int) -> Path:
    (folder / "owned.txt").write_text("\n".join(TEXTS[:LATER]), encoding="utf-8")
    tiers = [
        {"id": "public", "who": "anybody", "signals": {"label": {}}, "limits": {"per_day": 1000}},
        {"id": "paid", "who": "customers", "signals": {"label": {}, "probabilities": {"decimals": 2}}},
    ]
    http = {"url": f"http://127.0.0.1:{port}{ROUTE}", "protocol": "open-inference"}
    logs = {"time": "at", "inputs": "text", "answers": {"label": "class"}}
    step = {"when": {"p_value": 0.05}, "do": "alert"}
    body = {
        "apiVersion": "understudy/v1",
        "kind": "Endpoint",
        "metadata": {"id": "topics", "owner": "o", "contact": "c@example.org"},
        "model": {"version": "1"},
        "target": {"http": http, "signals": {"probabilities": {}}, "outputs": 4},
        "space": {"text": {"longest": LONGEST}},
        "evaluation": {"data": "owned.txt"},
        "goals": [{"id": "copy", "threshold": 0.9, "basis": "test"}],
        "tiers": tiers,
        "guard": {"max_rows": 64},
        "monitor": {"level": 0.05, "horizon": LIFE, "response": [step], "logs": logs},
    }
    path = folder / "topics.yaml"
    path.write_text(yaml.safe_dump(body), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder, port = tmp_path_factory.mktemp("texts"), free_port()
    path = declared(folder, port)
    with subprocess.Popen([sys.executable, str(Path(__file__).with_name("text_server.py")), str(port)]) as process:
        wait_for(lambda: listens(port), 60)
        keys = {"a": add_key(path, "paid", "--principal", "a")}
        made = Place(path, f"http://127.0.0.1:{port}", start_guard(folder, path), keys)
        made.open_account("b", "public")
        yield made
        made.guard.kill()
        process.terminate()


def outputs(reply: Any) -> dict[str, Any]:
    assert reply.status == 200, reply.data
    return {o["name"]: np.array(o["data"]).reshape(o["shape"]) for o in json.loads(reply.data)["outputs"]}


def test_each_tier_receives_what_it_is_granted(place: Place) -> None:
    some = TEXTS[LATER : LATER + 5]
    truth = place.truth(some)
    told = outputs(place.ask("a", some))
    assert told["predict"].tolist() == truth.argmax(1).tolist()
    np.testing.assert_allclose(told["predict_proba"], truth.round(2), atol=1e-9)
    assert truth.max(1).mean() > 0.5
    assert list(outputs(place.ask("b", some))) == ["predict"]
    tail = b"".join(struct.pack("<I", len(t.encode())) + t.encode() for t in some)
    tensor = {"name": "x", "shape": [5, 1], "datatype": "BYTES", "parameters": {"binary_data_size": len(tail)}}
    head = json.dumps({"inputs": [tensor]}).encode()
    framed = {"inference-header-content-length": str(len(head))}
    assert outputs(place.guard.post(ROUTE, head + tail, place.keys["b"], **framed))["predict"].tolist() == (
        truth.argmax(1).tolist()
    )


@pytest.mark.parametrize(
    ("texts", "more", "status"),
    [
        (["x" * (LONGEST + 1)], {}, 400),
        ([""], {}, 400),
        (["fine", "nul\0"], {}, 400),
        ([1.5], {}, 400),
        ([["a", "b"]], {}, 400),
        ([None], {}, 400),
        (["a"], {"datatype": "FP64"}, 400),
        (["a"], {"shape": [2]}, 400),
        (["a"], {"shape": []}, 400),
        ([], {}, 400),
        (["a"] * 65, {}, 413),
        (["x" * 299] * 4000, {}, 413),
    ],
    ids=range(12),
)
def test_what_nobody_should_send_is_refused_in_general_words(
    place: Place, texts: list[Any], more: dict[str, Any], status: int
) -> None:
    reply = place.ask("a", texts, **more)
    assert reply.status == status, reply.data
    assert "Traceback" not in reply.data.decode()
    assert "nul" not in reply.data.decode().replace("NUL", "")


def test_bytes_that_are_no_text_are_refused(place: Place) -> None:
    for data in (b'["\\ud83d"]', b'["\xff"]', b'["\xed\xa0\x80"]'):
        body = b'{"inputs": [{"name": "x", "shape": [1], "datatype": "BYTES", "data": ' + data + b"}]}"
        assert place.guard.post(ROUTE, body, place.keys["a"]).status == 400
    assert not [line for line in place.guard.lines() if "exception" in line or "Traceback" in str(line)]


def customer(place: Place, i: int) -> None:
    """Asks about two topics, a tenth of it twice."""
    rng = np.random.default_rng([i, 7])
    mine = [t for t, topic in zip(TEXTS[LATER:], TOPIC[LATER:], strict=True) if topic in (i % 4, (i + 1) % 4)]
    asked = rng.choice(np.array(mine, object), LIFE)
    asked[rng.random(LIFE) < 0.1] = asked[0]
    place.open_account(f"c{i}")
    for at in range(0, LIFE, 12):
        outputs(place.ask(f"c{i}", asked[at : at + 12].tolist()))


@pytest.mark.slow
def test_a_thief_is_alarmed_on_the_record_in_an_export_and_live(place: Place, cli: Cli, tmp_path: Path) -> None:
    """Customers first; then somebody asks words, one at a time, as a thief of a linear model does."""
    for i in range(CUSTOMERS):
        customer(place, i)
    done = cli("calibrate", place.path, place.folder / "history")
    assert done.returncode == 0, done.stderr
    assert "leak meter, label bracket: error" in done.stdout
    wait_for(lambda: any(line.get("event") == "watching" for line in place.guard.lines()), 30)
    place.open_account("thief")
    words = sorted({w.lower() for t in TEXTS[:LATER] for w in re.findall(r"[a-z]{3,}", t)})
    for word in np.random.default_rng(0).permutation(words)[:40].tolist():
        outputs(place.ask("thief", [word]))
    alerts = place.folder / "alerts.jsonl"
    wait_for(alerts.exists, 30)
    told = [Alert.read(line, alerts) for line in alerts.read_text().splitlines()]
    assert [a.principal for a in told] == ["key:thief"]
    assert "single-word" in {s.detector for s in told[0].detectors}
    assert told[0].inputs.mean is None

    found = cli("monitor", place.path, "--out", tmp_path / "own", "--jobs", 1, "--json")
    survey = json.loads(found.stdout)
    assert found.returncode == 1, found.stderr
    assert survey["verdict"] == "alarmed"
    alarmed = {a["principal"] for p in survey["parties"] for a in p["accounts"] if a["alarmed_at"] is not None}
    assert "key:thief" in alarmed
    assert len(alarmed) <= 1 + 8  # 5 % of 90, by chance
    assert TEXTS[LATER][:20] not in (tmp_path / "own" / "monitor.html").read_text(encoding="utf-8")

    # the same as JSON lines of the owner's own
    history, lines = History(place.folder / "history"), tmp_path / "asked.jsonl"
    with lines.open("w", encoding="utf-8") as file:
        for one in history.exchanges():
            rows = zip(one.inputs.tolist(), one.answers.labels().tolist(), strict=True)
            for text, label in rows:
                row = {"principal": one.principal, "at": one.at, "text": text, "class": label}
                print(json.dumps(row), file=file)
    again = cli("monitor", place.path, lines, "--out", tmp_path / "lines", "--jobs", 1, "--json")
    assert again.returncode == 1, again.stderr
    assert "key:thief" in (tmp_path / "lines" / "alerts.jsonl").read_text()

    # and as the gateway's own export, under pseudonyms
    history.export(tmp_path / "e.parquet")
    assert sum(len(t) for t in pq.read_table(tmp_path / "e.parquet")["texts"].to_pylist()) >= CUSTOMERS * LIFE
    third = cli("monitor", place.path, tmp_path / "e.parquet", "--out", tmp_path / "exported", "--jobs", 1, "--json")
    assert third.returncode == 1, third.stderr
    assert json.loads(third.stdout)["queries"] == survey["queries"]
