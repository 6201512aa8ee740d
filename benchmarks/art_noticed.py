"""ART's thieves through the gateway: when the monitor notices them, and what the leak meter says of those it cannot.

    python benchmarks/art_noticed.py

KnockoffNets and CopycatCNN of the Adversarial Robustness Toolbox, unmodified, in an environment of their own (that of
knockoff_digits.py), ask a guard over HTTP, each run under an API key of its own, as a BlackBoxClassifier, eight rows a
request. Behind the guard a server of its own answers for a network: one of digits, and one of clothes for a guard of
its own. Sixty new customers ask beside them. Then `understudy calibrate` learns of 400 other customers and
`understudy monitor` reads the guard's history.

Pools: uniform noise; Fashion-MNIST cropped, pooled to 8 x 8 and put on the digits' 17 grey levels, foreign to the
digits; digits, and clothes, that nobody else has. A copy is the network of knockoff_digits.py, batches of 32: 60
epochs; of pools like the model's data then also, on the same answers, as many as it takes until it has converged
(art_thief.py says when that is).

What was asked stays in .bench/art-noticed: `python benchmarks/art_noticed.py watch` calibrates, reads and reports anew.
"""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from art_tables import Outcome, report
from art_thief import AT_ONCE, ROUTE, Gateway
from art_worlds import BUDGETS, FEW, KNOWN, LEVEL, LIFE, NEW, Pictures, Run, customers, runs
from common import one_thread
from knockoff_digits import art_python

ROOT, KEPT = Path(__file__).parents[1], Path(".bench/art-noticed")


# what is attacked


def serve(path: Path, port: int) -> None:
    """The model server: it knows nothing of Understudy."""
    import uvicorn

    model = pickle.loads(path.read_bytes())

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        asked = json.loads(body)["inputs"][0]
        p = model.predict_proba(np.array(asked["data"], float).reshape(asked["shape"]))
        told = {"name": "predict_proba", "shape": list(p.shape), "datatype": "FP64", "data": p.ravel().tolist()}
        out = json.dumps({"model_name": "digits", "outputs": [told]}).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": out})

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="critical", access_log=False)


@contextmanager
def served(folder: Path, world: Pictures) -> Iterator[Path]:
    """The model's server, and the manifest of a guard in front of it."""
    from running import free_port, listens, manifest, wait_for

    upstream = free_port()
    np.save(folder / "digits.npy", world.rows["owner"])
    plenty = {"per_minute": 10**7, "per_day": 10**8, "per_30d": 10**9}
    review = {"by": "bench", "on": "2020-01-01", "until": "2099-01-01", "reason": "a benchmark"}
    tier = {"id": "research", "who": "w", "signals": {"probabilities": {}}, "limits": plenty, "review": review}
    monitor = {"level": LEVEL, "horizon": LIFE}
    path = manifest(folder, upstream, tiers=[tier], guard={"limits": plenty}, monitor=monitor)
    with subprocess.Popen([sys.executable, __file__, "--serve", folder / "model.pickle", str(upstream)]) as process:
        try:
            wait_for(lambda: listens(upstream), 60)
            yield path
        finally:
            process.terminate()


# the two sides


def ask(folder: Path, path: Path, world: Pictures) -> None:
    """Everybody asks the guard; what each run of ART's made of it is written down."""
    from running import start_guard
    from understudy.gateway.keys import Keys, path_of
    from understudy.manifest import load

    wanted = runs(world.name)
    with Keys(path_of(load(path), path)) as book:
        keys = {name: book.add("research", name) for name in [run.party for run in wanted] + new_names()}
    guard = start_guard(folder, path)
    port = int(guard.url.rpartition(":")[2])
    try:
        for name, x in zip(new_names(), customers(world, "test", NEW, 1), strict=True):
            client = Gateway(port, keys[name])
            for at in range(0, LIFE, AT_ONCE):
                client(x[at : at + AT_ONCE])
        np.savez(folder / "pools.npz", **world.pools())
        orders = "".join(json.dumps([*run, keys[run.party], run.converges]) + "\n" for run in wanted)
        command = [art_python(), ROOT / "benchmarks/art_thief.py", folder / "pools.npz", str(port)]
        with (folder / "copies.jsonl").open("w") as file:
            subprocess.run(command, input=orders, stdout=file, text=True, check=True)
    finally:
        guard.stop()


def new_names() -> list[str]:
    return [f"customer-{i}" for i in range(NEW)]


def known(folder: Path, world: Pictures) -> Path:
    """The history of benign accounts that the calibration learns of, a query a minute."""
    from understudy.history import Row
    from understudy.history.chain import BATCH, DEFAULT, Chain

    shutil.rmtree(folder / "known", ignore_errors=True)
    rows = []
    for i, x in enumerate(customers(world, "calibration", KNOWN, 0)):
        who, answers = f"key:known-{i}", world.answers(x)
        for q in range(LIFE):
            one = slice(q, q + 1)
            about = (1.7e9 + 60.0 * q + i / KNOWN, who, who, "research", ROUTE, "1", "r", 200, 1)
            rows.append(Row(*about, x[one], answers.take(one)))
    rows.sort(key=lambda r: r.at)
    chain = Chain(folder / "known", "w1", "whole", None, DEFAULT)
    for at in range(0, len(rows), BATCH):
        refused = [error for error in chain.keep(rows[at : at + BATCH]) if error]
        if refused:
            raise SystemExit(str(refused[0]))
    chain.close()
    return folder / "known"


def watched(folder: Path, path: Path, world: Pictures) -> tuple[dict[str, Any], list[str]]:
    """Calibrate and monitor, as typed: every party by name, and what calibrating said."""
    from running import UNDERSTUDY

    command = [UNDERSTUDY, "calibrate", path, known(folder, world)]
    notes = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    command = [UNDERSTUDY, "monitor", path, "--out", folder / "out", "--parties", "10000", "--jobs", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        raise SystemExit(done.stdout + done.stderr)
    survey = json.loads((folder / "out" / "monitor.json").read_text())
    return {party["party"].removeprefix("key:"): party for party in survey["parties"]}, notes


def ours(path: Path, world: Pictures, wanted: Iterable[Run]) -> dict[Run, float]:
    """The fidelity of the best of our learners, trained on the very answers that the guard gave to each run."""
    from understudy import registry
    from understudy.calibrating import LEARNERS
    from understudy.gateway.keys import path_of
    from understudy.logs import read
    from understudy.manifest import load
    from understudy.types import Answers, Signal
    from understudy.watch import Queries

    manifest = load(path)
    by_party, parts = {run.party: run for run in wanted}, defaultdict[Run, list[Queries]](list)
    for queries in read([path_of(manifest, path).with_name("history")], manifest):
        if run := by_party.get(queries.party.removeprefix("key:")):
            parts[run].append(queries)
    held = world.rows["held"]
    truth, found = world.probabilities(held).argmax(1), {}
    for run, queries in parts.items():
        whole = Queries.concat(queries)
        p = whole.answers[Signal.PROBABILITIES]
        told = whole.answers if run.attack == "KnockoffNets" else Answers({Signal.LABEL: p.argmax(1)}, 10)
        copies = (registry.create("learners", name) for name in LEARNERS)
        trained = (copy.fit(whole.inputs, told, np.random.default_rng(run.seed)) for copy in copies)
        found[run] = max(float((copy.query(held).labels() == truth).mean()) for copy in trained)
    return found


def main(steps: Sequence[str]) -> None:
    sys.path.append(str(ROOT / "tests"))
    outcomes = []
    for name in BUDGETS:
        world, folder = Pictures(name), (KEPT / name).resolve()
        if "ask" in steps:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            (folder / "model.pickle").write_bytes(pickle.dumps(world.served))
            with served(folder, world) as path:
                ask(folder, path, world)
        if "watch" in steps:
            world.served = pickle.loads((folder / "model.pickle").read_bytes())
            made = map(json.loads, (folder / "copies.jsonl").read_text().splitlines())
            copies = dict(zip(runs(name), made, strict=True))
            with served(folder, world) as path:
                parties, notes = watched(folder, path, world)
                better = ours(path, world, [run for run in copies if run.budget <= FEW or run.converges])
            held = world.rows["held"]
            accuracy = (world.probabilities(held).argmax(1) == world.truth["held"]).mean()
            print(f"{name}: accuracy {accuracy:.3f}; fidelity on {len(held):,} held out.")
            print(*[note for note in notes if not note.startswith("Calibration:")], sep="\n")
            alarmed = sum(parties[customer]["alarmed"] for customer in new_names())
            print(f"New customers alarmed at {100 * LEVEL:g} %: {alarmed} of {NEW}\n")
            outcomes.append(Outcome(copies, better, parties))
    if outcomes:
        report(Outcome.joined(outcomes))


if __name__ == "__main__":
    one_thread()
    match sys.argv[1:]:
        case ["--serve", path, port]:
            serve(Path(path), int(port))
        case steps:
            main(steps or ("ask", "watch"))
