"""Any JSON server: a body template, and a JMESPath expression per signal (https://jmespath.org)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jmespath
from jmespath.exceptions import JMESPathError

from understudy.errors import AnswerError, UsageError
from understudy.types import Floats, Signal
from understudy.wire import _json


@dataclass(frozen=True)
class GenericJson:
    """JSON by template and path expressions.

    `body`: what is sent; in it the text "$inputs" stands for all rows and "$input" for the only one (target.batch: 1).
    `paths`: JMESPath expression per signal, e.g. {probabilities: "predictions[*].scores"}. `classes`: class names,
    where labels are text.
    """

    body: Any = field(default_factory=lambda: {"instances": "$inputs"})
    paths: Mapping[str, str] = field(default_factory=dict)
    classes: tuple[str, ...] = ()

    def request(self, inputs: Floats, signals: frozenset[Signal]) -> bytes:
        """The template with the inputs put in. Raises UsageError where it has no place for them."""
        rows, used = inputs.tolist(), list[str]()

        def fill(part: Any) -> Any:
            if part == "$inputs":
                used.append("$inputs")
                return rows
            if part == "$input":
                used.append("$input")
                if len(rows) != 1:
                    raise UsageError(
                        f'json: the body has "$input", one row, and {len(rows)} were asked: set target.batch: 1'
                    )
                return rows[0]
            if isinstance(part, Mapping):
                return {key: fill(value) for key, value in part.items()}
            return [fill(value) for value in part] if isinstance(part, list | tuple) else part

        body = fill(self.body)
        if not used:
            raise UsageError('json: the body has neither "$inputs" nor "$input"')
        return _json.write(body)

    def answers(self, body: bytes, signals: frozenset[Signal], n: int) -> dict[str, Any]:
        """What each path expression finds. Raises AnswerError, or UsageError for an expression that is none."""
        answer, found = _json.read(body), {}
        for signal in signals:
            path = self.paths.get(signal.value)
            if path is None:
                raise UsageError(
                    f"json: no path is given for {signal.value} (paths: {', '.join(self.paths) or 'none'})"
                )
            try:
                value = jmespath.search(path, answer)
            except JMESPathError as error:
                raise UsageError(f"json: path {path!r} for {signal.value}: {error}") from None
            if value is None:
                raise AnswerError(f"{signal.value}: nothing at {path!r} in the answer", body)
            value = [value] if n == 1 and not isinstance(value, list) else value
            if n == 1 and signal is not Signal.LABEL and value and not isinstance(value[0], list):
                value = [value]  # one row, given as a plain list
            found[signal.value] = _json.indexed(value, self.classes, body) if signal is Signal.LABEL else value
        return found
