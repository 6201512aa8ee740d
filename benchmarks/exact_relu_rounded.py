"""ReLU networks from rounded and float32 logits: what the attack solves, against training on as many queries.

    python benchmarks/exact_relu_rounded.py [fresh | tuned ...]      fresh by default

Networks are 64-32-10 scikit-learn MLPs trained on half of digits; 10 to 19 are fresh, 0 to 3 were looked at while the
attack was written. Inputs are unbounded and the attacker has no rows. A float32 network does all of its sums in
float32. Each run is kept in .bench/rounded.json, so that a table that was interrupted goes on.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import heading, meter, one_thread, row, uniform, verdict
from exact_relu import rows, trained

KEPT = Path(".bench/rounded.json")
KINDS = ("6 decimals", "4 decimals", "float32", "2 decimals")
BARS = {"6 decimals": (1.0, 3000), "4 decimals": (0.9998, 3000), "float32": (0.999, 5000)}
NETWORKS = {"fresh": range(10, 20), "tuned": range(4)}


def endpoint(layers: Any, kind: str, space: Any) -> tuple[Any, Any]:
    """The network itself, and the metered endpoint that answers with its coarse logits."""
    from understudy.targets.network import NetworkTarget

    net = NetworkTarget(layers, space)
    single = [(w.astype(np.float32), b.astype(np.float32)) for w, b in layers]

    def in_float32(x: Any) -> Any:
        (a, b), (u, c) = single
        return np.maximum(x.astype(np.float32) @ a.T + b, 0) @ u.T + c

    def rounded(x: Any) -> Any:
        return np.round(net.scores(x), int(kind.split()[0]))

    return net, meter(in_float32 if kind == "float32" else rounded, "logits", len(layers[-1][1]), space, 1_000_000)


def judged(substitute: Any, net: Any, seed: int) -> dict[str, Any]:
    """Fidelity and log2 of the largest error of any logit, on uniform points and on real rows."""
    import understudy as us

    told: dict[str, Any] = {}
    for place, points in (("u", uniform(us.Box(0, 1, shape=(64,)), seed)), ("r", rows("digits")[0])):
        ours, theirs = substitute.query(points), net.scores(points)
        told[f"same_{place}"] = float((ours.labels() == theirs.argmax(1)).mean())
        if hasattr(substitute, "scores"):
            told[f"off_{place}"] = float(np.log2(np.abs(ours["logits"] - theirs).max()))
    return told


def solve(network: int, kind: str) -> dict[str, Any]:
    """One run of the attack, and of training on as many queries, uniform over the data's range."""
    import understudy as us
    from understudy import registry
    from understudy.endpoint import ArrayPool
    from understudy.wrappers import Metered

    space = us.Box(-np.inf, np.inf, shape=(64,))
    net, target = endpoint(trained("digits", 32, network), kind, space)
    pool = ArrayPool(np.zeros((0, 64)))
    clock = time.process_time()
    *_, found = registry.create("attacks", "critical-points").run(target, pool, np.random.default_rng(network))
    seconds = time.process_time() - clock
    run = {
        "spent": found.spent,
        "verdict": found.verdict.value,
        "seconds": seconds,
        "units": found.notes["units_found"],
    }
    run |= {"quanta": found.notes["check_error_in_quanta"]} | judged(found.substitute, net, network)
    _, again = endpoint(trained("digits", 32, network), kind, us.Box(0, 1, shape=(64,)))
    learner = registry.create("attacks", "retraining", learners=("mlp",))
    *_, copy = learner.run(Metered(again.target, found.spent), pool, np.random.default_rng(network))
    trained_copy = judged(copy.substitute, net, network)
    return run | {f"mlp_{k}": v for k, v in trained_copy.items()}


def kept(part: str, network: int, kind: str) -> dict[str, Any]:
    """A run, from the file where it was made before."""
    runs = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    name = f"{part}/{network}/{kind}"
    if name not in runs:
        runs[name] = solve(network, kind)
        KEPT.parent.mkdir(exist_ok=True)
        KEPT.write_text(json.dumps(runs, indent=1))
    return runs[name]


EACH = (
    "answers",
    "network",
    "verdict",
    "queries",
    "units",
    "log2 error u, r",
    "fidelity u, r",
    "check, quanta",
    "trained",
)
ALL = (
    "answers",
    "exact",
    "queries min / median / max",
    "log2 error median / worst",
    "worst fidelity",
    "trained, median",
)


def table(part: str) -> None:
    """Every run, and what they come to. Fidelity of a trained copy is the lower of the two."""
    networks = {kind: NETWORKS[part] if kind in BARS else NETWORKS[part][:5] for kind in KINDS}
    told = {kind: [kept(part, network, kind) for network in networks[kind]] for kind in KINDS}
    print(heading(*EACH))
    for kind, runs in told.items():
        for network, r in zip(networks[kind], runs, strict=True):
            errors, same = f"{r['off_u']:.1f}, {r['off_r']:.1f}", f"{r['same_u']:.5g}, {r['same_r']:.5g}"
            copy = f"{min(r['mlp_same_u'], r['mlp_same_r']):.4f}"
            quanta = f"{r['quanta']:.2f}"
            print(row(kind, network, r["verdict"], f"{r['spent']:,}", r["units"], errors, same, quanta, copy))
    print("\n" + heading(*ALL, "bar", "within it", ""))
    for kind, runs in told.items():
        spent, same = [r["spent"] for r in runs], [min(r["same_u"], r["same_r"]) for r in runs]
        worst = [max(r["off_u"], r["off_r"]) for r in runs]
        copies = statistics.median(min(r["mlp_same_u"], r["mlp_same_r"]) for r in runs)
        cells = [kind, f"{sum(r['verdict'] == 'exact' for r in runs)} of {len(runs)}"]
        cells += [f"{min(spent):,} / {statistics.median(spent):,.0f} / {max(spent):,}"]
        cells += [f"{statistics.median(worst):.1f} / {max(worst):.1f}", f"{min(same):.5g}", f"{copies:.4f}"]
        if kind in BARS:
            least, most = BARS[kind]
            good = sum(s >= least and n <= most for s, n in zip(same, spent, strict=True))
            cells += [f">= {least:g}, <= {most:,} queries", f"{good} of {len(runs)}"]
            cells += [verdict(good >= 0.9 * len(runs))]
        else:
            cells += ["none", "", ""]
        print(row(*cells))


if __name__ == "__main__":
    one_thread()
    for part in sys.argv[1:] or ["fresh"]:
        print(f"\n### {part}\n")
        table(part)
