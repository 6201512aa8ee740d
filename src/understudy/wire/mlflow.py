"""MLflow model server: POST /invocations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, Literal

from understudy.errors import UsageError
from understudy.texts import plain
from understudy.types import Answers, Array, Signal
from understudy.wire import _json, _released
from understudy.wire._codec import Asked, Card, Message, RequestError, noted, scores_only, unread

_FORMS = frozenset({"inputs", "instances", "dataframe_split", "dataframe_records"})
_FRAME = frozenset({"columns", "index", "data"})
_CODES = {
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "ENDPOINT_NOT_FOUND",
    429: "REQUEST_LIMIT_EXCEEDED",
    500: "INTERNAL_ERROR",
    503: "TEMPORARILY_UNAVAILABLE",
}


@dataclass(frozen=True)
class MlflowInvocations:
    """MLflow's /invocations: `inputs`, `instances`, `dataframe_split` or `dataframe_records`.

    A server reads all four forms; a data frame's columns may come in any order where `columns` names them, records
    need it. A customer's `params` are noted and not passed on; neither is anything else beside the rows.

    `form`: how the client sends rows; data frames need `columns`. `params`: sent with every request to the upstream.
    `fields`: name per signal, where predictions are records; several signals always are. `classes`: class names, where
    labels are text. `single`: `flat`, (n,), or `column`, (n, 1), where the upstream answers one number per row (the
    second class of two, or one value) and customers should receive the same.
    """

    form: Literal["inputs", "instances", "dataframe_split", "dataframe_records"] = "inputs"
    columns: tuple[str, ...] = ()
    params: Mapping[str, Any] = field(default_factory=dict)
    fields: Mapping[str, str] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    single: _released.Single = None

    def request(self, inputs: Array, signals: frozenset[Signal]) -> Message:
        """An invocation. Raises UsageError where a data frame lacks column names."""
        scores_only("mlflow", signals)
        rows = plain(inputs)
        if self.form.startswith("dataframe"):
            inputs = inputs[:, None] if inputs.dtype == object else inputs
            if inputs.ndim != 2 or len(self.columns) != inputs.shape[1]:
                raise UsageError(
                    f"mlflow: {len(self.columns)} columns are named for inputs of shape {inputs.shape[1:]}"
                )
            if self.form == "dataframe_split":
                rows = {"columns": self.columns, "data": plain(inputs)}
            else:
                rows = [dict(zip(self.columns, row, strict=True)) for row in inputs.tolist()]
        return Message(_json.write({self.form: rows, **({"params": dict(self.params)} if self.params else {})}))

    def answers(self, message: Message, signals: frozenset[Signal], n: int) -> dict[str, Any]:
        """Raw arrays by signal. Raises AnswerError."""
        found = _json.member(_json.read(message), "predictions", message.body)
        return _json.by_signal(found, signals, self.fields, self.classes, message.body)

    def parse(self, body: bytes, headers: Mapping[str, str], shape: tuple[int, ...]) -> Asked:
        """A customer's request. Raises RequestError."""
        request = _json.asked(body, headers)
        forms = _FORMS & request.keys()
        if len(forms) != 1:
            raise RequestError(400, "send exactly one of inputs, instances, dataframe_split and dataframe_records")
        (form,) = forms
        data, wider = request[form], unread(request, forms)
        if form == "dataframe_split":
            data = self._frame(data, wider)
        elif form == "dataframe_records":
            data = self._records(data)
        elif type(data) is dict:
            data = self._columns(data)
        return Asked(_json.rows(data, shape), None, noted(wider, headers), form=form)

    def respond(self, asked: Asked, answers: Answers, model: str) -> Message:
        """`{"predictions": rows}`."""
        scores_only("mlflow", answers.values)
        made = _released.columns(answers, self.classes, self.single)
        return Message(_json.write({"predictions": _released.rows(made, self.fields)}))

    def error(self, status: int, message: str) -> Message:
        """`{"error_code": ..., "message": message}`; never a stack trace."""
        code = _CODES.get(status, "INTERNAL_ERROR" if status >= 500 else "BAD_REQUEST")
        return Message(_json.write({"error_code": code, "message": message}))

    def routes(self, path: str, card: Card) -> dict[str, Message]:
        """/ping and /health, and /version where it is told, beside /invocations."""
        if not path.endswith("/invocations"):
            return {}
        root, fine = path.removesuffix("/invocations"), Message(b"\n")
        told = (
            {f"{root}/version": Message(card.version.encode(), {"content-type": "text/plain"})} if card.version else {}
        )
        return {f"{root}/ping": fine, f"{root}/health": fine, **told}

    def _frame(self, frame: Any, wider: list[str]) -> Any:
        """Rows of `{"columns": [...], "data": [[...]]}`, in the order of the endpoint's columns."""
        if type(frame) is not dict:
            raise RequestError(400, "dataframe_split must be an object with columns and data")
        wider += unread(frame, _FRAME, "dataframe_split.")
        names, data = frame.get("columns"), frame.get("data")
        if not self.columns or names is None or names == list(self.columns):
            return data
        if type(names) is not list or not all(type(n) is str for n in names) or sorted(names) != sorted(self.columns):
            raise RequestError(400, "the columns are not those of this endpoint, each once")
        if type(data) is not list or not all(type(row) is list and len(row) == len(names) for row in data):
            raise RequestError(400, "dataframe_split: each row needs one entry per column")
        order = [names.index(name) for name in self.columns]
        return [[row[i] for i in order] for row in data]

    def _records(self, records: Any) -> Any:
        """Rows of `[{column: number, ...}, ...]`."""
        if not self.columns:
            raise RequestError(400, "dataframe_records are not served here; send dataframe_split or inputs")
        try:
            if set(map(len, records)) == {len(self.columns)}:
                pick = itemgetter(*self.columns)
                return [(pick(r),) for r in records] if len(self.columns) == 1 else list(map(pick, records))
        except (KeyError, TypeError, IndexError):
            pass
        raise RequestError(400, "each record must have the columns of this endpoint, and no others")

    def _columns(self, named: Mapping[str, Any]) -> Any:
        """Rows of `{column: [number, ...], ...}`."""
        if not self.columns or named.keys() != set(self.columns):
            raise RequestError(400, "the columns are not those of this endpoint, each once")
        columns = [named[name] for name in self.columns]
        if not all(type(column) is list for column in columns) or len(set(map(len, columns))) != 1:
            raise RequestError(400, "each column must be a list of the same length")
        return list(zip(*columns, strict=True))
