"""What each metric measures, on models where the right figure is known."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from understudy.defences.top_k import TopK
from understudy.errors import UsageError
from understudy.metrics.accuracy import Accuracy
from understudy.metrics.fidelity import Fidelity
from understudy.metrics.parameter_error import ParameterError
from understudy.metrics.regression_error import RegressionError
from understudy.metrics.total_variation import MaxTotalVariation, TotalVariation
from understudy.protocols import Target
from understudy.targets.network import NetworkTarget
from understudy.targets.sklearn import SklearnTarget
from understudy.testing import linear, network, victim
from understudy.types import Answers, Ask, Box, Exposure, Floats, Grain, Signal
from understudy.wrappers import Defended

SPACE = Box(-1, 1, (4,))


@dataclass(frozen=True)
class Says:
    """A target that gives fixed answers."""

    signal: str
    rows: Any

    @property
    def space(self) -> Box:
        return SPACE

    @property
    def array(self) -> Floats:
        return np.array(self.rows, np.int64 if self.signal == "label" else np.float64)

    @property
    def exposure(self) -> Exposure:
        return Exposure.of(self.signal, self.array.shape[1] if self.array.ndim > 1 else 3)

    def query(self, inputs: Any, ask: Ask | None = None) -> Answers:
        return Answers({Signal(self.signal): self.array}, self.exposure.outputs)


def asked(n: int) -> Floats:
    return np.zeros((n, 4))


@pytest.mark.parametrize("metric", [Fidelity(), Accuracy()])
def test_agreement_counts_equal_classes_whatever_they_are_made_of(metric: Fidelity | Accuracy) -> None:
    labels, scores = Says("label", [0, 1, 2, 1]), Says("logits", [[9, 1, 1], [1, 9, 1], [1, 9, 1], [1, 9, 1]])
    values = metric.measure(scores, labels, asked(4))
    assert values.tolist() == [1, 1, 0, 1]
    assert metric.summary(values) == 0.75


def test_agreement_with_a_substitute_of_fewer_classes() -> None:
    values = Fidelity().measure(Says("probabilities", [[1, 0], [0, 1]]), Says("label", [0, 2]), asked(2))
    assert values.tolist() == [1, 0]


def test_agreement_needs_classes_on_both_sides() -> None:
    with pytest.raises(UsageError, match="use regression-error"):
        Fidelity().measure(Says("value", [[1.0]]), Says("label", [1]), asked(1))


def test_fidelity_is_measured_against_the_target_and_accuracy_against_the_truth() -> None:
    assert (Fidelity.against, Accuracy.against) == ("target", "truth")


def test_total_variation_is_half_the_absolute_difference() -> None:
    one, two = Says("probabilities", [[0.5, 0.5, 0], [1, 0, 0]]), Says("probabilities", [[0.2, 0.5, 0.3], [0, 0, 1]])
    values = TotalVariation().measure(one, two, asked(2))
    assert values == pytest.approx([0.3, 1.0])
    assert TotalVariation().summary(values) == pytest.approx(0.65)
    assert MaxTotalVariation().summary(values) == 1.0


def test_a_class_that_is_not_known_has_probability_zero() -> None:
    few, many = Says("probabilities", [[0.5, 0.5]]), Says("probabilities", [[0.25, 0.25, 0.5]])
    assert TotalVariation().measure(few, many, asked(1)) == pytest.approx([0.5])
    assert TotalVariation().measure(many, few, asked(1)) == pytest.approx([0.5])


def test_logits_by_any_name_get_the_softmax() -> None:
    x = SPACE.sample(30, np.random.default_rng(0))
    model = linear()
    called = Says("probabilities", model.query(x)["logits"].tolist())
    assert TotalVariation().measure(called, victim("probabilities"), x).max() < 1e-14
    assert TotalVariation().measure(victim("logits"), model, x).max() < 1e-14


def test_total_variation_says_who_answers_no_distribution() -> None:
    with pytest.raises(UsageError, match="the substitute answers label"):
        TotalVariation().measure(Says("label", [0]), Says("probabilities", [[1, 0]]), asked(1))
    with pytest.raises(UsageError, match="the reference answers value"):
        MaxTotalVariation().measure(Says("probabilities", [[1, 0]]), Says("value", [[1.0]]), asked(1))


def test_total_variation_does_not_take_withheld_for_zero() -> None:
    shown = Defended(victim("probabilities"), [TopK(1)], "k", Exposure({Signal.PROBABILITIES: Grain(1)}, 3))
    with pytest.raises(UsageError, match="some are withheld"):
        TotalVariation().measure(victim("probabilities"), shown, SPACE.sample(2, np.random.default_rng(0)))


def test_regression_error_is_in_standard_deviations_of_the_reference() -> None:
    reference, substitute = Says("value", [[0.0], [2.0], [4.0]]), Says("value", [[1.0], [2.0], [2.0]])
    spread = math.sqrt(8 / 3)
    assert RegressionError().measure(substitute, reference, asked(3)) == pytest.approx([1 / spread, 0, 2 / spread])


def test_regression_error_does_not_depend_on_the_unit() -> None:
    rng = np.random.default_rng(0)
    one, two = rng.random((50, 2)), rng.random((50, 2))
    plain = RegressionError().measure(Says("value", one), Says("value", two), asked(50))
    unit = np.array([1000.0, 0.001])
    assert RegressionError().measure(Says("value", one * unit), Says("value", two * unit), asked(50)) == pytest.approx(
        plain
    )


def test_always_answering_the_mean_costs_what_the_docstring_says() -> None:
    truth = np.random.default_rng(0).standard_normal((20000, 1))
    values = RegressionError().measure(
        Says("value", np.full_like(truth, truth.mean())), Says("value", truth), asked(20000)
    )
    # sqrt(2 / pi) = 0.798; the standard error is 0.004, so 0.03 is 7 of them.
    assert RegressionError().summary(values) == pytest.approx(math.sqrt(2 / math.pi), abs=0.03)


def test_a_constant_reference_is_compared_in_its_own_unit() -> None:
    reference, substitute = Says("value", [[0.1 + 0.2], [0.3]]), Says("value", [[0.8], [0.3]])
    assert RegressionError().measure(substitute, reference, asked(2)) == pytest.approx([0.5, 0])


def test_regression_error_refuses_what_it_cannot_compare() -> None:
    with pytest.raises(UsageError, match="the reference answers label"):
        RegressionError().measure(Says("value", [[1.0]]), Says("label", [0]), asked(1))
    with pytest.raises(UsageError, match="2 values and the reference 1"):
        RegressionError().measure(Says("value", [[1.0, 2.0]]), Says("value", [[1.0]]), asked(1))


# parameters


def parameter_error(substitute: Target, reference: Target) -> float:
    return ParameterError().summary(ParameterError().measure(substitute, reference, asked(0)))


def test_parameters_are_compared_up_to_what_no_class_can_tell() -> None:
    model = linear()
    moved = replace(model, weights=model.weights + np.array([1.0, -2.0, 3.0, 0.5]), bias=model.bias + 7)
    assert parameter_error(moved, model) < 1e-14
    assert parameter_error(replace(model, weights=2 * model.weights, bias=2 * model.bias), model) > 0.1


def test_parameters_from_labels_are_compared_up_to_a_positive_factor() -> None:
    model = linear()
    scaled = replace(model, weights=2 * model.weights + 1, bias=2 * model.bias - 3, scored=False)
    assert parameter_error(scaled, model) < 1e-14
    flipped = replace(model, weights=-model.weights, bias=-model.bias, scored=False)
    assert parameter_error(flipped, model) > 0.1


def test_parameters_of_a_regression_are_compared_as_they_are() -> None:
    model = linear(link="identity")
    assert parameter_error(model, model) == 0
    assert parameter_error(replace(model, bias=model.bias + 7), model) == pytest.approx(7)


def test_there_is_one_error_per_parameter_in_a_fixed_order() -> None:
    model = linear(link="identity")
    other = replace(model, weights=model.weights + np.eye(3, 4), bias=model.bias + np.array([0, 0, 5]))
    values = ParameterError().measure(other, model, asked(9))
    assert values.shape == (15,)
    assert np.flatnonzero(values > 0.5).tolist() == [0, 5, 10, 14]


@pytest.mark.parametrize(("substitute", "reference", "whose"), [(0, 1, "reference"), (1, 0, "substitute")])
def test_parameters_must_be_known_on_both_sides(substitute: int, reference: int, whose: str) -> None:
    models: list[Target] = [linear(), victim("probabilities")]
    with pytest.raises(UsageError, match=f"the {whose} shows none"):
        parameter_error(models[substitute], models[reference])


def test_parameters_of_other_shapes_are_not_compared() -> None:
    with pytest.raises(UsageError, match="cannot be compared"):
        parameter_error(linear(outputs=2), linear())


# networks


def rearranged(model: NetworkTarget, rng: np.random.Generator) -> NetworkTarget:
    """The same answers: units in another order, scaled, and some of them turned round."""
    (weights, bias), (out, last) = model.layers
    order, turned = rng.permutation(len(bias)), rng.random(len(bias)) < 0.5
    skip = np.zeros((len(last), weights.shape[1])) if model.skip is None else model.skip
    if model.activation == "relu":
        scale = rng.uniform(0.5, 2, len(bias))
        weights, bias, out = weights * scale[:, None], bias * scale, out / scale
        skip, last = skip + out[:, turned] @ weights[turned], last + out[:, turned] @ bias[turned]
    elif model.activation == "logistic":
        last = last + out[:, turned].sum(1)
    side = np.where(turned, -1.0, 1.0)
    weights, bias = weights * side[:, None], bias * side
    out = out if model.activation == "relu" else out * side
    layers = ((weights[order], bias[order]), (out[:, order] + 3.0 * (model.link == "softmax"), last))
    return replace(model, layers=layers, skip=skip if model.activation == "relu" else None)


@pytest.mark.parametrize("activation", ["relu", "tanh", "logistic"])
@pytest.mark.parametrize("link", ["softmax", "identity"])
def test_networks_are_compared_up_to_what_no_answer_can_tell(activation: Any, link: Any) -> None:
    model = replace(network(widths=(4, 6, 3)), activation=activation, link=link)
    same = rearranged(model, np.random.default_rng(1))
    x = asked(200)
    signal = "value" if link == "identity" else "probabilities"
    np.testing.assert_allclose(same.query(x)[signal], model.query(x)[signal], atol=1e-12)
    assert parameter_error(same, model) < 1e-12
    (weights, bias), last = same.layers
    assert parameter_error(replace(same, layers=((weights, bias + 0.1), last)), model) > 0.01


def test_a_unit_that_is_missing_counts_whole() -> None:
    model = network(widths=(4, 6, 3))
    (weights, bias), (out, last) = model.layers
    fewer = replace(model, layers=((weights[:-1], bias[:-1]), (out[:, :-1], last)))
    assert parameter_error(fewer, model) == parameter_error(model, fewer) > 0.1
    with pytest.raises(UsageError, match="one hidden layer; the reference has another number"):
        parameter_error(model, network(widths=(4, 6, 5, 3)))
    with pytest.raises(UsageError, match="cannot be compared"):
        parameter_error(model, network(widths=(4, 6, 2)))


@pytest.mark.parametrize("classes", [2, 3])
def test_a_perceptron_of_scikit_learn_is_compared_behind_its_scaler(classes: int) -> None:
    x = np.random.default_rng(0).normal(3, 2, (300, 4))
    y = (x[:, 0] * x[:, 1] > 9).astype(int) + (classes > 2) * (x[:, 2] > 4)
    perceptron = make_pipeline(StandardScaler(), MLPClassifier((8,), max_iter=10, random_state=0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ten rounds are enough here
        perceptron.fit(x, y)
    target = SklearnTarget.of(perceptron, Box(-np.inf, np.inf, (4,)), ["probabilities"])
    assert target.network is not None
    np.testing.assert_allclose(target.network.query(x)["probabilities"], perceptron.predict_proba(x), atol=1e-12)
    assert parameter_error(target.network, target) == 0
