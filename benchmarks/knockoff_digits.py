"""Copying a digits network from uniform noise: `retraining` beside ART's KnockoffNets, in one run on one victim.

    python benchmarks/knockoff_digits.py

ART lives in an environment of its own: the one that UNDERSTUDY_BENCH_ART names, else .bench/art, made when absent. A
process there trains the victim once (64-64-10 ReLU, 800 digits, Adam 1e-3, batch 64, 60 epochs, seed 0), writes its
weights down, and then runs ART's attack for one seed at a time, in turns with ours in this process. Both are given the
same pool (10,000 x U(0, 1), drawn from the seed), the victim's float32 probabilities, 2,000 queries and one thread.
CPU is process time of the attack alone, its queries included, after a warm-up on a seed that is not reported.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

BUDGET, POOL, SEEDS, WARM_UP = 2000, 10_000, (1, 2, 3, 4, 5), 0
ART = ("torch==2.13.0", "adversarial-robustness-toolbox==1.20.1", "scikit-learn==1.9.1", "packaging")
OURS: dict[str, dict[str, Any]] = {
    "retraining, as it comes": {},
    "retraining, mlp only": {"learners": ("mlp",)},
    "retraining, mlp only, one round": {"learners": ("mlp",), "first": BUDGET},
}
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def noise(seed: int) -> Any:
    return np.random.default_rng(seed).uniform(0, 1, (POOL, 64)).astype(np.float32)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, peer(art_python(), Path(folder) / "victim.npz") as art:
        victim = dict(np.load(Path(folder) / "victim.npz"))
        runs: dict[str, Callable[[int], dict[str, Any]]] = {"ART 1.20.1 KnockoffNets": art}
        runs |= {name: our_side(victim, options) for name, options in OURS.items()}
        results: dict[str, list[dict[str, Any]]] = {name: [] for name in runs}
        for run in runs.values():
            run(WARM_UP)
        for seed in SEEDS:
            for name, run in runs.items():
                results[name].append(run(seed))
    print(table(results, float(victim["accuracy"])))


def table(results: dict[str, list[dict[str, Any]]], accuracy: float) -> str:
    from understudy.stats import paired_interval

    def column(name: str, key: str) -> list[float]:
        return [row[key] for row in results[name]]

    baseline = next(iter(results))
    seeds = " | ".join(f"seed {seed}" for seed in SEEDS)
    lines = [
        f"Victim: accuracy {accuracy:.3f}; fidelity on 497 test digits at {BUDGET:,} queries of uniform noise.",
        "",
        f"| attack | {seeds} | minus ART (95 %) | CPU s | CPU / ART (range over seeds) | won by |",
        "|---" * (len(SEEDS) + 5) + "|",
    ]
    for name in results:
        fidelity, cpu = column(name, "fidelity"), np.array(column(name, "cpu"))
        ratio = cpu / np.array(column(baseline, "cpu"))
        gain = paired_interval(fidelity, column(baseline, "fidelity"), np.random.default_rng(0))
        cells = " | ".join(f"{f:.3f}" for f in fidelity)
        difference = "" if name == baseline else f"{gain.value:+.3f} ({gain.low:+.3f} to {gain.high:+.3f})"
        ratios = "1" if name == baseline else f"{ratio.mean():.2f} ({ratio.min():.2f}-{ratio.max():.2f})"
        won = ", ".join(sorted({str(row.get("learner", "-")) for row in results[name]}))
        lines.append(f"| {name} | {cells} | {difference} | {cpu.mean():.2f} | {ratios} | {won} |")
    return "\n".join(lines)


def our_side(victim: dict[str, Any], options: dict[str, Any]) -> Callable[[int], dict[str, Any]]:
    import understudy as us
    from understudy import registry
    from understudy.endpoint import ArrayPool
    from understudy.wrappers import Metered

    def probabilities(x: Any) -> Any:
        z = np.maximum(x.astype(np.float32) @ victim["w1"].T + victim["b1"], 0) @ victim["w2"].T + victim["b2"]
        e = np.exp(z - z.max(1, keepdims=True))
        return e / e.sum(1, keepdims=True)

    target = us.target(probabilities, signal="probabilities", outputs=10, space=us.Box(0, 1, shape=(64,)))

    def run(seed: int) -> dict[str, Any]:
        pool, meter = ArrayPool(noise(seed).astype(np.float64)), Metered(target, BUDGET)
        attack = registry.create("attacks", "retraining", **options)
        started = time.process_time()
        *_, last = attack.run(meter, pool, np.random.default_rng(seed))
        cpu = time.process_time() - started
        fidelity = us.fidelity(last.substitute, target, victim["test"]).value
        return {"fidelity": fidelity, "cpu": cpu, "learner": last.notes["learner"]}

    return run


def art_python() -> Path:
    """The interpreter of an environment that holds ART, which is made if need be."""
    folder = Path(os.environ.get("UNDERSTUDY_BENCH_ART", ".bench/art"))
    python = folder / "bin" / "python"
    if not python.exists():
        print(f"Making the environment of ART in {folder} (once; some minutes)", file=sys.stderr)
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *ART], check=True)
    return python


@contextmanager
def peer(python: Path, victim: Path) -> Iterator[Callable[[int], dict[str, Any]]]:
    """A process in ART's environment: it writes `victim`, then answers each seed with its fidelity and CPU time."""
    command = [python, __file__, "--peer", victim]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        def read() -> dict[str, Any]:
            line = stdout.readline()
            if not line:
                raise SystemExit("the process in ART's environment ended early")
            answer: dict[str, Any] = json.loads(line)
            return answer

        def ask(seed: int) -> dict[str, Any]:
            print(seed, file=stdin, flush=True)
            return read()

        read()
        yield ask
        stdin.close()


def peer_main(path: Path) -> None:
    """Runs in ART's environment; nothing of Understudy is imported here."""
    import torch
    from art.attacks.extraction import KnockoffNets
    from art.estimators.classification import PyTorchClassifier
    from sklearn.datasets import load_digits

    torch.set_num_threads(1)
    inputs, truth = load_digits(return_X_y=True)
    order = np.random.RandomState(0).permutation(len(inputs))
    inputs, truth = (inputs[order] / 16).astype(np.float32), truth[order]
    test, test_truth = inputs[1300:], truth[1300:]

    def network() -> Any:
        return torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))

    def wrapped(model: Any, trained: Any) -> Any:
        return PyTorchClassifier(
            model,
            loss=torch.nn.CrossEntropyLoss(),
            optimizer=torch.optim.Adam(trained.parameters(), lr=1e-3),
            input_shape=(64,),
            nb_classes=10,
            clip_values=(0, 1),
            device_type="cpu",
        )

    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - ART shuffles with numpy's shared generator
    net = network()
    wrapped(net, net).fit(inputs[:800], truth[:800], batch_size=64, nb_epochs=60)
    victim = wrapped(torch.nn.Sequential(net, torch.nn.Softmax(1)), net)
    answered = victim.predict(test).argmax(1)
    weights = dict(zip(("w1", "b1", "w2", "b2"), (p.detach().numpy() for p in net.parameters()), strict=True))
    np.savez(path, test=test, accuracy=(answered == test_truth).mean(), **weights)
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        seed = int(line)
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        pool, copy = noise(seed), network()
        thief = wrapped(copy, copy)
        attack = KnockoffNets(
            victim,
            batch_size_fit=64,
            batch_size_query=64,
            nb_epochs=30,
            nb_stolen=BUDGET,
            use_probability=True,
            verbose=False,
        )
        started = time.process_time()
        stolen = attack.extract(pool, thieved_classifier=thief)
        cpu = time.process_time() - started
        fidelity = float((stolen.predict(test).argmax(1) == answered).mean())
        print(json.dumps({"fidelity": fidelity, "cpu": cpu}), flush=True)


if __name__ == "__main__":
    if not ONE_THREAD.items() <= os.environ.items():  # libraries read these when they are loaded
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **ONE_THREAD})
    if sys.argv[1:2] == ["--peer"]:
        peer_main(Path(sys.argv[2]))
    else:
        main()
