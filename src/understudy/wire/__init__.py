"""One codec per protocol: bytes <-> inputs, asks, answers. Pure functions: no socket, no clock, no environment.

A codec is a frozen dataclass of a protocol's few options. `request` writes what a client sends, `answers` reads what a
server returned into raw arrays by signal; whoever calls it holds those against the exposure. A server's HTTP 200 proves
nothing: what was asked for by name must be in the answer.
"""

CATALOG = {
    "json": "understudy.wire.generic:GenericJson",
    "kserve-v1": "understudy.wire.kserve:KServeV1",
    "mlflow": "understudy.wire.mlflow:MlflowInvocations",
    "open-inference": "understudy.wire.oip:OpenInference",
}
