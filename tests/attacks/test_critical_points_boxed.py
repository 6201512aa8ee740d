"""ReLU networks solved inside a box: units that only rows of the attacker's switch, and what is said of the others."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

import understudy as us
from understudy import registry
from understudy.attacks._frame import Frame
from understudy.attacks._relu_net import Net, Units
from understudy.attacks._scores import Scores
from understudy.attacks._unseen import chao
from understudy.attacks.critical_points import CriticalPoints
from understudy.endpoint import ArrayPool
from understudy.protocols import Extraction, Verdict
from understudy.targets.linear import softmax
from understudy.targets.network import NetworkTarget
from understudy.testing import network
from understudy.types import Exposure, Floats
from understudy.wrappers import Defended, Metered

BOX = us.Box(0, 1, shape=(64,))


def rows() -> Floats:
    return np.asarray(load_digits().data / 16, np.float64)


@cache
def layers(units: tuple[int, ...], seed: int) -> tuple[Any, ...]:
    inputs, truth = load_digits(return_X_y=True)
    with pytest.warns(ConvergenceWarning):
        fitted = MLPClassifier(units, max_iter=20, random_state=seed).fit(inputs[:800] / 16, truth[:800])
    return tuple((w.T, b) for w, b in zip(fitted.coefs_, fitted.intercepts_, strict=True))


def with_one_more(row: int) -> NetworkTarget:
    """A network of 32 units and one that is on at one of the last 100 rows, and at no other and no uniform input."""
    (first, bias), (last, constant) = layers((32,), 0)
    held = rows()[-100:]
    weight = held[row] - held.mean(0)
    sums = held @ weight
    offset = -(sums[row] + np.delete(sums, row).max()) / 2
    assert (np.random.default_rng(9).uniform(0, 1, (5000, 64)) @ weight + offset < 0).all()
    column = np.random.default_rng(0).normal(size=(10, 1))
    more = (np.vstack([first, weight]), np.append(bias, offset)), (np.hstack([last, column]), constant)
    return NetworkTarget(more, BOX)


def attack(
    target: NetworkTarget, budget: int, pool: Any, signal: str = "logits", classes: int = 10, **given: Any
) -> Extraction:
    exposed = Defended(target, (), "thief", Exposure.of(signal, classes))
    meter = Metered(exposed, budget)
    held = ArrayPool(np.zeros((0, 64)) if pool is None else pool)
    (found,) = CriticalPoints(**given).run(meter, held, np.random.default_rng(1))
    assert found.spent == meter.spent <= budget
    return found


def worst(found: Extraction, target: NetworkTarget, inputs: Floats) -> float:
    """Largest error of any score but for a common constant."""
    assert isinstance(found.substitute, NetworkTarget)
    apart = found.substitute.scores(inputs) - target.scores(inputs)
    return float(np.abs(apart - apart.mean(1, keepdims=True)).max())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("signal", ["logits", "probabilities"])
@pytest.mark.parametrize("data", [True, False])
def test_digits_network_is_solved_inside_its_box(seed: int, signal: str, data: bool) -> None:
    target = NetworkTarget(layers((32,), seed), BOX)  # 2,410 parameters
    found = attack(target, 2600, rows()[-100:] if data else None, signal)
    probes = np.concatenate([np.random.default_rng(9).uniform(0, 1, (5000, 64)), rows()])
    assert worst(found, target, probes) <= 2.0**-26
    assert found.verdict is Verdict.APPROXIMATE  # however small the error: a unit that was never on leaves no trace
    assert found.notes["units_never_reached"] is None
    assert "may be missing" in found.notes["possibly_missed"]
    assert ("no rows of real data" in found.notes["possibly_missed"]) is not data


def test_it_is_exact_once_all_units_known_to_exist_are_found() -> None:
    target = NetworkTarget(layers((32,), 0), BOX)
    assert attack(target, 2600, rows()[-100:], units=32).verdict is Verdict.EXACT
    found = attack(target, 2600, rows()[-100:], units=33)
    assert (found.verdict, found.notes["units_never_reached"]) == (Verdict.APPROXIMATE, 1)


@pytest.mark.parametrize("row", [3, 40, 77])
def test_a_unit_that_one_row_held_switches_is_found(row: int) -> None:
    target = with_one_more(row)
    found = attack(target, 3000, rows()[-100:])
    assert worst(found, target, rows()[-100:]) <= 2.0**-26
    assert found.notes["tests_unexplained"] == {"own_rows": 0, "corners": 0}
    assert found.notes["units_switched"]["by_own_rows"] > 1


def test_what_was_not_explained_when_the_budget_ended_is_said() -> None:
    found = attack(with_one_more(3), 800, rows()[-100:])
    assert found.notes["tests_unexplained"]["own_rows"] > 10
    assert found.verdict is not Verdict.EXACT


@pytest.mark.parametrize("data", [True, False])
def test_two_layers_in_a_box_are_refused(data: bool) -> None:
    found = attack(NetworkTarget(layers((16, 16), 0), BOX), 6000, rows()[-100:] if data else None)
    assert (found.verdict, found.substitute) == (Verdict.NOT_OF_FAMILY, None)
    assert "no single hidden layer" in found.notes["reason"]


def test_units_seen_rarely_foretell_those_unseen() -> None:
    seen = np.zeros((10, 6), np.bool_)
    for unit, times in enumerate([1, 1, 1, 1, 2, 7]):
        seen[:times, unit] = True
    assert chao(seen) == pytest.approx(0.9 * 4 * 3 / (2 * 2))  # (n - 1) / n f1 (f1 - 1) / (2 (f2 + 1))
    assert chao(np.ones((10, 6), np.bool_)) == 0
    assert chao(np.zeros((0, 6), np.bool_)) == 0
    rng, told = np.random.default_rng(0), dict[str, list[float]](alike=[], uneven=[])
    for name, chance in (("alike", np.full(300, 0.01)), ("uneven", np.geomspace(1e-4, 0.5, 300))):
        for _ in range(50):
            drawn = rng.random((100, 300)) < chance
            told[name].append(chao(drawn) / (~drawn.any(0)).sum())
    assert 0.9 < np.mean(told["alike"]) < 1.1
    assert max(told["uneven"]) < 1  # a lower bound where some are much rarer than others


@pytest.mark.parametrize("seed", range(3))
def test_a_space_with_some_walls_is_sampled_inside_them(seed: int) -> None:
    low, high = np.full(6, -np.inf), np.full(6, np.inf)
    low[:3], high[3] = 0, 1
    target = replace(network(seed, widths=(6, 5, 4)), space=us.Box(low, high))
    found = attack(target, 1500, np.zeros((0, 6)), classes=4)
    assert found.notes["units_found"] == 5
    assert found.notes["check_error"] <= 1e-9


def test_a_row_in_the_middle_of_the_box_shows_no_direction() -> None:
    target = replace(network(1, widths=(6, 5, 4)), space=us.Box(0, 1, (6,)))
    found = attack(target, 1500, np.full((1, 6), 0.5), classes=4)
    assert found.notes["check_error"] <= 1e-9


def test_answers_that_vanish_certify_nothing() -> None:
    target = us.target(lambda x: np.tile([1.0, 0.0, 0.0], (len(x), 1)), "probabilities", 3, us.Box(0, 1, (4,)))
    meter, rng = Metered(target, 100), np.random.default_rng(0)
    scores = Scores(meter, Frame.of(meter, ArrayPool(np.zeros((0, 4))), rng))
    scores.ask(np.zeros((1, 4)))
    scores.reserve = 20
    wrong = Net(Units.none(2, 4), None, np.ones(2), True, 0.0)
    found = CriticalPoints(units=0)._certified(scores, wrong, None, {}, rng)
    assert (found.verdict, found.substitute, found.notes["check_queries"]) == (Verdict.NOT_OF_FAMILY, None, 0)


@pytest.mark.parametrize("name", ["critical-points", "critical-points-deep"])
def test_probabilities_that_vanish_nearly_everywhere_end_the_attack(name: str) -> None:
    model = replace(network(1, widths=(6, 5, 4)), space=us.Box(-np.inf, np.inf, (6,)))
    target = us.target(lambda x: softmax(300 * model.scores(x)), "probabilities", 4, model.space)
    run = registry.create("attacks", name).run
    meter = Metered(target, 2500)
    for found in run(meter, ArrayPool(np.zeros((0, 6))), np.random.default_rng(0)):
        assert found.verdict is not Verdict.EXACT
    assert meter.spent <= 2500
