"""Texts: their words beside those of the reference, and an embedding learnt from it.

A text's words are compared after the account's own template is taken off: what most of its latest texts begin or end
with says nothing about the text. The embedding is latent semantic analysis (Deerwester, Dumais, Furnas, Landauer and
Harshman, JASIS 41, 1990): a truncated SVD of TF-IDF weights, small enough to be part of a calibration.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import ClassVar, Self
from zlib import crc32

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from understudy.errors import InputError
from understudy.texts import WORD
from understudy.types import Array, Floats
from understudy.views.base import UNKNOWN, WINDOW, Arrays, Bools, Floats32, Kind, Own, View, neighbours, sample, unseen

_MOST = 20_000  # reference texts that are learnt from
_WORDS = 30_000  # the most frequent of their words that are known
DIRECTIONS, _STRANGE = 64, 16
_LONGEST = 20_000  # characters of a text that are read
_TEMPLATE, _LATEST, _SHARED, _FEW = 6, 20, 0.8, 5  # words; of so many texts; share that has them; texts that tell
_OPENING = 3  # words by which texts of one template are told
_BAG, _KEPT = 48, 32  # buckets of words, numbers of the embedding that are kept of a text
_SOME = 16  # texts up to which bags are compared pair by pair; of more, bucket by bucket is quicker
_KEY = slice(0, 2)
_NEW, _SIZE = 2, 3
_HEAD, _TAIL = slice(4, 4 + _TEMPLATE), slice(4 + _TEMPLATE, 4 + 2 * _TEMPLATE)
_COUNTS = slice(_TAIL.stop, _TAIL.stop + _BAG)
_PLACE = slice(_COUNTS.stop, _COUNTS.stop + _KEPT)
_DIGITS = str.maketrans("123456789", "000000000")


@dataclass(frozen=True, eq=False)
class Tokens:
    """The words of n texts, one after the other.

    `hashes` (t,): of 24 bits; `at` (t,): index among the reference's words, -1 where it has none such; `starts`
    (n + 1,): where each text begins.
    """

    hashes: NDArray[np.int64]
    at: NDArray[np.int64]
    starts: NDArray[np.int64]

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """(n,) words of each text."""
        return self.starts[1:] - self.starts[:-1]

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """(t,) the text that each word is of."""
        return np.repeat(np.arange(len(self.starts) - 1), self.sizes)

    def mean(self, values: Floats) -> Floats:
        """(n,) means over the words of each text; NaN where it has none."""
        total = np.bincount(self.rows, values, minlength=len(self.sizes))
        return np.where(self.sizes > 0, total / np.maximum(self.sizes, 1), np.nan)

    def take(self, kept: Bools) -> Tokens:
        """Some of the words (t,) of all texts."""
        ends = np.concatenate([[0], np.cumsum(kept)])
        return Tokens(self.hashes[kept], self.at[kept], ends[self.starts])


@dataclass(frozen=True, slots=True, eq=False)
class TextScale(Arrays):
    """The words of a reference sample, and what they say.

    `words` (v,): hashes of its words, sorted; `directions` (v, k) float16: of each, weighted by how rare it is;
    `kept` (k + 16, 32): random projection of an embedding to what is kept of it; `longest`: words of its longest text.
    """

    words: NDArray[np.int64]
    directions: NDArray[np.float16]
    kept: Floats32
    longest: NDArray[np.int64]

    kind: ClassVar[Kind] = "text"
    singly: ClassVar[bool] = False

    @classmethod
    def fit(cls, reference: Array, rng: Generator) -> Self:
        """The form of `reference` (n,) texts, n >= 20. Raises InputError where it is too small or too alike."""
        if len(reference) < 20:
            raise InputError(f"{len(reference)} reference texts are too few to learn words from; give 20 or more")
        hashes, starts = _hashed(sample(reference, _MOST, rng))
        words, counts = np.unique(hashes, return_counts=True)
        if len(words) < 20:
            raise InputError(f"the reference texts have {len(words)} words in all; 20 or more are needed")
        if len(words) > _WORDS:
            words = np.sort(words[np.argsort(-counts, kind="stable")[:_WORDS]])
        tokens = Tokens(hashes, _found(words, hashes), starts)
        directions = _directions(tokens, len(words), rng)
        kept = rng.standard_normal((directions.shape[1] + _STRANGE, _KEPT)) / np.sqrt(_KEPT)
        longest = np.array(tokens.sizes.max())
        return cls(words, directions.astype(np.float16), kept.astype(np.float32), longest)

    def __str__(self) -> str:
        return "texts"

    @property
    def columns(self) -> int:
        """What is kept of a text: its hash, its ends, a bag of its words, and 32 numbers of its embedding."""
        return _PLACE.stop

    def takes(self, shape: tuple[int, ...]) -> bool:
        """Whether an input of this shape is one text."""
        return shape == ()

    def view(self, inputs: Array, labels: NDArray[np.int64], margin: Floats, ring: Floats32 | None = None) -> View:
        """Texts (n,) as detectors see them, without the template that they share with the account's latest in `ring`.

        Raises InputError where they are no texts.
        """
        if inputs.dtype.kind not in "OUT" or inputs.ndim != 1:
            raise InputError("the calibration was made on texts; these are none")
        raw, own = self._read(inputs)
        ring = np.zeros((0, self.columns), np.float32) if ring is None else ring
        ends = slice(_TAIL.stop)  # what else is kept of a text says nothing of templates
        earlier = np.concatenate([ring[:, ends], own[:, ends]])
        own[:, _NEW] = earlier[len(ring) :, _NEW] = _new(earlier[:, _KEY], len(ring))
        place = len(ring) + np.arange(len(own))
        tokens = raw.take(_beyond_template(raw, earlier, place, np.maximum(place - WINDOW, 0)))
        return View(self, inputs, own, self._fill(own, tokens), labels, margin, tokens)

    def view_each(
        self, inputs: Array, labels: NDArray[np.int64], margin: Floats, rings: Sequence[Floats32], asked: Sequence[int]
    ) -> View:
        """`view` of several accounts' texts, `asked` of each and one account after another, beside their earlier ones.

        Each account takes up as much of `earlier` as the longest; `changed` (n, longest) is against its own part of it.
        """
        raw, own = self._read(inputs)
        kept, many = np.array([len(ring) for ring in rings]), np.array(asked)
        longest, account = int((kept + many).max()), np.repeat(np.arange(len(rings)), many)
        at = (kept - np.cumsum(many) + many)[account] + np.arange(len(own))  # where each stands in its account
        earlier = np.zeros((len(rings), longest, self.columns), np.float32)
        for mine, ring in zip(earlier, rings, strict=True):
            mine[: len(ring)] = ring
        earlier[account, at] = own
        before = np.arange(longest)
        hidden = (before >= at[:, None]) | (before < at[:, None] - WINDOW)
        same = (earlier[account][:, :, _KEY] == own[:, None, _KEY]).all(2) & ~hidden
        earlier[account, at, _NEW] = own[:, _NEW] = ~same.any(1)
        first = account * longest
        flat, place = earlier.reshape(-1, self.columns), first + at
        tokens = raw.take(_beyond_template(raw, flat, place, np.maximum(place - WINDOW, first)))
        z = self._fill(own, tokens)
        earlier[account, at] = own
        changed, bags = np.zeros(hidden.shape, np.int16), earlier[:, :, _COUNTS].astype(np.int16)
        for theirs in np.ascontiguousarray(bags.transpose(2, 0, 1)):
            changed += np.abs(theirs[account] - theirs[account, at][:, None])
        changed[hidden] = UNKNOWN
        points = np.ascontiguousarray(earlier[:, :, _PLACE])
        apart = np.einsum("amd,amd->am", points, points)[account]
        apart -= 2 * np.einsum("nmd,nd->nm", points[account], own[:, _PLACE])
        apart[hidden] = np.inf
        nearest, alone = apart.argmin(1), hidden.all(1)
        distance = np.linalg.norm(own[:, _PLACE] - points[account, nearest], axis=1).astype(np.float64)
        near = np.where(alone, -1, nearest + first)
        past = self._own(own, flat, near, np.where(alone, np.inf, distance), place, changed)
        return View(self, inputs, own, z, labels, margin, tokens, past)

    def _read(self, inputs: Array) -> tuple[Tokens, Floats32]:
        """The words of texts, and what is kept of these as they are."""
        hashes, starts = _hashed(inputs)
        raw = Tokens(hashes, _found(self.words, hashes), starts)
        own = np.zeros((len(inputs), self.columns), np.float32)
        own[:, _KEY] = [_key(text) for text in inputs] if len(inputs) else np.zeros((0, 2))
        own[:, _HEAD], own[:, _TAIL] = _ends(raw)
        return raw, own

    def _fill(self, own: Floats32, tokens: Tokens) -> Floats32:
        """Fill in what is kept of texts without their template; their embeddings."""
        z = self.embed(tokens)
        own[:, _SIZE] = tokens.sizes
        buckets = tokens.rows * _BAG + tokens.hashes % _BAG
        own[:, _COUNTS] = np.bincount(buckets, minlength=len(own) * _BAG).reshape(-1, _BAG)
        own[:, _PLACE] = z @ self.kept
        return z

    def numbers(self, inputs: Array) -> Floats32:
        """(n, k + 16) embeddings of texts as they are, templates included, each number about as large as 1."""
        hashes, starts = _hashed(inputs)
        found = self.embed(Tokens(hashes, _found(self.words, hashes), starts))
        return found * np.float32(np.sqrt(found.shape[1]))

    def embed(self, tokens: Tokens) -> Floats32:
        """(n, k + 16) of length 1. A text without a known word points away from all that have one, by its own words."""
        n, known = len(tokens.sizes), tokens.at >= 0
        total = np.zeros((n, self.directions.shape[1] + _STRANGE), np.float32)
        rows = tokens.rows[known]
        first = np.flatnonzero(np.diff(rows, prepend=-1))
        if len(first):
            values = self.directions[tokens.at[known]].astype(np.float32)
            total[rows[first], :-_STRANGE] = np.add.reduceat(values, first)
        strange = ~total.any(1)
        buckets = tokens.rows * _STRANGE + tokens.hashes % _STRANGE
        total[strange, -_STRANGE:] = np.bincount(buckets, minlength=n * _STRANGE).reshape(n, _STRANGE)[strange]
        total[tokens.sizes == 0, -1] = 1
        found: Floats32 = total / np.linalg.norm(total, axis=1, keepdims=True)
        return found

    def compare(self, ring: Floats32, rows: Floats32) -> Own:
        """Hold `rows` against `ring` and each other: an edit puts in or takes out max(2, 25 %) of the words at most."""
        earlier, start = np.concatenate([ring, rows]), len(ring)
        hidden = unseen(start, len(rows))
        changed = _apart(earlier[:, _COUNTS], start)
        changed[hidden] = UNKNOWN
        nearest, distance = neighbours(np.ascontiguousarray(earlier[:, _PLACE]), start, hidden)
        return self._own(rows, earlier, nearest, distance, start + np.arange(len(rows)), changed)

    def _own(
        self,
        rows: Floats32,
        earlier: Floats32,
        nearest: NDArray[np.int64],
        distance: Floats,
        place: NDArray[np.int64],
        changed: NDArray[np.int16],
    ) -> Own:
        repeat, fewest = rows[:, _NEW] == 0, changed.min(1, initial=UNKNOWN)
        fresh = ~repeat & (fewest > np.maximum(2, rows[:, _SIZE] / 4))
        return Own(rows, earlier, nearest, distance, place, repeat, fresh, changed)

    def outside(self, view: View) -> Bools:
        """(n,) True where a text has no words, or more than any of the reference: a matter of data quality."""
        sizes = view.tokens.sizes if view.tokens is not None else np.zeros(len(view))
        found: Bools = (sizes == 0) | (sizes > self.longest)
        return found


def _apart(bags: Floats32, start: int) -> NDArray[np.int16]:
    """(n, m) words put in and taken out between each bag (m, 48) and those from `start` on."""
    if len(bags) - start <= _SOME:
        from scipy.spatial.distance import cdist

        return cdist(bags[start:], bags, "cityblock").astype(np.int16)
    found, counts = np.zeros((len(bags) - start, len(bags)), np.int16), bags.astype(np.int16)
    for a, b in zip(np.ascontiguousarray(counts[start:].T), np.ascontiguousarray(counts.T), strict=True):
        found += np.abs(a[:, None] - b)
    return found


def _text(given: object) -> str:
    return given if isinstance(given, str) else ""


def _key(given: object) -> tuple[int, int]:
    """A hash of the whole text, case and spaces included, as two numbers that float32 holds."""
    whole = int.from_bytes(blake2b(_text(given).encode("utf-8", "surrogatepass"), digest_size=6).digest(), "little")
    return whole & 0xFFFFFF, whole >> 24


def _hashed(texts: Iterable[object]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(t,) hashes of the words of all texts, lower case, digits alike, and (n + 1,) where each text begins."""
    words = [WORD.findall(_text(text)[:_LONGEST].lower().translate(_DIGITS)) for text in texts]
    starts = np.concatenate([[0], np.cumsum([len(w) for w in words], dtype=np.int64)]).astype(np.int64)
    hashes = [crc32(word.encode("utf-8", "surrogatepass")) & 0xFFFFFF for some in words for word in some]
    return np.array(hashes, np.int64), starts


def openings(kept: Floats32) -> NDArray[np.int64]:
    """(m,) numbers that are equal where kept texts begin with the same three words."""
    return np.unique(kept[:, _HEAD][:, :_OPENING], axis=0, return_inverse=True)[1].reshape(-1)


def _found(words: NDArray[np.int64], hashes: NDArray[np.int64]) -> NDArray[np.int64]:
    at = np.minimum(words.searchsorted(hashes), len(words) - 1)
    return np.where(words[at] == hashes, at, -1)


def _directions(tokens: Tokens, v: int, rng: Generator) -> Floats:
    """(v, k) what each word adds to an embedding: right singular vectors of the TF-IDF matrix, times IDF."""
    from scipy.sparse import csr_matrix
    from sklearn.preprocessing import normalize
    from sklearn.utils.extmath import randomized_svd

    known, n = tokens.at >= 0, len(tokens.sizes)
    counted = csr_matrix((np.ones(int(known.sum())), (tokens.rows[known], tokens.at[known])), shape=(n, v))
    rarity = np.log((1 + n) / (1 + np.bincount(counted.indices, minlength=v))) + 1
    weighted = normalize(counted.multiply(rarity).tocsr())
    k = max(min(DIRECTIONS, v - 1, n - 1), 1)
    _, _, right = randomized_svd(weighted, k, random_state=int(rng.integers(2**31 - 1)))
    found: Floats = rarity[:, None] * right.T
    return found


def _ends(tokens: Tokens) -> tuple[Array, Array]:
    """(n, 6) the first and the last words of each text, outermost first, -1 where it has fewer."""
    step = np.arange(_TEMPLATE)
    padded = np.append(tokens.hashes, -1)
    inside = step < tokens.sizes[:, None]
    first, last = tokens.starts[:-1, None] + step, tokens.starts[1:, None] - 1 - step
    return padded[np.where(inside, first, -1)], padded[np.where(inside, last, -1)]


def _new(keys: Floats32, start: int) -> Bools:
    """(n,) True where a text is not in its window already. `keys` (start + n, 2)."""
    same = (keys[start:, None] == keys).all(2) & ~unseen(start, len(keys) - start)
    found: Bools = ~same.any(1)
    return found


def _beyond_template(tokens: Tokens, rows: Floats32, mine: NDArray[np.int64], low: NDArray[np.int64]) -> Bools:
    """(t,) True for the words that are no part of the account's template. Each text stands at `mine` in `rows`, and is
    held against those from `low` on.

    A template: up to six words at either end that 80 % of the account's last 20 different texts have there too.
    """
    different = np.flatnonzero(rows[:, _NEW] > 0)
    upto = different.searchsorted(mine)
    at = upto[:, None] - 1 - np.arange(_LATEST)
    there = at >= 0
    latest = different[np.maximum(at, 0)] if len(different) else np.zeros_like(at)
    there &= latest >= low[:, None]
    enough = there.sum(1) >= _FEW
    cut = []
    for part in (_HEAD, _TAIL):
        agree = np.logical_and.accumulate(rows[mine][:, None, part] == rows[latest][:, :, part], axis=2)
        share = (agree & there[:, :, None]).sum(1) / np.maximum(there.sum(1), 1)[:, None]
        cut.append(np.where(enough, (share >= _SHARED).sum(1), 0))
    ahead = np.minimum(cut[0], np.maximum(tokens.sizes - 1, 0))  # one word is left
    behind = np.minimum(cut[1], np.maximum(tokens.sizes - 1 - ahead, 0))
    place = np.arange(len(tokens.hashes)) - tokens.starts[tokens.rows]
    size = tokens.sizes[tokens.rows]
    found: Bools = (place >= ahead[tokens.rows]) & (place < size - behind[tokens.rows])
    return found
