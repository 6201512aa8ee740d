"""Two real models on real data, with the splits an audit needs. The manifests beside this file name these functions.

Half of each data set trains the owner's model; a quarter is the attacker's pool (inputs, no truth); a quarter is the
owner's evaluation set.
"""

from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler

Floats = NDArray[np.float64]


@cache
def _split(load: Callable[..., tuple[Floats, Floats]]) -> list[tuple[Floats, Floats]]:
    inputs, truth = load(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(inputs))
    cuts = [len(inputs) // 2, 3 * len(inputs) // 4]
    return [(inputs[rows], truth[rows]) for rows in np.split(order, cuts)]


def _fit(load: Callable[..., tuple[Floats, Floats]], rows: NDArray[np.int64] | slice) -> Callable[[Floats], Floats]:
    inputs, truth = _split(load)[0]
    model = make_pipeline(MinMaxScaler(), LogisticRegression(max_iter=2000)).fit(inputs[rows], truth[rows])
    return model.predict_proba


def _retrained(load: Callable[..., tuple[Floats, Floats]], seed: int) -> Callable[[Floats], Floats]:
    """The same recipe on a bootstrap sample of the training data: what another seed does to it."""
    n = len(_split(load)[0][0])
    return _fit(load, np.random.default_rng(seed).integers(0, n, n))


@cache
def _served(load: Callable[..., tuple[Floats, Floats]]) -> Callable[[Floats], Floats]:
    return _fit(load, slice(None))


def risk_score(inputs: Floats) -> Floats:
    return _served(load_breast_cancer)(inputs)


def risk_score_recipe(seed: int) -> Callable[[Floats], Floats]:
    return _retrained(load_breast_cancer, seed)


def patients_pool() -> Floats:
    return _split(load_breast_cancer)[1][0]


def patients_evaluation() -> tuple[Floats, Floats]:
    return _split(load_breast_cancer)[2]


def digit_reader(inputs: Floats) -> Floats:
    return _served(load_digits)(inputs)


def digit_reader_recipe(seed: int) -> Callable[[Floats], Floats]:
    return _retrained(load_digits, seed)


def digits_pool() -> Floats:
    return _split(load_digits)[1][0]


def digits_evaluation() -> tuple[Floats, Floats]:
    return _split(load_digits)[2]
