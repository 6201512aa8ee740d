"""What is kept of the inputs, numbers or texts: everything, a locality-sensitive sketch, a keyed hash, or nothing."""

from __future__ import annotations

import hashlib
import hmac
import math
from collections.abc import Mapping

import numpy as np

from understudy.errors import UsageError
from understudy.history.rows import Take
from understudy.texts import WORD
from understudy.types import Array, Floats, Texts

MODES = ("whole", "sketch", "hash", "none")
BITS = 64

_REPLAY = "replay cannot train a substitute on what a party received"
_CONTENT = "detectors that look at what was asked cannot run"
_MONITOR = (
    "monitor: no detector of content runs, nor does the leak meter; what is left is a calibration of such accounts, by "
    "margins and by when they ask"
)
_SHOWN = {
    "sketch": "sketches are all that is kept of inputs",
    "hash": "a hash shows only whether the very same query came again",
    "none": "nothing is kept of inputs, so that repeats cannot be told from new queries",
}


def warnings(mode: str, monitored: bool = False) -> list[str]:
    """What keeping inputs this way disables, in words for an operator. `monitored`: accounts are to be watched."""
    if _known(mode) == "whole":
        return []
    return [f"{_REPLAY}: {_SHOWN[mode]}", _MONITOR if monitored else _CONTENT]


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


def flat_rows(array: Array) -> Array:
    """(n, everything else); n may be 0."""
    return array.reshape(len(array), math.prod(array.shape[1:]))


def hashes(secret: bytes, inputs: Array) -> Array:
    """(n, 16) bytes: HMAC-SHA256 of each text, or of each row's float64 values; minus zero counts as zero."""
    if inputs.dtype == object:
        rows = [text.encode() for text in inputs.tolist()]
    else:
        rows = [row.data for row in np.ascontiguousarray(flat_rows(inputs) + 0.0, "<f8")]
    found = b"".join(hmac.digest(secret, row, "sha256")[:16] for row in rows)
    return np.frombuffer(found, np.uint8).reshape(-1, 16)


class Sketch:
    """Signs of 64 keyed random projections of the standardised row, and the row's norm; of a text, of its words.

    Near inputs differ in few bits. Without `scale` a row is standardised by its own mean and spread. The projections
    come from the key alone, so every worker and every version of numpy draws the same ones; an offset to each keeps
    rows of one coordinate apart.
    """

    def __init__(self, secret: bytes, scale: tuple[Floats, Floats] | None = None) -> None:
        self._secret, self._scale = secret, scale and (scale[0].ravel(), scale[1].ravel())
        self._drawn: tuple[Floats, Floats] | None = None

    def __call__(self, inputs: Array) -> Mapping[str, Array]:
        if inputs.dtype == object:
            return _words(self._secret, inputs)
        flat = flat_rows(np.asarray(inputs, np.float64))
        if self._drawn is None or len(self._drawn[0]) != flat.shape[1]:
            self._drawn = projections(self._secret, flat.shape[1])
        planes, offsets = self._drawn
        with np.errstate(over="ignore", invalid="ignore"):
            if self._scale is not None:
                level = (flat - self._scale[0]) / self._scale[1] @ planes + offsets
            else:  # the row's spread moves to the other side of the sign: nothing is divided by nearly nothing
                z = flat - np.add.reduce(flat, 1, keepdims=True) / flat.shape[1]
                level = z @ planes + np.sqrt(_squares(z) / flat.shape[1])[:, None] * offsets
            signs = np.packbits(level > 0, axis=1, bitorder="little").view("<u8").ravel()
            return {"signs": signs, "norms": np.sqrt(_squares(flat))}


def _words(secret: bytes, texts: Texts) -> Mapping[str, Array]:
    """A SimHash (Charikar, STOC 2002): each word votes with 64 keyed signs. The norm is the number of words.

    Words are drawn from the key one by one, so every worker gives a word the same signs.
    """
    signs, norms = np.zeros(len(texts), np.uint64), np.zeros(len(texts))
    for i, text in enumerate(texts.tolist()):
        words = WORD.findall(text.lower())
        votes = b"".join(hashlib.blake2b(word.encode(), digest_size=BITS // 8, key=secret).digest() for word in words)
        if words:
            bits = np.unpackbits(np.frombuffer(votes, np.uint8).reshape(len(words), -1), axis=1, bitorder="little")
            signs[i] = np.packbits(2 * bits.sum(0) > len(words), bitorder="little").view("<u8")[0]
        norms[i] = len(words)
    return {"signs": signs, "norms": norms}


def _squares(table: Floats) -> Floats:
    found: Floats = np.einsum("ij,ij->i", table, table)
    return found


def projections(secret: bytes, size: int) -> tuple[Floats, Floats]:
    """(size, 64) directions of about unit length and (64,) small offsets, normal, drawn from a key by SHAKE-256."""
    count = (size + 1) * BITS
    raw = np.frombuffer(hashlib.shake_256(secret + size.to_bytes(8, "little")).digest(8 * count), "<u4")
    first, second = (raw.reshape(2, -1).astype(np.float64) + 0.5) / 2**32
    normal = np.sqrt(-2 * np.log(first)) * np.cos(2 * np.pi * second)
    table = normal.reshape(size + 1, BITS)
    return table[:-1] / np.sqrt(max(size, 1)), table[-1] / 4  # small: unrelated rows differ in about half the bits


def _known(mode: str) -> str:
    if mode not in MODES:
        raise UsageError(f"inputs can be kept as {', '.join(MODES)}, not {mode!r}")
    return mode
