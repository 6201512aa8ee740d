"""A forest as flat arrays, walked by numpy: all rows and all trees one level at a time."""

from __future__ import annotations

from typing import Any

import numpy as np

from understudy.types import Array, Floats
from understudy.views import Floats32

_STRIDE = 6  # levels between two looks at who has arrived


def flatten(estimators: Any, values: Any) -> dict[str, Array]:
    """Fitted scikit-learn trees as arrays. `values(tree)` gives one number per node.

    A leaf leads to itself, so that every walk may take as many steps as the deepest needs.
    """
    feature, threshold, child, value, roots = [], [], [], [], []
    offset, depth = 0, 0
    for estimator in estimators:
        tree = estimator.tree_
        leaf = tree.children_left < 0
        itself = np.arange(tree.node_count)
        left = np.where(leaf, itself, tree.children_left) + offset
        right = np.where(leaf, itself, tree.children_right) + offset
        feature.append(np.where(leaf, 0, tree.feature))
        threshold.append(np.where(leaf, np.inf, tree.threshold))
        child.append(np.stack([left, right], 1))
        value.append(values(tree))
        roots.append(offset)
        offset, depth = offset + tree.node_count, max(depth, int(tree.max_depth))
    return {
        "feature": np.concatenate(feature).astype(np.int32),
        "threshold": _down(np.concatenate(threshold)),
        "child": np.concatenate(child).astype(np.int32),
        "value": np.concatenate(value).astype(np.float32),
        "roots": np.array(roots, np.int32),
        "depth": np.array(depth),
    }


def _down(threshold: Floats) -> Floats32:
    """The largest float32 not above: float32 rows fall on the same side of it."""
    near = threshold.astype(np.float32)
    return np.where(near > threshold, np.nextafter(near, np.float32(-np.inf)), near)


def leaves(forest: Any, rows: Floats32) -> Array:
    """(n, trees) index of the node that each row ends in."""
    n, d = rows.shape
    flat, child = np.ascontiguousarray(rows).ravel(), forest["child"].ravel()
    feature, threshold = forest["feature"], forest["threshold"]
    found = np.tile(forest["roots"], n)
    start = np.repeat(np.arange(n, dtype=np.int32) * np.int32(d), len(forest["roots"]))
    walking, node = np.arange(len(found)), found
    for step in range(int(forest["depth"])):
        if step % _STRIDE == _STRIDE - 1:  # those that have arrived are put aside
            found[walking] = node
            going = np.flatnonzero(threshold.take(node) < np.inf)
            walking, node, start = walking[going], node[going], start[going]
        right = flat.take(start + feature.take(node)) > threshold.take(node)
        node = child.take(2 * node + right)
    found[walking] = node
    return found.reshape(n, -1)


def mean_value(forest: Any, rows: Floats32, chunk: int = 512) -> Floats:
    """(n,) mean over the trees of the value of the leaf that a row ends in."""
    found = np.empty(len(rows))
    for i in range(0, len(rows), chunk):
        found[i : i + chunk] = forest["value"].take(leaves(forest, rows[i : i + chunk])).mean(1)
    return found
