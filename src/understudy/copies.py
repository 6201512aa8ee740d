"""Copies out of sums and a balanced sample, as what they answer to a hold-out: what the leak meter reads."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
from threadpoolctl import threadpool_limits

from understudy.balanced import Balanced
from understudy.types import Array, Floats
from understudy.views import Floats32

_RIDGES = (1e-3, 1e-2, 1e-1)
_STEEP = (1e-9, 1e-6, 1e-3, 1e-1)  # of least squares on log-odds, where equations may be exact
_TREES = 40


def discriminants(gram: Floats, cross: Floats, held: Floats32) -> Iterator[Array]:
    """The linear discriminant with the classes' own shares as priors, at several ridges, out of the sums.

    With C the covariance of the features and D (features x classes) their covariance with the classes, ridge scores
    are x' C^-1 D, and the within-class covariance only needs a matrix of classes x classes more.
    """
    counts, n = cross[0], gram[0, 0]
    have = np.flatnonzero(counts)
    share, mean = counts[have] / n, gram[0, 1:] / n
    size, turn = np.linalg.eigh(gram[1:, 1:] / n - np.outer(mean, mean))
    size = np.maximum(size, 0)
    toward = turn.T @ (cross[1:, have] / n - np.outer(mean, share))
    seen = (held[:, 1:] - mean) @ turn
    for ridge in _RIDGES:
        slopes = toward / (size + max(ridge * size.mean(), 1e-12))[:, None]
        between = toward.T @ slopes
        within = np.linalg.pinv(np.diag(share) - between, hermitian=True)
        far = ((between / share[:, None]) * within.T).sum(1)
        yield have[(seen @ slopes @ within - far / 2 + np.log(share)).argmax(1)]


def trained(sample: Balanced, held: Floats32) -> Iterator[Array]:
    """A logistic model and a forest."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rows, told = sample.rows.astype(np.float32), sample.labels
    if (told == told[0]).all():
        yield np.repeat(told[:1], len(held))
        return
    copies = (
        make_pipeline(StandardScaler(), LogisticRegression(C=10.0, max_iter=100)),
        RandomForestClassifier(_TREES, random_state=0),
    )
    for copy in copies:
        with threadpool_limits(1), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that training could go on is no news
            yield copy.fit(rows, told).predict(held)


def solved(gram: Floats, cross: Floats, held: Floats32) -> Iterator[Array]:
    """Least squares on log-odds, at several ridges."""
    level, one = np.trace(gram) / len(gram), np.eye(len(gram))
    for ridge in _STEEP:
        yield (held @ np.linalg.lstsq(gram + max(ridge * level, 1e-12) * one, cross, rcond=None)[0]).argmax(1)
