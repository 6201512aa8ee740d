"""A trained copy for ensembles that are too deep to solve: inputs become the cells of the thresholds found."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike

from understudy import registry
from understudy.attacks._agreed import explained
from understudy.protocols import Target
from understudy.types import Answers, Ask, Exposure, Floats, Signal, Space


@dataclass(frozen=True, eq=False)
class Binned:
    """A substitute trained on cells: coordinate i is replaced by the number of `edges[i]` that lie below it."""

    inner: Target
    edges: tuple[Floats, ...]
    space: Space

    @property
    def exposure(self) -> Exposure:
        return self.inner.exposure

    def query(self, inputs: ArrayLike, ask: Ask | None = None) -> Answers:
        """The inner model's answers for the cells of `inputs`."""
        return self.inner.query(cells(self.space.check(inputs), self.edges), ask)


def cells(inputs: Floats, edges: tuple[Floats, ...]) -> Floats:
    """(n, d) numbers of the cells that inputs lie in, as floats; -1 where one is missing."""
    x = inputs.reshape(len(inputs), -1)
    found = np.stack([np.searchsorted(e, x[:, i]) for i, e in enumerate(edges)], axis=1)
    return np.where(np.isnan(x), -1.0, found)


def closeness(copy: Target, inputs: Floats, answers: Answers) -> float:
    """Share of equal labels, or of the variance of values explained."""
    ours = copy.query(inputs)
    if Signal.VALUE in answers:
        return explained(ours[Signal.VALUE], answers[Signal.VALUE])
    return float((ours.labels() == answers.labels()).mean())


def learn(
    learner: str, space: Space, edges: tuple[Floats, ...], bought: tuple[Floats, Answers], rng: Generator
) -> dict[str, Target]:
    """Copies trained on the cells and, where nothing is missing, on the inputs as they are."""
    x, answers = bought
    make, seed = registry.create("learners", learner), int(rng.integers(2**31))
    copies: dict[str, Target] = {
        "cells": Binned(make.fit(cells(x, edges), answers, np.random.default_rng(seed)), edges, space)
    }
    if not np.isnan(x).any():
        copies["inputs"] = make.fit(x, answers, np.random.default_rng(seed))
    return copies
