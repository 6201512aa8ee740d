"""One codec per protocol: bytes <-> inputs, asks, answers. Pure functions: no socket, no clock, no environment.

A codec is a frozen dataclass of a protocol's few options, and has two sides.

The client's: `request` writes what is sent, `answers` reads what a server returned into raw arrays by signal; whoever
calls it holds those against the exposure. A server's HTTP 200 proves nothing: what was asked for by name must be in
the answer.

The server's: `parse` reads a customer's request, `respond` writes what was released, `error` a refusal, `routes` what
GET says beside the inference route. Nothing passes through: the upstream's request is written by `request` from what
`parse` read, the customer's answer by `respond` from what was released. So of a key given twice the last counts, for
everybody; a field that nobody read goes nowhere, and `Asked.wider` says so. Numbers are read as float64: integers
beyond 2^53 are rounded, numbers beyond float64 refused, and NaN and infinities with them. Where one input has no axes
it is a text; a text is never read as a number, nor a number as a text.
"""

from understudy.wire._codec import Asked, Card, Client, Codec, Message, RequestError
from understudy.wire._encoding import decoded

__all__ = ["CATALOG", "Asked", "Card", "Client", "Codec", "Message", "RequestError", "decoded"]

CATALOG = {
    "bentoml": "understudy.wire.generic:BentoML",
    "json": "understudy.wire.generic:GenericJson",
    "kserve-v1": "understudy.wire.kserve:KServeV1",
    "mlflow": "understudy.wire.mlflow:MlflowInvocations",
    "open-inference": "understudy.wire.oip:OpenInference",
    "sagemaker": "understudy.wire.generic:SageMaker",
}
