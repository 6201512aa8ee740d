"""What a model was trained with: solve its parameters, then ask where its training came to rest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.random import Generator

from understudy import registry
from understudy.attacks._kernel_ridge import kernel_ridge
from understudy.errors import InputError
from understudy.protocols import Attack, Extraction, LabelledPool, Metered, Pool, Verdict
from understudy.stationarity import hyperparameters
from understudy.targets.kernel import gaussian
from understudy.types import Array, Floats, Signal, Space

_EXACT = 1e-6  # of the answers' spread: what kernels that are nearly singular leave of sixteen digits


@dataclass(frozen=True)
class Stationarity:
    """Training ends where the gradient vanishes, so parameters and training data give away the regularisation.

    Extracts:
        The hyper-parameters of ridge, LASSO, elastic net, L1, L2 and elastic-net logistic regression, squared-hinge and
        hinge SVM, and of kernel ridge with a Gaussian kernel (its width as well), in scikit-learn's terms, beside what
        the `solver` extracts: an attack, by name, that solves linear models. `parameters` holds them with the weights,
        and `notes["hyperparameters"]` each with its interval, its condition number (how many times a relative error of
        the weights comes back in it) and, where it cannot be known, the reason.

    Needs:
        What the solver needs; and as the attacker's pool the training set with its truth (`pool.labelled` in a
        manifest). Without that the solver's extraction comes alone, and the notes say what was missing.

    Cost:
        The solver's. The hyper-parameters cost no query; of kernel ridge, which the solver refuses, one per training
        row and twenty to check it.

    Reference:
        Wang and Gong, IEEE S&P 2018 (arXiv 1802.05351).

    Differs from the paper:
        The learner and the scaling of the columns need not be known: the simplest objective that explains the weights
        is taken (or the one named). LASSO takes the equation that coordinate descent solved last, which holds to
        rounding however loose the solver's tolerance. For the hinge loss the shares of rows on the margin are
        unknowns too, bounded by C, and where an interval of C gives one and the same model the interval is the answer.
        Training that had not converged is recognised by what the penalty leaves of the gradient.
    """

    needs: ClassVar[frozenset[Signal]] = frozenset({Signal.PROBABILITIES, Signal.LOGITS, Signal.VALUE})
    adapts_to: ClassVar[frozenset[str]] = frozenset({"round", "top-k"})
    objective: str = "auto"
    scaling: str = "auto"
    solver: str = "equation-solving"

    def opening(self, space: Space, outputs: int) -> int:
        """Queries before the first substitute: the solver's."""
        return int(np.prod(space.shape)) + 2

    def run(self, target: Metered, pool: Pool, rng: Generator) -> Iterator[Extraction]:
        """The solver's extractions, each with the hyper-parameters that its parameters tell."""
        attack: Attack = registry.create("attacks", self.solver)
        known = (pool.inputs, pool.truth) if isinstance(pool, LabelledPool) else None
        for found in attack.run(target, pool, rng):
            if found.verdict is Verdict.NOT_OF_FAMILY and known is not None and known[1] is not None:
                yield self._kernel(target, known[0], known[1], rng) or found
                continue
            if found.verdict is Verdict.NOT_OF_FAMILY or found.parameters is None:
                yield found
                continue
            notes, values = self._told(found.parameters, known)
            more = {name: np.array(value) for name, value in values.items()}
            yield replace(found, parameters={**found.parameters, **more}, notes={**found.notes, **notes})

    def _kernel(self, target: Metered, inputs: Floats, truth: Array, rng: Generator) -> Extraction | None:
        """The model as kernel ridge, if it is one, with its alpha and gamma."""
        if Signal.VALUE not in target.exposure.signals or self.objective not in ("auto", "kernel-ridge"):
            return None
        solved = kernel_ridge(target, inputs, truth, rng)
        if solved is None or not solved[1] <= _EXACT:
            return None
        copy, error = solved
        made = hyperparameters(
            copy.parameters, copy.rows, truth, "kernel-ridge", kernel=lambda a, b: gaussian(a, b, copy.gamma)
        )
        values = dict(made.values) | {"gamma": copy.gamma}
        notes = {"hyperparameters": asdict(made) | {"values": values}, "residual": error, "fidelity": 1.0}
        more = {name: np.array(value) for name, value in values.items()}
        return Extraction(copy, target.spent, Verdict.EXACT, {**copy.parameters, **more}, notes)

    def _told(
        self, parameters: Any, known: tuple[Floats, Array | None] | None
    ) -> tuple[dict[str, Any], dict[str, float]]:
        if known is None or known[1] is None:
            missing = "the training set with its truth is needed: give it as the pool, labelled"
            return {"hyperparameters": {"reason": missing}}, {}
        try:
            solved = hyperparameters(parameters, known[0], known[1], self.objective, self.scaling)
        except InputError as error:
            return {"hyperparameters": {"reason": str(error)}}, {}
        plain = asdict(solved) | {"high": {k: v if np.isfinite(v) else None for k, v in solved.high.items()}}
        return {"hyperparameters": plain}, dict(solved.values)
