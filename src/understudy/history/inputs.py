"""What is kept of the inputs: everything, a locality-sensitive sketch, a keyed hash, or nothing."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping

import numpy as np

from understudy.errors import UsageError
from understudy.history.rows import Take
from understudy.types import Array, Floats

MODES = ("whole", "sketch", "hash", "none")
BITS = 64

_CONTENT = "detectors that look at what was asked cannot run"
_REPLAY = "replay cannot train a substitute on what a party received"


def warnings(mode: str) -> list[str]:
    """What keeping inputs this way disables, in words for an operator."""
    return {
        "whole": [],
        "sketch": [
            f"{_REPLAY}: inputs are kept as sketches",
            f"{_CONTENT}, except those that compare queries by nearness",
        ],
        "hash": [
            f"{_REPLAY}: inputs are kept as hashes",
            f"{_CONTENT}: a hash shows only whether the very same query came again",
        ],
        "none": [
            f"{_REPLAY}: inputs are not kept",
            f"{_CONTENT}: inputs are not kept",
            "repeated queries cannot be told from new ones",
        ],
    }[_known(mode)]


def taker(mode: str, key: bytes, scale: tuple[Floats, Floats] | None = None) -> Take:
    """What a mode keeps of inputs (n, *shape). `key`: the folder's; `scale`: centre and spread of a sketch's input."""
    _known(mode)
    if mode == "whole":
        return lambda inputs: {"inputs": inputs}
    if mode == "sketch":
        return Sketch(derive(key, "sketch"), scale)
    if mode == "hash":
        secret = derive(key, "hash")
        return lambda inputs: {"hashes": hashes(secret, inputs)}
    return lambda inputs: {}


def derive(key: bytes, use: str) -> bytes:
    """A key for one use only."""
    return hmac.digest(key, use.encode(), "sha256")


def hashes(secret: bytes, inputs: Floats) -> Array:
    """(n, 16) bytes: HMAC-SHA256 of each row's float64 values; minus zero counts as zero."""
    flat = np.ascontiguousarray(inputs.reshape(len(inputs), -1) + 0.0, "<f8")
    found = b"".join(hmac.digest(secret, row.data, "sha256")[:16] for row in flat)
    return np.frombuffer(found, np.uint8).reshape(-1, 16)


class Sketch:
    """Signs of 64 keyed random projections of the standardised row, and the row's norm.

    Near inputs differ in few bits. Without `scale` a row is standardised by its own mean and spread. The projections
    come from the key alone, so every worker and every version of numpy draws the same ones; an offset to each keeps
    rows of one coordinate apart.
    """

    def __init__(self, secret: bytes, scale: tuple[Floats, Floats] | None = None) -> None:
        self._secret, self._scale = secret, scale
        self._drawn: tuple[Floats, Floats] | None = None

    def __call__(self, inputs: Floats) -> Mapping[str, Array]:
        flat = np.asarray(inputs, np.float64).reshape(len(inputs), -1)
        if self._drawn is None or len(self._drawn[0]) != flat.shape[1]:
            self._drawn = projections(self._secret, flat.shape[1])
        planes, offsets = self._drawn
        if self._scale is not None:
            z = (flat - self._scale[0].ravel()) / self._scale[1].ravel()
        else:
            spread = flat.std(1, keepdims=True)
            z = (flat - flat.mean(1, keepdims=True)) / np.where(spread > 0, spread, 1.0)
        signs = np.packbits(z @ planes + offsets > 0, axis=1, bitorder="little").view("<u8").ravel()
        return {"signs": signs, "norms": np.sqrt((flat * flat).sum(1))}


def projections(secret: bytes, size: int) -> tuple[Floats, Floats]:
    """(size, 64) directions of about unit length and (64,) offsets, normal, drawn from a key by SHAKE-256."""
    count = (size + 1) * BITS
    raw = np.frombuffer(hashlib.shake_256(secret + size.to_bytes(8, "little")).digest(8 * count), "<u4")
    first, second = (raw.reshape(2, -1).astype(np.float64) + 0.5) / 2**32
    normal = np.sqrt(-2 * np.log(first)) * np.cos(2 * np.pi * second)
    table = normal.reshape(size + 1, BITS)
    return table[:-1] / np.sqrt(max(size, 1)), table[-1]


def _known(mode: str) -> str:
    if mode not in MODES:
        raise UsageError(f"inputs can be kept as {', '.join(MODES)}, not {mode!r}")
    return mode
