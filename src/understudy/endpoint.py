"""A manifest made live: the target, what each tier receives of it, the attacker's pool, the owner's evaluation set."""

from __future__ import annotations

import datetime as dt
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.random import Generator

from understudy import dataset, registry
from understudy.errors import InputError, ManifestError, NotAuthorised, UsageError
from understudy.faults import locate
from understudy.manifest import FromEnvironment, Manifest, Tier, exposure
from understudy.manifest import load as load_manifest
from understudy.protocols import Defence, Target
from understudy.targets.callable import CallableTarget
from understudy.texts import blank
from understudy.types import EXPLANATIONS, Answers, Array, Exposure, Floats, Signal, Space, digest
from understudy.wrappers import Defended


@dataclass(frozen=True, eq=False)
class ArrayPool:
    """Inputs the attacker has, as an array (n, *shape); drawn without replacement within one call.

    `truth`: their classes or values, where the attacker has these too.
    """

    inputs: Floats
    truth: Array | None = None

    def draw(self, n: int, rng: Generator) -> Floats:
        """Up to `n` distinct rows in random order."""
        return self.inputs[rng.permutation(len(self.inputs))[:n]]


@dataclass(frozen=True, eq=False)
class Endpoint:
    """Everything an audit needs. `owner` is the bare target under the owner's credential: only metrics see it."""

    manifest: Manifest
    folder: Path
    target: Target
    owner: Target
    pool: ArrayPool
    pool_truth: Array | None
    evaluation: Floats
    truth: Array | None
    data: Mapping[str, str]
    fitted: Mapping[str, tuple[Defence, ...]] = field(default_factory=dict)  # tier -> defences (fitting.py fills it)

    def owned(self, inputs: Array) -> Answers:
        """What the owner is answered to inputs, so many at a time as the target takes."""
        step = self.manifest.target.batch
        return Answers.concat([self.owner.query(inputs[at : at + step]) for at in range(0, len(inputs), step)])

    def tier(self, tier: Tier, principal: str) -> Defended:
        """What one customer of a tier meets. Defences that learn refuse to answer until they are fitted."""
        return self.behind(tier, self.target, principal)

    def behind(self, tier: Tier, target: Target, principal: str = "") -> Defended:
        """Any target behind a tier's defences."""
        granted = exposure(tier.signals, self.manifest.target.outputs)
        return Defended(target, self.fitted.get(tier.id) or defences(tier), principal, granted)


def defences(tier: Tier) -> list[Defence]:
    """The defences that make a tier's signals out of the target's, in order: reduce or truncate, its own, round.

    Rounding is last, so that granted decimals are those of what leaves, whatever a defence did before.
    Top-k and rounding act on all score signals of a tier alike, so those must agree on their grain.
    """
    grains = [g for s, g in tier.signals.items() if s is not Signal.LABEL and s not in EXPLANATIONS]
    chain, last = list[Defence](), list[Defence]()
    if not grains and not EXPLANATIONS & tier.signals.keys():
        chain.append(registry.create("defences", "label-only"))
    elif grains:
        if any(g != grains[0] for g in grains):
            raise ManifestError(f"tier {tier.id}: score signals must share top_k and decimals")
        if grains[0].top_k is not None:
            chain.append(registry.create("defences", "top-k", k=grains[0].top_k))
        if grains[0].decimals is not None:
            last.append(registry.create("defences", "round", decimals=grains[0].decimals))
    for extra in tier.defences:
        name, options = named(extra, f"tier {tier.id}: defences")
        chain.append(registry.create("defences", name, **options))
    return chain + last


def behind(tier: Tier) -> str:
    """The tier's own defences in words, for a report: `; behind bins (bins 8)`. Nothing where there are none."""
    words = []
    for extra in tier.defences:
        name, options = named(extra, f"tier {tier.id}: defences")
        said = ", ".join(f"{key} {value}" for key, value in options.items() if not key.endswith("_env"))
        words.append(f"{name} ({said})" if said else name)
    return f"; behind {' and '.join(words)}" if words else ""


def named(item: str | Mapping[str, Any], where: str) -> tuple[str, dict[str, Any]]:
    """A plug-in named in a manifest: `name`, or `{name: ..., option: value}`."""
    if isinstance(item, str):
        return item, {}
    options = dict(item)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise ManifestError(f"{where}: each entry needs a name")
    return name, {key: tuple(v) if isinstance(v, list) else v for key, v in options.items()}


def open_endpoint(path: Path, share: int = 1) -> Endpoint:
    """Load a manifest and reach for everything it names. `share`: among how many workers the pace is divided.

    Raises ManifestError, UsageError, MissingExtra, NotAuthorised; asks the target nothing.
    """
    manifest, folder = load_manifest(path), path.resolve().parent
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    try:
        space = manifest.space.space()
    except InputError as error:
        raise ManifestError(f"{path}: space: {error}") from None
    served = exposure(manifest.target.signals, manifest.target.outputs)
    _check_names(manifest, path)
    with _blaming(path, "target"):
        target, owner = _targets(manifest, folder, space, served, share)
    classes = manifest.target.http.options.get("classes", ()) if manifest.target.http else ()
    inputs, truth = dataset.load(manifest.evaluation, folder, space, f"{path}: evaluation", classes)
    if not len(inputs):
        raise ManifestError(f"{path}: evaluation: holds no rows")
    pool_inputs, pool_truth = blank(0, space.shape), None
    if manifest.pool is not None:
        pool_inputs, pool_truth = dataset.load(manifest.pool, folder, space, f"{path}: pool", classes)
    data = {"evaluation": digest(inputs), "pool": digest(pool_inputs)}
    labelled = pool_truth if manifest.pool is not None and manifest.pool.labelled else None
    made = Endpoint(manifest, folder, target, owner, ArrayPool(pool_inputs, labelled), labelled, inputs, truth, data)
    for i, tier in enumerate(manifest.tiers):
        with _blaming(path, "tiers", i):
            made.tier(tier, "")  # says now what a customer's first query would meet: a grant, an option, a key amiss
    return made


@contextmanager
def _blaming(path: Path, *field: str | int) -> Iterator[None]:
    """Whatever cannot be used in here is the fault of one field of the manifest."""
    try:
        yield
    except UsageError as error:
        raise ManifestError(f"{locate(path, *field)}: {error}") from error.__cause__


def _check_names(manifest: Manifest, path: Path) -> None:
    """Everything a manifest names exists, before anything is asked."""
    for i, goal in enumerate(manifest.goals):
        with _blaming(path, "goals", i, "metric"):
            registry.load("metrics", goal.metric)
    for i, tier in enumerate(manifest.tiers):
        with _blaming(path, "tiers", i):
            defences(tier)
    for i, item in enumerate(manifest.audit.attacks):
        with _blaming(path, "audit", "attacks", i):
            name, options = named(item, "audit.attacks")
            registry.create("attacks", name, **options)
    if manifest.model.recipe is not None:
        with _blaming(path, "model", "recipe"):
            registry.load_object(manifest.model.recipe)


def authorise(manifest: Manifest, today: dt.date) -> dict[str, Any] | None:
    """The authorisation to be written into the run; None for a target on this machine. Raises NotAuthorised."""
    given = manifest.authorisation
    kept = given.model_dump(mode="json") if given else None
    http = manifest.target.http
    if http is None:
        return kept
    if not registry.load_object("understudy.targets.http:is_local")(http.url):
        if given is None:
            raise NotAuthorised(
                f"{http.url.split('?')[0]} is not on this machine: the manifest needs "
                "authorisation: {by: who gave leave, scope: what may be attacked, until: YYYY-MM-DD}"
            )
        if given.until < today:
            raise NotAuthorised(f"authorisation by {given.by} ended on {given.until}; renew it before attacking")
    return kept


def _targets(manifest: Manifest, folder: Path, space: Space, served: Exposure, share: int) -> tuple[Target, Target]:
    part = manifest.target
    if part.python is not None:
        found = registry.load_object(part.python)
        if not callable(found):
            raise ManifestError(f"{part.python} is not callable")
        made: Target = CallableTarget(found, served, space)
        return made, made
    files = {"sklearn": part.skops, "xgboost": part.xgboost, "lightgbm": part.lightgbm}
    for kind, file in files.items():
        if file is None:
            continue
        trusted = {"trusted": tuple(part.trusted)} if kind == "sklearn" else {}
        made = registry.load("targets", kind).load(folder / file, space, signals=tuple(served.signals), **trusted)
        if made.exposure.outputs != part.outputs:
            raise ManifestError(f"outputs is {part.outputs}, but the model has {made.exposure.outputs}")
        return made, made
    http = part.http
    assert http is not None
    codec = registry.create("protocols", http.protocol, **http.options)
    codec.request(blank(1, space.shape), served.signals)  # signals that it cannot ask for are found now
    make = registry.load("targets", "http")
    options = {
        "timeout_s": http.timeout_s,
        "retries": http.retries,
        "max_rows": part.batch,
        "pace": part.pace / share if part.pace else None,
        "ca_file": http.ca_file,
    }
    target: Target = make(http.url, codec, served, space, headers=headers_from(http.headers), **options)
    if http.owner_headers is None:
        return target, target
    return target, make(http.url, codec, served, space, headers=headers_from(http.owner_headers), **options)


def headers_from(wanted: Mapping[str, FromEnvironment]) -> dict[str, str]:
    """Header values from the environment. Raises UsageError naming the variables that are not set."""
    missing = sorted(h.env for h in wanted.values() if h.env not in os.environ)
    if missing:
        raise UsageError(
            f"the manifest takes headers from environment variables that are not set: {', '.join(missing)}"
        )
    return {name: h.prefix + os.environ[h.env] for name, h in wanted.items()}
