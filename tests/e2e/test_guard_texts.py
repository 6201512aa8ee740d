"""A language identifier that nobody here wrote: audited, guarded, calibrated on and watched by what users type."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest
import yaml

from conftest import Cli
from documentation import sentences
from running import free_port, start_guard
from understudy.gateway.keys import Keys

sys.path.insert(0, str(Path(__file__).parent))
import servers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROUTE, LIFE, CUSTOMERS = "/v1/models/language:predict", 24, 90
TEXTS = sentences()[0]
THIRD = len(TEXTS) // 3


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    path, port = servers.environment("py3langid"), free_port()
    program = Path(__file__).with_name("language_server.py")
    base = f"http://127.0.0.1:{port}"
    with servers.running([path / "python", program, port], base, tmp_path_factory.mktemp("server"), path):
        yield base


@pytest.fixture(scope="module")
def names(server: str) -> list[str]:
    with urlopen(server, timeout=10) as answer:
        found: list[str] = json.load(answer)
    return found


def cased(texts: list[str]) -> list[str]:
    """Everybody's texts: some say it in few words, so that languages are in doubt."""
    return [text if i % 3 else " ".join(text.split()[:4]) for i, text in enumerate(texts)]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory, server: str, names: list[str]) -> Path:
    folder = tmp_path_factory.mktemp("language")
    (folder / "owned.txt").write_text("\n".join(cased(TEXTS[:400])), encoding="utf-8")
    (folder / "pool.txt").write_text("\n".join(cased(TEXTS[THIRD : THIRD + 400])), encoding="utf-8")
    http = {"url": server + ROUTE, "protocol": "kserve-v1", "options": {"classes": names}}
    body: dict[str, Any] = {
        "apiVersion": "understudy/v1",
        "kind": "Endpoint",
        "metadata": {"id": "language", "owner": "o", "contact": "c@example.org"},
        "model": {"version": "0.4.0"},
        "target": {"http": http, "signals": {"probabilities": {}}, "outputs": len(names), "batch": 200},
        "space": {"text": {"longest": 300}},
        "pool": {"data": "pool.txt", "provenance": "public documentation"},
        "evaluation": {"data": "owned.txt"},
        "goals": [{"id": "copy", "threshold": 0.8, "basis": "test"}],
        "tiers": [
            {
                "id": "paid",
                "who": "customers",
                "signals": {"label": {}, "probabilities": {"top_k": 1, "decimals": 3}},
                "limits": {"per_day": 5000},
            }
        ],
        "audit": {"budget": 300, "seeds": 1},
        "guard": {},
        "monitor": {"level": 0.05, "horizon": LIFE},
    }
    made = folder / "language.yaml"
    made.write_text(yaml.safe_dump(body, allow_unicode=True), encoding="utf-8")
    return made


def test_it_is_audited(path: Path, cli: Cli, tmp_path: Path) -> None:
    done = cli("audit", path, "--out", tmp_path / "run", "--jobs", 1, "--json")
    assert done.returncode in (0, 3), done.stderr
    (finding,) = json.loads(done.stdout)["findings"]
    assert finding["suite"][0]["attack"] == "retraining"
    assert finding["best"]["n"] == 400


class Asking:
    """Accounts at the guard."""

    def __init__(self, path: Path) -> None:
        self.keys = dict[str, str]()
        self.folder, self.guard = path.parent / "guard" / "language", start_guard(path.parent, path)

    def ask(self, who: str, texts: list[str]) -> list[Any]:
        if who not in self.keys:
            with Keys(self.folder / "keys.sqlite") as keys:
                self.keys[who] = keys.add("paid", principal=who)
        reply = self.guard.post(ROUTE, {"instances": texts}, self.keys[who])
        assert reply.status == 200, reply.data
        found: list[Any] = json.loads(reply.data)["predictions"]
        return found


@pytest.fixture(scope="module")
def asking(path: Path) -> Iterator[Asking]:
    made = Asking(path)
    yield made
    assert made.guard.stop() == 0


def test_customers_are_answered_and_a_thief_is_found(path: Path, asking: Asking, cli: Cli, tmp_path: Path) -> None:
    (german, chinese) = asking.ask("someone", ["Wie spät ist es denn jetzt gerade?", "请问现在几点了，我要回家"])
    assert (german["label"], chinese["label"]) == ("de", "zh")
    assert sum(p > 0 for p in german["probabilities"]) == 1
    everybody = np.array(cased(TEXTS[2 * THIRD :]), object)
    for i in range(CUSTOMERS):
        rng = np.random.default_rng([i, 3])
        asked = rng.choice(everybody, LIFE)
        asking.ask(f"c{i}", asked.tolist())
    words = sorted({w.lower() for t in TEXTS[:400] for w in re.findall(r"[a-z]{3,}", t)})
    asking.ask("thief", np.random.default_rng(0).permutation(words)[:LIFE].tolist())
    clean = tmp_path / "excluded"
    clean.write_text("key:thief\n", encoding="utf-8")
    done = cli("calibrate", path, asking.folder / "history", "--exclude", clean)
    assert done.returncode == 0, done.stderr
    found = cli("monitor", path, "--out", tmp_path / "out", "--jobs", 1, "--json")
    assert found.returncode == 1, found.stderr
    survey = json.loads(found.stdout)
    alarmed = {a["principal"] for p in survey["parties"] for a in p["accounts"] if a["alarmed_at"] is not None}
    assert "key:thief" in alarmed
    assert len(alarmed) <= 1 + 8  # 5 % of 90, by chance
