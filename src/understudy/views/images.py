"""Images: random projections of a thumbnail, and how the picture is drawn.

Nothing looks at single pixels of earlier images: what is kept of an image is 38 numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from understudy.errors import InputError
from understudy.types import Array, Floats
from understudy.views.base import (
    CUT,
    Arrays,
    Bools,
    Floats32,
    Kind,
    Own,
    View,
    flat,
    neighbours,
    positive,
    sample,
    unseen,
)

PROJECTED = 32
_THUMBNAIL = 32  # cells a side
_SAME = 1e-3  # standard deviations: one image, asked in another floating point
_EDIT = 0.25  # of the median distance to the nearest of the reference
_LEVELS = 256
_MOST = 5000


def is_image(shape: tuple[int, ...]) -> bool:
    """Whether an input of this shape is a picture: two of its dimensions are four or more."""
    return sum(side >= 4 for side in shape) >= 2


@dataclass(frozen=True, slots=True, eq=False)
class ImageScale(Arrays):
    """Images of one shape, as a reference sample draws them.

    `shape`: of one image, (h, w), (h, w, channels) or (channels, h, w); `projection` (cells, 32) of the thumbnail;
    `middle`, `spread` (38,) of what is kept, 32 projections and 6 traits; `low`, `high`: range of the pixels; `levels`:
    pixels are multiples of 1 / levels, 0 where they are none; `edit`: distance within which one image is an edit of
    another.
    """

    shape: NDArray[np.int64]
    projection: Floats32
    middle: Floats
    spread: Floats
    low: Floats
    high: Floats
    levels: NDArray[np.int64]
    edit: Floats

    kind: ClassVar[Kind] = "image"
    singly: ClassVar[bool] = True

    @classmethod
    def fit(cls, reference: Array, rng: Generator) -> Self:
        """The form of `reference` (n, h, w) or with channels, n >= 20. Raises InputError where it is too small."""
        if len(reference) < 20:
            raise InputError(f"{len(reference)} reference images are too few; give 20 or more")
        x = np.nan_to_num(np.asarray(sample(reference, _MOST, rng), np.float64))
        shape = np.array(x.shape[1:], np.int64)
        cells = thumbnails(drawn(x[:1], shape)).shape[1]
        plain = cls(
            *(shape, rng.standard_normal((cells, PROJECTED)).astype(np.float32), np.zeros(1), np.ones(1)),
            *(np.array(x.min()), np.array(x.max()), _levels(x), np.zeros(())),
        )
        pixels = x.reshape(len(x), -1)
        raw = plain._raw(pixels)
        scaled = replace(plain, middle=raw.mean(0), spread=positive(raw.std(0)))
        z = scaled._z(scaled.own(pixels[:1000]))
        hidden = np.concatenate([np.ones((len(z), len(z)), bool), np.eye(len(z), dtype=bool)], 1)
        apart = neighbours(np.concatenate([z, z]), len(z), hidden)[1]
        return replace(scaled, edit=np.array(_EDIT * np.median(apart)))

    def __str__(self) -> str:
        return f"images of {' x '.join(str(int(s)) for s in self.shape)}"

    @property
    def columns(self) -> int:
        """32 projections and 6 traits."""
        return len(self.middle)

    def takes(self, shape: tuple[int, ...]) -> bool:
        """Whether an input of this shape has as many numbers as an image has."""
        return shape != () and int(np.prod(shape)) == int(np.prod(self.shape))

    def own(self, x: Floats) -> Floats32:
        """(n, 38) of flat images (n, d), in standard deviations of the reference."""
        found: Floats32 = ((self._raw(x) - self.middle) / self.spread).astype(np.float32)
        return found

    def view(self, inputs: Array, labels: NDArray[np.int64], margin: Floats, ring: Floats32 | None = None) -> View:
        """Images (n, ...), flat or not, as detectors see them. Raises InputError where they are of another size."""
        x = flat(inputs, int(np.prod(self.shape)))
        own = self.own(x)
        return View(self, x, own, self._z(own), labels, margin)

    def compare(self, ring: Floats32, rows: Floats32) -> Own:
        """Hold `rows` against `ring` and each other: an edit lies within `edit` of an own earlier image."""
        earlier, start = np.concatenate([ring, rows]), len(ring)
        nearest, distance = neighbours(self._z(earlier), start, unseen(start, len(rows)))
        return Own(
            rows,
            earlier,
            nearest,
            distance,
            start + np.arange(len(rows)),
            distance <= _SAME,
            distance > max(float(self.edit), _SAME),
        )

    def outside(self, view: View) -> Bools:
        """(n,) True where a pixel is missing or lies outside the reference's range: a matter of data quality."""
        inside: Bools = (view.inputs >= self.low) & (view.inputs <= self.high)
        found: Bools = inside.sum(1) < view.inputs.shape[1]
        return found

    def finer(self, view: View) -> Floats:
        """(n,) how many pixels lie between the levels that the reference's pixels have."""
        if not self.levels:
            return np.zeros(len(view))
        scaled = view.inputs * int(self.levels)
        found: Floats = (np.abs(scaled - np.round(scaled)) > 1e-3).sum(1).astype(np.float64)
        return found

    def made_up(self, view: View, rows: Array, rng: Generator) -> list[Floats32]:
        """Images that nobody has, made of those `rows` of the view, in own units: every pixel from another image, a
        third of them, uniform, blends of two, and a step of one size up or down at each pixel.
        """
        real = np.asarray(sample(view.inputs[rows], 1500, rng))
        half = max(len(real) // 2, 1)
        base, mate = sample(real, half, rng), real[rng.integers(len(real), size=half)]
        shuffled = rng.permuted(real, axis=0)[:half]
        partly = np.where(rng.random(base.shape) < 0.35, rng.permuted(base, axis=0), base)
        uniform = rng.uniform(self.low, self.high, base.shape)
        blended = base + rng.uniform(0.2, 0.8, (half, 1)) * (mate - base)
        step = rng.uniform(0.02, 0.3, (half, 1)) * (self.high - self.low)
        stepped = np.clip(base + step * rng.choice((-1, 1), base.shape), self.low, self.high)
        return [self.own(self._levelled(x)) for x in (shuffled, partly, uniform, blended, stepped)]

    def _levelled(self, x: Floats) -> Floats:
        return np.round(x * int(self.levels)) / int(self.levels) if self.levels else x

    def _z(self, own: Floats32) -> Floats32:
        return np.clip(own, -CUT, CUT)

    def _raw(self, x: Floats) -> Floats:
        if not len(x):
            return np.zeros((0, len(self.middle)))
        wide = float(self.high - self.low) or 1.0
        images = np.clip((np.nan_to_num(drawn(x, self.shape)) - self.low) / wide, -1, 2)
        return np.concatenate([thumbnails(images) @ self.projection, traits(images)], 1)


def drawn(x: Array, shape: NDArray[np.int64]) -> Array:
    """(n, h, w, channels) of images that come flat or as they are."""
    sides = [int(side) for side in shape]
    images = x.reshape(len(x), *sides)
    if len(sides) == 3 and sides[0] <= 4 < min(sides[1:]):
        images = np.moveaxis(images, 1, -1)
    return images.reshape(*images.shape[:3], -1)


def thumbnails(images: Floats) -> Floats:
    """(n, cells) means over blocks, 32 a side at most."""
    for axis in (1, 2):
        side = images.shape[axis]
        if side > _THUMBNAIL:
            edges = np.linspace(0, side, _THUMBNAIL + 1).astype(int)
            size = np.diff(edges).reshape([-1 if a == axis else 1 for a in range(4)])
            images = np.add.reduceat(images, edges[:-1], axis=axis) / size
    return images.reshape(len(images), -1)


def traits(images: Floats) -> Floats:
    """(n, 6): brightness, contrast, steps between neighbours, bends, shares of flat pairs and of pixels at an end."""
    across, down = np.abs(np.diff(images, axis=2)), np.abs(np.diff(images, axis=1))
    bends = np.abs(np.diff(images, 2, axis=2))
    ends = (images <= 1e-6) | (images >= 1 - 1e-6)
    columns = (images, across, down, bends, across < 1e-6, ends)
    found = [part.reshape(len(images), -1).mean(1) for part in columns]
    found[1] += found.pop(2)
    return np.stack([found[0], images.reshape(len(images), -1).std(1), *found[1:]], 1)


def _levels(x: Floats) -> NDArray[np.int64]:
    """The fewest levels such that 99.5 % of the pixels are multiples of 1 / levels; 0 where 256 do not do."""
    pixels = x.reshape(-1)
    pixels = pixels[:: max(len(pixels) // 50_000, 1)]
    for levels in range(1, _LEVELS + 1):
        scaled = pixels * levels
        if (np.abs(scaled - np.round(scaled)) <= 1e-3).mean() >= 0.995:
            return np.array(levels)
    return np.array(0)
