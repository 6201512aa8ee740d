"""Defences that learn, fitted to the owner's data: by an audit to answers it has on record, by the gateway once.

Both take the same rows of the manifest's evaluation set, so an audit meets the object that the gateway serves.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy.endpoint import Endpoint, defences, open_endpoint
from understudy.manifest import Manifest, Tier
from understudy.manifest import load as load_manifest
from understudy.protocols import Defence
from understudy.types import Answers, digest

FIT_ROWS = 1000  # rows of the evaluation set that are asked for at most
FILE = "fitted.json"  # in the gateway's folder

Chains = dict[str, tuple[Defence, ...]]


def learners(manifest: Manifest) -> list[Tier]:
    """The tiers with a defence that learns."""
    return [tier for tier in manifest.tiers if any(map(_learns, defences(tier)))]


def fit(endpoint: Endpoint, answers: Answers) -> Endpoint:
    """The endpoint with its defences fitted to the owner's `answers` on the whole evaluation set."""
    if not learners(endpoint.manifest):
        return endpoint
    rows = _rows(endpoint)
    return replace(endpoint, fitted=_fit(endpoint, rows, answers.take(rows)))


def kept(manifest: Path, folder: Path) -> Chains:
    """Fitted defences by tier, for the tiers that need any: out of `folder`, else fitted now and kept there.

    Asks at most FIT_ROWS of the evaluation set under the owner's credential, unless `folder` holds what was fitted to
    the same rows, defences and model version. Raises what opening the endpoint and asking it raise.
    """
    if not learners(load_manifest(manifest)):
        return {}
    endpoint = open_endpoint(manifest)
    rows, mark, path = _rows(endpoint), _mark(endpoint), folder / FILE
    found = _read(path, mark)
    if found is None:
        chains = _fit(endpoint, rows, endpoint.owned(endpoint.evaluation[rows]))
        _write(path, {"v": 1, "digest": mark, "rows": len(rows), "tiers": {t: _state(c) for t, c in chains.items()}})
        return chains
    return {
        tier.id: tuple(
            replace(d, fitted=tuple(map(tuple, state))) if state is not None else d  # type: ignore[type-var]
            for d, state in zip(defences(tier), found[tier.id], strict=True)
        )
        for tier in learners(endpoint.manifest)
    }


def _learns(defence: Defence) -> bool:
    return "fitted" in getattr(defence, "__dataclass_fields__", {})


def _rows(endpoint: Endpoint) -> NDArray[np.intp]:
    """Evenly spread over the evaluation set: a file that is sorted by class is no trap."""
    n = len(endpoint.evaluation)
    return np.linspace(0, n - 1, min(n, FIT_ROWS)).astype(np.intp)


def _fit(endpoint: Endpoint, rows: NDArray[np.intp], answers: Answers) -> Chains:
    x = endpoint.evaluation[rows]
    return {tier.id: endpoint.tier(tier, "").grant.fit(x, answers).defences for tier in learners(endpoint.manifest)}


def _mark(endpoint: Endpoint) -> str:
    """What a fit depends on. The chains' repr names options; it holds no key and nothing that was learnt."""
    m = endpoint.manifest
    chains = repr([(tier.id, defences(tier)) for tier in m.tiers])
    return digest(endpoint.evaluation[_rows(endpoint)], chains, repr((m.model.version, m.model.digest)))


def _state(chain: tuple[Defence, ...]) -> list[Any]:
    return [getattr(defence, "fitted", None) for defence in chain]


def _read(path: Path, mark: str) -> Mapping[str, list[Any]] | None:
    """What is kept, or None where nothing is, or what was fitted to something else."""
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return body["tiers"] if isinstance(body, dict) and body.get("digest") == mark else None


def _write(path: Path, body: Mapping[str, Any]) -> None:
    """Whole or not at all, readable by its owner only."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        json.dump(body, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
