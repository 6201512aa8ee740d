"""ART's thieves through the gateway: when the monitor notices them, and what the leak meter says of those it cannot.

    python benchmarks/art_noticed.py

KnockoffNets and CopycatCNN of the Adversarial Robustness Toolbox, unmodified, in an environment of their own (that of
knockoff_digits.py), ask a guard over HTTP, each run under an API key of its own, as a BlackBoxClassifier, eight rows a
request. Behind the guard a server of its own answers for a digits network. Sixty new customers ask beside them. Then
`understudy calibrate` learns of 400 other customers and `understudy monitor` reads the guard's history.

Pools: uniform noise; Fashion-MNIST cropped, pooled to 8 x 8 and put on the digits' 17 grey levels; digits that nobody
else has. A copy is the network of knockoff_digits.py, 60 epochs of batches of 32.
"""

from __future__ import annotations

import gzip
import json
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from art_thief import AT_ONCE, ROUTE, Gateway
from common import heading, one_thread, row
from knockoff_digits import art_python

from portfolio import CACHE, World, behaviours, customer

ROOT = Path(__file__).parents[1]
SEEDS, ATTACKS, FAR = (0, 1, 2), ("KnockoffNets", "CopycatCNN"), (100, 250, 500, 1000, 2000, 4000, 8000)
BUDGETS = {"uniform": FAR, "fashion": FAR, "digits": (50, 100, 200, 390)}
KNOWN, NEW, LIFE, LEVEL = 400, 60, 128, 0.01
GOAL = 0.9
FEW = 390  # queries up to which a copy of our own is trained on the same answers
FAR_POOLS = [(attack, pool) for attack in ATTACKS for pool in ("uniform", "fashion")]
PARTS = {"training": 0.24, "owner": 0.2, "calibration": 0.13, "test": 0.08, "thief": 0.22, "held": 0.13}


class Run(NamedTuple):
    """One run of one attack, which is one account of the guard."""

    attack: str
    pool: str
    seed: int
    budget: int

    @property
    def party(self) -> str:
        return f"{self.attack}-{self.pool}-{self.seed}-{self.budget}"


class Digits(World):
    """scikit-learn's digits in [0, 1], and a network of 64 ReLU units."""

    shares = PARTS

    def __init__(self) -> None:
        super().__init__("digits", "network")

    @cached_property
    def served(self) -> Any:
        from sklearn.neural_network import MLPClassifier

        made = MLPClassifier((64,), max_iter=1000, random_state=0)
        return made.fit(self.rows["training"], self.truth["training"])


def customers(world: World, part: str, n: int, seed: int) -> Iterator[Any]:
    """(LIFE, 64) queries of each customer of the portfolio. None sends faulty values: the guard refuses them."""
    rng = np.random.default_rng([seed, 6])
    kinds = [kind for kind in behaviours(2 * n, rng) if kind != "faults"]
    for kind in kinds[:n]:
        yield np.clip(customer(world, part, kind, LIFE, rng), 0, 1)


# what is attacked


def serve(port: int) -> None:
    """The model server: it knows nothing of Understudy."""
    import uvicorn

    model = Digits().served

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
def served(folder: Path, world: World) -> Iterator[Path]:
    """The model's server, and the manifest of a guard in front of it."""
    sys.path.append(str(ROOT / "tests"))
    from running import free_port, listens, manifest, wait_for

    upstream = free_port()
    np.save(folder / "digits.npy", world.rows["owner"])
    plenty = {"per_minute": 10**7, "per_day": 10**8, "per_30d": 10**9}
    review = {"by": "bench", "on": "2020-01-01", "until": "2099-01-01", "reason": "a benchmark"}
    tier = {"id": "research", "who": "w", "signals": {"probabilities": {}}, "limits": plenty, "review": review}
    path = manifest(folder, upstream, tiers=[tier], guard={"limits": plenty})
    with subprocess.Popen([sys.executable, __file__, "--serve", str(upstream)]) as process:
        try:
            wait_for(lambda: listens(upstream))
            yield path
        finally:
            process.terminate()


# the two sides


def asked(folder: Path, path: Path, world: World) -> dict[Run, float]:
    """Everybody asks the guard; the fidelity of every copy."""
    from running import start_guard
    from understudy.gateway.keys import Keys, path_of
    from understudy.manifest import load

    runs = [
        Run(attack, pool, seed, budget)
        for attack in ATTACKS
        for pool, budgets in BUDGETS.items()
        for seed in SEEDS
        for budget in budgets
    ]
    with Keys(path_of(load(path), path)) as book:
        keys = {name: book.add("research", name) for name in [run.party for run in runs] + new_names()}
    guard = start_guard(folder, path)
    port = int(guard.url.rpartition(":")[2])
    try:
        for name, x in zip(new_names(), customers(world, "test", NEW, 1), strict=True):
            client = Gateway(port, keys[name])
            for at in range(0, LIFE, AT_ONCE):
                client(x[at : at + AT_ONCE])
        held = world.rows["held"]
        np.savez(
            folder / "pools.npz",
            held=held,
            answered=world.probabilities(held).argmax(1),
            fashion=fashion(),
            digits=world.rows["thief"],
        )
        return dict(
            zip(runs, thieves(folder / "pools.npz", port, [(run, keys[run.party]) for run in runs]), strict=True)
        )
    finally:
        guard.stop()


def new_names() -> list[str]:
    return [f"customer-{i}" for i in range(NEW)]


def thieves(pools: Path, port: int, runs: Sequence[tuple[Run, str]]) -> list[float]:
    """The fidelity that each run of ART's reached."""
    orders = "".join(json.dumps([*run, key]) + "\n" for run, key in runs)
    command = [art_python(), ROOT / "benchmarks/art_thief.py", pools, str(port)]
    done = subprocess.run(command, input=orders, stdout=subprocess.PIPE, text=True, check=True)
    return [float(line) for line in done.stdout.split()]


def fashion() -> Any:
    """(10,000, 64) clothes for digits: Fashion-MNIST's test images, from a Debian package, kept in .bench/."""
    package = "dataset-fashion-mnist"
    folder = CACHE / package
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if not list(folder.rglob("t10k-images*")):
            subprocess.run(["apt-get", "download", package], cwd=folder, check=True, capture_output=True)
            subprocess.run(["dpkg", "-x", next(folder.glob("*.deb")).name, "."], cwd=folder, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(f"the Debian package {package} cannot be fetched: {error}") from None
    packed = gzip.decompress(next(folder.rglob("t10k-images*")).read_bytes())
    images = np.frombuffer(packed, np.uint8, offset=16).reshape(-1, 28, 28)[:, 2:26, 2:26]
    return np.round(images.reshape(-1, 8, 3, 8, 3).mean((2, 4)) / 255 * 16).reshape(-1, 64) / 16


def known(folder: Path, world: World) -> Path:
    """The history of benign accounts that the calibration learns of, a query a minute."""
    from understudy.history import Row
    from understudy.history.chain import BATCH, DEFAULT, Chain

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


def watched(folder: Path, path: Path, world: World) -> tuple[dict[str, Any], list[str]]:
    """Calibrate and monitor, as typed: every party by name, and what calibrating said."""
    import yaml

    from running import UNDERSTUDY

    body = yaml.safe_load(path.read_text()) | {"monitor": {"level": LEVEL, "horizon": LIFE}}
    path.write_text(yaml.safe_dump(body))
    command = [UNDERSTUDY, "calibrate", path, known(folder, world)]
    notes = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    command = [UNDERSTUDY, "monitor", path, "--out", folder / "out", "--parties", "10000", "--jobs", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        raise SystemExit(done.stdout + done.stderr)
    survey = json.loads((folder / "out" / "monitor.json").read_text())
    return {party["party"].removeprefix("key:"): party for party in survey["parties"]}, notes


def ours(path: Path, world: World, runs: Iterable[Run]) -> dict[Run, float]:
    """The fidelity of our logistic learner, trained on the very answers that the guard gave to each of `runs`."""
    from understudy import registry
    from understudy.gateway.keys import path_of
    from understudy.logs import read
    from understudy.manifest import load
    from understudy.types import Answers, Signal
    from understudy.watch import Queries

    manifest = load(path)
    wanted, parts = {run.party: run for run in runs}, defaultdict[Run, list[Queries]](list)
    for queries in read([path_of(manifest, path).with_name("history")], manifest):
        if run := wanted.get(queries.party.removeprefix("key:")):
            parts[run].append(queries)
    held = world.rows["held"]
    truth, found = world.probabilities(held).argmax(1), {}
    for run, queries in parts.items():
        whole = Queries.concat(queries)
        p = whole.answers[Signal.PROBABILITIES]
        told = whole.answers if run.attack == "KnockoffNets" else Answers({Signal.LABEL: p.argmax(1)}, 10)
        copy = registry.create("learners", "logistic").fit(whole.inputs, told, np.random.default_rng(run.seed))
        found[run] = float((copy.query(held).labels() == truth).mean())
    return found


# what came of it


def report(fidelity: dict[Run, float], better: dict[Run, float], parties: dict[str, Any]) -> None:
    curves(fidelity)
    noticed(fidelity, parties)
    leak(fidelity, better, parties)
    alarmed = sum(parties[name]["alarmed"] for name in new_names())
    print(f"\nNew customers alarmed at {100 * LEVEL:g} %: {alarmed} of {NEW}")


def median(fidelity: dict[Run, float], attack: str, pool: str, budget: int) -> float:
    return statistics.median(fidelity[Run(attack, pool, seed, budget)] for seed in SEEDS)


def curves(fidelity: dict[Run, float]) -> None:
    for pool, budgets in BUDGETS.items():
        print("\n" + heading(f"{pool}: fidelity, median of {len(SEEDS)} seeds", *[f"{b:,}" for b in budgets]))
        for attack in ATTACKS:
            print(row(attack, *[f"{median(fidelity, attack, pool, b):.3f}" for b in budgets]))


def noticed(fidelity: dict[Run, float], parties: dict[str, Any]) -> None:
    """Where each attack's first copy that reaches the goal lies on the grid, and the alarm of that run.

    The share is of the last budget that was not enough, so it is rather too large than too small.
    """
    print(
        "\n"
        + heading("attack, pool", "seed", f"queries to {GOAL}", "alarmed at query", "share at most", "loudest score")
    )
    for attack, pool in FAR_POOLS:
        budgets = BUDGETS[pool]
        for seed in SEEDS:
            runs = [Run(attack, pool, seed, b) for b in budgets]
            enough = next((i for i, run in enumerate(runs) if fidelity[run] >= GOAL), len(runs))
            short, run = runs[max(enough - 1, 0)], runs[min(enough, len(runs) - 1)]
            cost = (
                f"{short.budget:,}-{run.budget:,}" if enough < len(runs) else f"> {run.budget:,} ({fidelity[run]:.2f})"
            )
            account = parties[run.party]["accounts"][0]
            at = account["alarmed_at"]
            told = (
                ("never", "-", "-")
                if at is None
                else (at, f"{100 * at / short.budget:.2f} %", account["scores"][0]["detector"])
            )
            print(row(f"{attack}, {pool}", seed, cost, *told))
    print("\n" + heading("every budget and seed", "runs alarmed", "median query", "latest"))
    for attack in ATTACKS:
        for pool in BUDGETS:
            accounts = [parties[r.party]["accounts"][0] for r in fidelity if (r.attack, r.pool) == (attack, pool)]
            at = [a["alarmed_at"] for a in accounts if a["alarmed_at"] is not None]
            when = (f"{statistics.median(at):g}", max(at)) if at else ("-", "-")
            print(row(f"{attack}, {pool}", f"{len(at)} of {len(accounts)}", *when))


def leak(fidelity: dict[Run, float], better: dict[Run, float], parties: dict[str, Any]) -> None:
    """The meter beside ART's copies, by the bracket of what the attack trains on: probabilities, or labels."""
    columns = (
        "queries",
        "true fidelity, per seed",
        "leak meter",
        "meter minus true",
        "within 0.1",
        "in its interval",
        "our copy",
    )
    print("\n" + heading("attack, pool", *columns))
    for attack in ATTACKS:
        bracket = "probabilities" if attack == "KnockoffNets" else "labels"
        for pool, budgets in BUDGETS.items():
            for budget in budgets:
                runs = [Run(attack, pool, seed, budget) for seed in SEEDS]
                real = np.array([fidelity[run] for run in runs])
                told = [parties[run.party]["leak"][bracket] for run in runs]
                read = np.array([t["estimate"] for t in told])
                inside = sum(t["low"] <= r <= t["high"] for t, r in zip(told, real, strict=True))
                cells = (", ".join(f"{v:.2f}" for v in real), ", ".join(f"{v:.2f}" for v in read))
                gaps = ", ".join(f"{v:+.2f}" for v in read - real)
                within = int((abs(read - real) <= 0.1).sum())
                n = len(runs)
                same = ", ".join(f"{better[run]:.2f}" for run in runs) if runs[0] in better else "-"
                shares = (f"{within} of {n}", f"{inside} of {n}")
                print(row(f"{attack}, {pool}", f"{budget:,}", *cells, gaps, *shares, same))


def main() -> None:
    world = Digits()
    with tempfile.TemporaryDirectory() as name, served(Path(name), world) as path:
        folder = Path(name)
        fidelity = asked(folder, path, world)
        parties, notes = watched(folder, path, world)
        better = ours(path, world, [run for run in fidelity if run.budget <= FEW])
    accuracy = (world.probabilities(world.rows["held"]).argmax(1) == world.truth["held"]).mean()
    print(f"Victim: accuracy {accuracy:.3f}; fidelity on {len(world.rows['held'])} digits.")
    print(*[note for note in notes if not note.startswith("Calibration:")], sep="\n")
    report(fidelity, better, parties)


if __name__ == "__main__":
    one_thread()
    match sys.argv[1:]:
        case ["--serve", port]:
            serve(int(port))
        case _:
            main()
