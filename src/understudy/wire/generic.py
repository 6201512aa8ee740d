"""Any JSON server: templates for what is sent and answered, and JMESPath expressions (https://jmespath.org)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any

from understudy.errors import AnswerError, UsageError
from understudy.texts import plain
from understudy.types import Answers, Array, Signal
from understudy.wire import _json, _released, _template
from understudy.wire._codec import Asked, Card, Message, RequestError, noted

_ASKING = tuple(
    f"x-amzn-sagemaker-{name}"
    for name in ("enable-explanations", "target-model", "target-variant", "target-container-hostname")
)


@dataclass(frozen=True)
class GenericJson:
    """JSON by templates, each read in both directions.

    `body`: a request. In it the text "$inputs" stands for all rows; {"$rows": part} for a list with one part per row,
    in which "$input" stands for the row; "$input" elsewhere for the only row (target.batch: 1). A customer's field
    that is not in it, or differs from its constant, is noted and not passed on.
    `answer`: an answer. "$probabilities", "$label", "$value" and "$logits" stand for all answers of a signal, within
    {"$rows": part} for that row's; "$answers" for whatever is released: plain rows where it is one signal, objects
    where it is several. What is not released is left out, with the field that would hold it. Nothing else is ever
    answered: a signal that the template does not mention stays inside.
    `inputs`, `paths`: JMESPath expressions for the inputs in a request and each signal in an answer, where the
    templates do not say it, e.g. {probabilities: "predictions[*].scores"}. `fields`: name per signal in objects of
    "$answers". `classes`: class names, where labels are text. `single`: `flat`, (n,), or `column`, (n, 1), where the
    upstream answers one number per row (the second class of two, or one value) and customers should receive the same.
    `health`: where GET is answered with an empty 200, below the inference route's folder.

    Raises UsageError where the body has no room for inputs or an expression is none.
    """

    body: Any = field(default_factory=lambda: {"instances": "$inputs"})
    answer: Any = field(default_factory=lambda: {"predictions": "$answers"})
    inputs: str | None = None
    paths: Mapping[str, str] = field(default_factory=dict)
    fields: Mapping[str, str] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    single: _released.Single = None
    health: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self._whole is None and self._row is None:
            raise UsageError('json: the body has neither "$inputs" nor "$input"')
        named = {"the inputs": self.inputs, **self.paths}
        for what, path in named.items():
            if path is not None:
                _template.check(path, f"json: path {path!r} for {what}")

    def request(self, inputs: Array, signals: frozenset[Signal]) -> Message:
        """The body with the inputs put in. Raises UsageError where it has room for one row and there are more."""
        if self._row is not None and None not in self._row and len(inputs) != 1:
            raise UsageError(f'json: the body has "$input", one row, and {len(inputs)} were asked: set target.batch: 1')
        whole = plain(inputs)
        names = {"$inputs": whole, "$input": whole[0] if len(inputs) else whole}
        return Message(_json.write(_template.fill(self.body, names, {"$input": inputs.tolist()} if self._row else {})))

    def answers(self, message: Message, signals: frozenset[Signal], n: int) -> dict[str, Any]:
        """What stands where the signals should. Raises AnswerError, or UsageError for a signal without a place."""
        answer, raw = _json.read(message), message.body
        if not self.paths and self._answers is not None:
            return _json.by_signal(_at(self._answers, answer, "answers", raw), signals, self.fields, self.classes, raw)
        arrays = {}
        for signal in signals:
            path: str | _template.Path | None = self.paths.get(signal.value)
            if not self.paths:
                path = self._places[signal]
            if path is None:
                raise UsageError(
                    f"json: no path is given for {signal.value} (paths: {', '.join(self.paths) or 'none'})"
                )
            value = _at(path, answer, signal.value, raw)
            value = [value] if n == 1 and not isinstance(value, list) else value
            if n == 1 and signal is not Signal.LABEL and value and not isinstance(value[0], list):
                value = [value]  # one row, given as a plain list
            arrays[signal.value] = _json.column_of(signal, value, self.classes, raw)
        return arrays

    def parse(self, body: bytes, headers: Mapping[str, str], shape: tuple[int, ...]) -> Asked:
        """A customer's request. Raises RequestError."""
        request = _json.value(body, headers)
        path = self._whole if self._row is None else self._row
        try:
            data = _template.find(self.inputs, request) if self.inputs else _template.follow(path or (), request)
        except ValueError:
            raise RequestError(400, "the body has no inputs where they belong") from None
        if not self.inputs and self._row is not None and None not in self._row:
            data = [data]
        wider = [*islice(_template.beyond(self.body, request), 64), *(name for name in _ASKING if name in headers)]
        return Asked(_json.rows(data, shape), None, noted(wider, headers))

    def respond(self, asked: Asked, answers: Answers, model: str) -> Message:
        """The answer's template with what was released put in."""
        made = _released.columns(answers, self.classes, self.single)
        names: dict[str, Any] = {f"${s.value}": made.get(s, _template.MISSING) for s in Signal}
        rows = {}
        if self._by_row:
            for name, column in names.items():
                absent = column is _template.MISSING
                rows[name] = [column] * len(answers) if absent else column if type(column) is list else column.tolist()
        if self._answers is not None:
            names["$answers"] = _released.rows(made, self.fields) if made else _template.MISSING
        filled = _template.fill(self.answer, names, rows)
        return Message(_json.write({} if filled is _template.MISSING else filled))

    def error(self, status: int, message: str) -> Message:
        """`{"error": message}`."""
        return Message(_json.write({"error": message}))

    def routes(self, path: str, card: Card) -> dict[str, Message]:
        """The `health` paths beside the inference route."""
        folder = path.rpartition("/")[0]
        return {folder + name: Message(b"", {"content-type": "text/plain"}) for name in self.health}

    @cached_property
    def _whole(self) -> _template.Path | None:
        return _template.place(self.body, "$inputs")

    @cached_property
    def _row(self) -> _template.Path | None:
        return _template.place(self.body, "$input")

    @cached_property
    def _answers(self) -> _template.Path | None:
        return _template.place(self.answer, "$answers")

    @cached_property
    def _places(self) -> dict[Signal, _template.Path | None]:
        return {signal: _template.place(self.answer, f"${signal.value}") for signal in Signal}

    @cached_property
    def _by_row(self) -> bool:
        return any(None in (path or ()) for path in self._places.values())


@dataclass(frozen=True)
class SageMaker(GenericJson):
    """SageMaker's JSON: `{"instances": [{"features": []}]}` -> `{"predictions": [{"score": , "predicted_label": }]}`.

    The score is one number where there are two classes, the second one's probability, as SageMaker's linear learner
    answers. Headers that ask for explanations, or for another model, variant or container, are noted and not passed on.
    Options as for `json`.
    """

    body: Any = field(default_factory=lambda: {"instances": {"$rows": {"features": "$input"}}})
    answer: Any = field(
        default_factory=lambda: {"predictions": {"$rows": {"score": "$probabilities", "predicted_label": "$label"}}}
    )
    single: _released.Single = "flat"
    health: tuple[str, ...] = ("/ping",)


@dataclass(frozen=True)
class BentoML(GenericJson):
    """A BentoML service's JSON: `{"input_data": rows}` by default, answered with the bare array or objects.

    A service names its own parameters: `body: {name: "$inputs"}`. Options as for `json`.
    """

    body: Any = field(default_factory=lambda: {"input_data": "$inputs"})
    answer: Any = "$answers"
    health: tuple[str, ...] = ("/healthz", "/livez", "/readyz")


def _at(path: str | _template.Path, answer: Any, what: str, raw: bytes) -> Any:
    """What an expression finds in an answer, or what is at a template's place. Raises AnswerError."""
    named = repr(path) if isinstance(path, str) else "its place"
    try:
        value = _template.find(path, answer) if isinstance(path, str) else _template.follow(path, answer)
    except ValueError as error:
        raise AnswerError(f"{what}: {named} cannot be followed in the answer: {error}", raw) from None
    if value is None:
        raise AnswerError(f"{what}: nothing at {named} in the answer", raw)
    return value
