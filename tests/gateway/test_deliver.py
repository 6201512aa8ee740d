"""Alerts on their way: never lost, tried again with growing pauses, put aside when a sink gives up."""

from __future__ import annotations

import contextlib
import json
import resource
import socket
import stat
import threading
from collections.abc import Callable
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
        assert sender.run(book, 1000.0) == (4, 1)
        assert sender.run(book, 1000.0) == (0, 1)  # one failure a run: each may take a while
        assert [a["id"] for a in lines(tmp_path / "alerts.jsonl")] == ["a0", "a1"]
        assert [e["class_uid"] for e in lines(tmp_path / "o.jsonl")] == [2004, 2004]
        assert book.unsent() == 2
        assert sender.run(book, 1000.5) == (0, 0)  # not due yet
        assert [sender.run(book, 1001.0) for _ in range(3)] == [(0, 1), (0, 1), (0, 0)]
        assert sender.run(book, 1002.9) == (0, 0)  # the pause has grown
        assert [sender.run(book, 1003.0) for _ in range(2)] == [(0, 1), (0, 1)]
        assert book.unsent() == 0
        assert not worker.changed()  # deliveries are no news to workers
    assert [a["id"] for a in lines(tmp_path / UNDELIVERED)] == ["a0", "a1"]


class Odd:
    """A webhook's other end that answers each POST in a way of its own: `say` writes to the socket."""

    def __init__(self, say: Callable[[socket.socket], None]) -> None:
        self.listening, self.say, self.got = socket.create_server(("127.0.0.1", 0)), say, 0
        self.url = f"http://127.0.0.1:{self.listening.getsockname()[1]}/hook"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                talk = self.listening.accept()[0]
                self.got += 1
                talk.recv(65_536)
                threading.Thread(target=self._answer, args=(talk,), daemon=True).start()

    def _answer(self, talk: socket.socket) -> None:
        with contextlib.suppress(OSError), talk:
            self.say(talk)


def silent(talk: socket.socket) -> None:
    while talk.recv(1024):
        pass


def endless(talk: socket.socket) -> None:
    talk.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\n")
    while True:
        talk.sendall(b"x" * 65_536)


def elsewhere(talk: socket.socket) -> None:
    talk.sendall(b"HTTP/1.1 307 Temporary Redirect\r\nlocation: http://127.0.0.1:9/\r\ncontent-length: 0\r\n\r\n")


def test_a_silent_webhook_holds_up_no_file_for_longer_than_one_try(tmp_path: Path) -> None:
    hook = Odd(silent)
    sender = Delivery(tmp_path, part(ocsf="o.jsonl", webhook={"url": hook.url, "timeout_s": 0.2}))
    with queued(tmp_path, 9) as book:
        assert sender.run(book, 1000.0) == (18, 1)
        assert (len(lines(tmp_path / "alerts.jsonl")), len(lines(tmp_path / "o.jsonl")), hook.got) == (9, 9, 1)
        assert book.unsent() == 9
    hook.listening.close()


@pytest.mark.parametrize(("say", "sent"), [(endless, 1), (elsewhere, 0)])
def test_of_a_webhooks_answer_the_status_alone_is_read(say: Any, sent: int, tmp_path: Path) -> None:
    hook = Odd(say)
    with queued(tmp_path) as book:
        assert Delivery(tmp_path, part(file=None, webhook={"url": hook.url})).run(book, 1000.0) == (2 + sent, 1 - sent)
        assert book.unsent() == 1 - sent
    hook.listening.close()


def test_an_alert_of_another_version_holds_no_other_up(tmp_path: Path) -> None:
    sender = Delivery(tmp_path, part(ocsf="o.jsonl"))
    with queued(tmp_path) as book:
        book.queue('{"v": 2}', ["ocsf"])
        book.queue(ALERT.model_dump_json(), ["ocsf"])
        assert sender.run(book, 1000.0) == (4, 1)
        assert book.unsent() == 0
    assert len(lines(tmp_path / "o.jsonl")) == 2
    assert {"v": 2} in lines(tmp_path / UNDELIVERED)


def test_half_a_line_is_no_delivery(tmp_path: Path) -> None:
    path, line = tmp_path / "alerts.jsonl", json.dumps({"pad": "x" * 100})
    append(path, line)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 50, before[1]))  # as where the disk is full
    try:
        with pytest.raises(OSError, match="No space"):
            append(path, line)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    append(path, line)
    assert lines(path) == [json.loads(line)] * 2


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
