"""Alerts on their way: never lost, tried again with growing pauses, put aside when a sink gives up."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from running import free_port
from test_alerts import ALERT
from understudy.errors import ManifestError
from understudy.gateway import deliver
from understudy.gateway.book import FILE, Book
from understudy.gateway.deliver import UNDELIVERED, Delivery, append
from understudy.manifest_monitor import MonitorPart
from understudy.response import Response

SINKS = ["file", "ocsf", "webhook"]


def queued(folder: Path, n: int = 1) -> Book:
    book = Book(folder / FILE)
    for i in range(n):
        response = Response("1-alert", "alert", "principal", f"key:a-{i}", 10.0 + i, 100.0, 100.0)
        book.add([(response, ALERT.model_copy(update={"id": f"a{i}"}))], SINKS)
    return book


def part(**sinks: Any) -> MonitorPart:
    return MonitorPart.model_validate({"sinks": sinks})


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_webhook_that_is_away_holds_nothing_else_up_and_loses_nothing(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}/"  # nobody listens there
    sender = Delivery(tmp_path, part(ocsf="o.jsonl", webhook={"url": url, "tries": 3, "timeout_s": 1}))
    with queued(tmp_path, 2) as book, Book(tmp_path / FILE) as worker:
        assert worker.changed()
        assert sender.run(book, 1000.0) == (4, 2)
        assert [a["id"] for a in lines(tmp_path / "alerts.jsonl")] == ["a0", "a1"]
        assert [e["class_uid"] for e in lines(tmp_path / "o.jsonl")] == [2004, 2004]
        assert book.unsent() == 2
        assert sender.run(book, 1000.5) == (0, 0)  # not due yet
        assert sender.run(book, 1001.0) == (0, 2)
        assert sender.run(book, 1002.9) == (0, 0)  # the pause has grown
        assert sender.run(book, 1003.0) == (0, 2)
        assert book.unsent() == 0
        assert not worker.changed()  # deliveries are no news to workers
    assert [a["id"] for a in lines(tmp_path / UNDELIVERED)] == ["a0", "a1"]


def test_a_file_that_cannot_be_written_is_tried_until_it_can(tmp_path: Path) -> None:
    (tmp_path / "alerts.jsonl").mkdir()
    sender = Delivery(tmp_path, part())
    with queued(tmp_path) as book:
        book_of_file = [w for w in book.waiting(0.0) if w.sink == "file"]
        assert len(book_of_file) == 1
        for i in range(12):
            sender.run(book, 1000.0 * 2**i)
        assert book.unsent() == 1
        (tmp_path / "alerts.jsonl").rmdir()
        sender.run(book, 1e9)
        assert book.unsent() == 0
    assert [a["id"] for a in lines(tmp_path / "alerts.jsonl")] == ["a0"]
    assert len(lines(tmp_path / UNDELIVERED)) == 2  # of sinks that this manifest does not name


def test_a_large_file_is_put_aside_and_never_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliver, "_LARGEST", 100)
    path = tmp_path / "alerts.jsonl"
    for i in range(40):
        append(path, json.dumps({"n": i, "pad": "x" * 20}))
    files = sorted(tmp_path.glob("alerts*.jsonl"))
    assert len(files) > 5
    assert sorted(line["n"] for file in files for line in lines(file)) == list(range(40))
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_an_alert_is_queued_once_whatever_is_decided_twice(tmp_path: Path) -> None:
    with queued(tmp_path) as book:
        response = book.all()[0]
        book.add([(response, ALERT)], SINKS)
        assert book.unsent() == len(SINKS)
        assert [act["act"] for act in book.acts()] == ["began"]


def test_a_webhooks_secret_is_long_and_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monitor = part(webhook={"url": "http://127.0.0.1:9/", "secret": {"env": "HOOK_SECRET"}})
    for value in ("", "short"):
        monkeypatch.setenv("HOOK_SECRET", value)
        with pytest.raises(ManifestError, match="set HOOK_SECRET to 16 or more"):
            Delivery(tmp_path, monitor)
    monkeypatch.setenv("HOOK_SECRET", "0123456789abcdef")
    Delivery(tmp_path, monitor)
