"""What every codec speaks of: a message, a request as it was read, the card of an endpoint, and the codec itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from understudy.errors import UnderstudyError, UsageError
from understudy.types import EXPLANATIONS, Answers, Array, Exposure, Signal

JSON = {"content-type": "application/json"}  # shared by messages: never changed
_NOTED, _LONGEST = 16, 60  # names of fields in a log entry, and characters of each


class RequestError(UnderstudyError):
    """A request that cannot be read. `status` is 4xx; the message may be shown: it repeats nothing of the request."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Message(NamedTuple):
    """A body and its headers, names in lower case. Headers are shared between messages: copy before changing."""

    body: bytes
    headers: Mapping[str, str] = JSON


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """A customer's request as a codec read it; nothing else of the request goes any further.

    `inputs`: float64, shape (n, *shape), n >= 1, finite; or texts (n,). `signals`: asked for by name; None = whatever
    is granted. `wider`: fields that ask for more than inference needs, by name, for the log; none of them is passed on.
    `alike`: signals of which one name may mean either, such as a tensor that holds classes or values.
    `echo`: harmless envelope to be sent back. `binary`: outputs wanted as binary tensors: which, or all, or none.
    `form`: which of the protocol's forms was used, where the answer's form follows from it.
    """

    inputs: Array
    signals: frozenset[Signal] | None = None
    wider: tuple[str, ...] = ()
    echo: Mapping[str, Any] = field(default_factory=dict)
    binary: frozenset[Signal] | bool = False
    form: str = ""
    alike: tuple[frozenset[Signal], ...] = ()

    def beyond(self, granted: frozenset[Signal]) -> list[str]:
        """What was asked for beyond `granted`, by name for the log: wider fields, and signals that are not granted."""
        missing = (self.signals or frozenset()) - granted
        for signals in self.alike:
            if signals & granted:
                missing -= signals
        return [*self.wider, *sorted(missing)]


class Card(NamedTuple):
    """What an endpoint says of itself: `version` None where the manifest tells none, `shape` of one input."""

    name: str
    version: str | None
    shape: tuple[int, ...]
    exposure: Exposure


class Client(Protocol):
    """A protocol's client side: what audits and the gateway's upstream side need."""

    def request(self, inputs: Array, signals: frozenset[Signal]) -> Message:
        """The request for `inputs`, shape (n, *shape). Raises UsageError or InputError where it cannot be written."""

    def answers(self, message: Message, signals: frozenset[Signal], n: int) -> dict[str, Any]:
        """Raw arrays by signal, to be held against the exposure. Raises AnswerError or UsageError, nothing else."""


class Codec(Client, Protocol):
    """A protocol, both sides."""

    def parse(self, body: bytes, headers: Mapping[str, str], shape: tuple[int, ...]) -> Asked:
        """A customer's request; header names in lower case, `shape` of one input, () where it is a text.

        Raises RequestError, nothing else.
        """

    def respond(self, asked: Asked, answers: Answers, model: str) -> Message:
        """The answer to a customer: all of `answers`, and nothing else; withheld entries are written as 0."""

    def error(self, status: int, message: str) -> Message:
        """The protocol's own shape of an error."""

    def routes(self, path: str, card: Card) -> dict[str, Message]:
        """What GET answers beside the inference route `path`, by path: health and metadata, from the card alone.

        Nothing where the path is not one of the protocol's own; raises UsageError where it is, and not for inference.
        """


def scores_only(protocol: str, signals: Iterable[Signal]) -> None:
    """Raises UsageError where there is an explanation among the signals: the protocol has no place for one."""
    for signal in sorted(EXPLANATIONS.intersection(signals)):
        raise UsageError(f"{protocol} has no place for {signal.value}; the protocol json has (fields or answer)")


def unread(given: Mapping[str, Any], known: frozenset[str], where: str = "") -> list[str]:
    """The fields of `given` that are not known, as names for the log."""
    if given.keys() <= known:
        return []
    return [where + shown(name) for name in given if name not in known][:_NOTED]


def noted(names: Iterable[str], headers: Mapping[str, str]) -> tuple[str, ...]:
    """`Asked.wider`: names without repetition, and the Accept header where it wants something that is not served."""
    accept = headers.get("accept")
    if accept is None or "json" in accept or "*/*" in accept or "octet-stream" in accept:
        return tuple(dict.fromkeys(names))[:_NOTED] if names else ()
    return (*tuple(dict.fromkeys(names))[: _NOTED - 1], "Accept")


def shown(name: object) -> str:
    """A customer's name for something, short and printable."""
    return "".join(c if c.isprintable() else "?" for c in str(name)[:_LONGEST])
