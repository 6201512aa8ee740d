"""MLflow model server: POST /invocations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from understudy.errors import UsageError
from understudy.types import Floats, Signal
from understudy.wire import _json


@dataclass(frozen=True)
class MlflowInvocations:
    """MLflow's /invocations.

    `form`: how rows are sent; dataframe_split needs `columns`. `params`: passed on with every request. `fields`: name
    per signal, where predictions are records. `classes`: class names, where labels are text.
    """

    form: Literal["inputs", "instances", "dataframe_split"] = "inputs"
    columns: tuple[str, ...] = ()
    params: Mapping[str, Any] = field(default_factory=dict)
    fields: Mapping[str, str] = field(default_factory=dict)
    classes: tuple[str, ...] = ()

    def request(self, inputs: Floats, signals: frozenset[Signal]) -> bytes:
        """The body of an invocation. Raises UsageError where a data frame lacks column names."""
        rows: Any = inputs.tolist()
        if self.form == "dataframe_split":
            if inputs.ndim != 2 or len(self.columns) != inputs.shape[1]:
                raise UsageError(
                    f"mlflow: {len(self.columns)} columns are named for inputs of shape {inputs.shape[1:]}"
                )
            rows = {"columns": list(self.columns), "data": rows}
        return _json.write({self.form: rows, **({"params": dict(self.params)} if self.params else {})})

    def answers(self, body: bytes, signals: frozenset[Signal], n: int) -> dict[str, Any]:
        """Raw arrays by signal. Raises AnswerError."""
        rows = _json.member(_json.read(body), "predictions", body)
        return _json.by_signal(rows, signals, self.fields, self.classes, body)
