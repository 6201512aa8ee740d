"""A tree of cuts as a target: sides that answer alike are one leaf again."""

from __future__ import annotations

import numpy as np

from understudy.attacks._columns import Columns
from understudy.attacks._oracle import Oracle
from understudy.attacks._parts import Node
from understudy.attacks._walk import Walk, identities
from understudy.targets.tree import TreeTarget
from understudy.types import Answers, Exposure, Grain, Signal


def copied(tree: Node, walk: Walk) -> TreeTarget:
    """The tree as a target. What is still unknown answers as most rows asked in that part did."""
    ids = {id(node): identity for node, identity in identities(tree, walk)}
    merged = _merged(tree, ids)
    nodes: list[Node] = []
    stack = [tree]
    while stack:
        node = stack.pop()
        nodes.append(node)
        if id(node) not in merged and node.left is not None and node.right is not None:
            stack += [node.right, node.left]
    return _arrays(nodes, merged, walk.oracle, walk.columns)


def _merged(tree: Node, ids: dict[int, int]) -> dict[int, int]:
    """The identity of every node below which there is only one."""
    order, stack = list[Node](), [tree]
    while stack:
        node = stack.pop()
        order.append(node)
        stack += [side for side in (node.left, node.right) if side is not None]
    merged = dict(ids)
    for node in reversed(order):
        if node.left is not None and node.right is not None:
            one, two = merged.get(id(node.left)), merged.get(id(node.right))
            if one is not None and one == two:
                merged[id(node)] = one
    return merged


def _arrays(nodes: list[Node], merged: dict[int, int], oracle: Oracle, columns: Columns) -> TreeTarget:
    place = {id(node): i for i, node in enumerate(nodes)}
    k, d = len(nodes), columns.d
    inner = [i for i, node in enumerate(nodes) if id(node) not in merged]
    leaves = [i for i, node in enumerate(nodes) if id(node) in merged]
    feature, leaf, threshold = np.full(k, -1), np.full(k, -1), np.full(k, np.inf)
    left, right, gap_left = np.full(k, -1), np.full(k, -1), np.zeros(k, np.bool_)
    sizes = [int((~np.isnan(columns.value[columns.marks_of(f)])).sum()) for f in range(d)]
    codes = np.zeros((k, max(sizes, default=0)), np.bool_)
    for i in inner:
        cut, one, two = nodes[i].cut, nodes[i].left, nodes[i].right
        assert cut is not None
        feature[i], threshold[i], left[i], right[i] = cut.f, cut.cut, place[id(one)], place[id(two)]
        mine = columns.marks_of(cut.f)
        gap = np.isnan(columns.value[mine])
        gap_left[i] = bool(cut.left[mine[gap]].any())
        codes[i, : sizes[cut.f]] = cut.left[mine[~gap]]
    leaf[leaves] = np.arange(len(leaves))
    answers = Answers.concat([oracle.samples[merged[id(nodes[i])]] for i in leaves])
    exposure = oracle.target.exposure
    if Signal.VALUE not in exposure.signals:
        answers = answers.replace(Signal.LABEL, answers.labels())
        grains = {Signal.LABEL: Grain(), **({} if oracle.labels else exposure.grains)}
        exposure = Exposure(grains, exposure.outputs)
    return TreeTarget(
        columns.space,
        exposure,
        answers,
        feature,
        threshold,
        left,
        right,
        leaf,
        gap_left,
        codes,
        ~columns.ordered,
        ~(columns.double | columns.whole),
    )
