"""Upstream answers with canaries in them: numbers and words that nobody is granted, wherever a server could put them.

Written without our codecs. Whatever is planted has many digits or letters, so that meeting it by chance is out of
the question: a float has 15 to 17 digits, a word 14 letters, an integer 12 digits or more.
"""

from __future__ import annotations

import gzip
import json
import math
import random
import re
import string
import struct
import zlib
from dataclasses import dataclass, field
from typing import Any

from asking import encoded
from house import CLASSES, Part

Truth = dict[str, list[list[float]]]
_FULLWIDTH = str.maketrans("0123456789.", "０１２３４５６７８９．")


@dataclass
class Planted:
    """An upstream's answer, the canaries in it, and the whole truth of its legitimate signals."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
    truth: Truth
    numbers: list[float] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    blobs: list[bytes] = field(default_factory=list)

    # canaries

    def number(self, rng: random.Random) -> float:
        """A new float with many digits, of any size that servers use."""
        while True:
            made = rng.choice((1, 1, 1, -1)) * (0.1 + 0.9 * rng.random()) * 10.0 ** rng.choice((0, 0, 0, -3, 2, 5, -9))
            if len(re.sub(r"\D", "", repr(made).split("e")[0].lstrip("-0."))) >= 14:
                self.numbers.append(made)
                return made

    def word(self, rng: random.Random) -> str:
        """A new word."""
        self.words.append("cn" + "".join(rng.choices(string.ascii_lowercase + string.digits, k=12)))
        return self.words[-1]

    def whole(self, rng: random.Random) -> int:
        """A new integer, up to far beyond 64 bits; it is searched for as the word that its digits are."""
        made = rng.randrange(10**11, 10 ** rng.choice((12, 15, 18, 19, 40)))
        self.words.append(str(made))
        return made

    def anything(self, rng: random.Random, depth: int = 0) -> str:
        """A JSON value with canaries in it, as text."""
        kind = rng.randrange(15 if depth < 3 else 11)
        if kind < 3:
            return rng.choice(("{!r}", "{:.17g}", "{:.20e}", '"{!r}"', '"score={!r};"')).format(self.number(rng))
        if kind == 3:
            return str(self.whole(rng))
        if kind == 4:
            return json.dumps(self.word(rng))
        if kind == 5:  # the word, every letter escaped; the digits, full width
            if rng.random() < 0.5:
                return '"' + "".join(f"\\u{ord(c):04x}" for c in self.word(rng)) + '"'
            return json.dumps(repr(self.number(rng)).translate(_FULLWIDTH), ensure_ascii=rng.random() < 0.5)
        if kind in (6, 7):
            return json.dumps(encoded(rng, self.bytes(rng)))
        if kind == 8:
            return rng.choice(("NaN", "Infinity", "-Infinity", "null", "true", "1e999", "-0.0", '"\\ud800"', "123"))
        if kind == 9:
            return json.dumps("\u202e" + self.word(rng) + "\x00\u0000é\U0001f600", ensure_ascii=rng.random() < 0.5)
        if kind == 10:
            return str([self.number(rng) for _ in range(rng.randrange(1, 6))])
        if kind == 11:
            return json.dumps(json.dumps({"logits": [self.number(rng)], "w": self.word(rng)}))
        if kind == 12:
            return "[" + ",".join(self.anything(rng, depth + 1) for _ in range(rng.randrange(4))) + "]"
        return "{" + ",".join(self.pair(rng, depth + 1) for _ in range(rng.randrange(4))) + "}"

    def pair(self, rng: random.Random, depth: int = 0, names: tuple[str, ...] = ()) -> str:
        """A field with canaries in it; its name may be one that the answer has already (there the last one counts)."""
        if names and rng.random() < 0.35:
            name = rng.choice(names)
        else:
            name = rng.choice(("debug", "logits", "score", "id", "outputs", "predictions", "error", "parameters", ""))
            name = self.word(rng) if rng.random() < 0.2 else name
        return f"{json.dumps(name)}:{self.anything(rng, depth)}"

    def bytes(self, rng: random.Random) -> bytes:
        """Canaries as an array's bytes."""
        many = [self.number(rng) for _ in range(rng.randrange(3, 7))]
        kind = rng.randrange(6)
        if kind < 2:
            return struct.pack(f"{'<>'[kind]}{len(many)}d", *many)
        if kind < 4:
            return struct.pack(f"{'<>'[kind - 2]}{len(many)}f", *many)
        if kind == 4:
            halves = struct.pack(f"{rng.choice('<>')}{len(many)}e", *(math.frexp(v)[0] for v in many))
            self.blobs += [halves[:6], halves[-6:]]
            return halves
        return self.word(rng).encode()


def plant(part: Part, rng: random.Random, n: int) -> Planted:
    """An answer to `n` rows."""
    truth = _truth(part, rng, n)
    made = Planted(200, [(b"content-type", b"application/json")], b"", truth)
    kind = rng.random()
    if kind < 0.12:
        return _error(made, rng)
    text, tail = _legitimate(part, made, rng, n)
    for _ in range(rng.randrange(1, 4)):
        text = _grown(made, rng, text)
    if kind < 0.2:
        text = _spoilt(made, rng, text)
    data = text.encode("utf-8", "surrogatepass")
    if tail is not None:
        made.headers.append((b"inference-header-content-length", str(len(data)).encode()))
        data += tail
    made.body = data
    _headers(made, rng, few=False)
    return made


def _truth(part: Part, rng: random.Random, n: int) -> Truth:
    logits = [[rng.gauss(0, 2) for _ in range(part.outputs)] for _ in range(n)]
    exps = [[math.exp(v) for v in row] for row in logits]
    probabilities = [[v / sum(row) for v in row] for row in exps]
    label = [[float(row.index(max(row)))] for row in logits]
    truth = {"logits": logits, "probabilities": probabilities, "label": label, "value": logits}
    return {signal: truth[signal] for signal in part.served}


def _legitimate(part: Part, made: Planted, rng: random.Random, n: int) -> tuple[str, bytes | None]:
    """The answer as such a server writes it: JSON, and the bytes of binary tensors."""
    truth, names = made.truth, part.options.get("classes")
    label = [CLASSES[int(row[0])] if names else int(row[0]) for row in truth.get("label", ())]
    p = truth.get("probabilities", [])
    if part.protocol == "open-inference":
        return _tensors(part, made, rng, n)
    if part.name == "kserve-named":
        rows: Any = [{"class": c, "scores": s} for c, s in zip(label, p, strict=True)]
        return json.dumps({"predictions": rows}), None
    if part.protocol == "json":
        return json.dumps({"result": {"label": label, "scores": p}, "ok": False}), None
    if part.protocol == "sagemaker":
        rows = [{"score": s[1], "predicted_label": c} for c, s in zip(label, p, strict=True)]
        return json.dumps({"predictions": rows}), None
    return json.dumps(p if part.protocol == "bentoml" else {"predictions": p}), None


def _tensors(part: Part, made: Planted, rng: random.Random, n: int) -> tuple[str, bytes | None]:
    """Open Inference: the tensors that are asked for, and others between them; as bytes where they are wanted so."""
    names = {"probabilities": "predict_proba", "label": "predict", "value": "predict", "logits": "decision_function"}
    binary, outputs, tail = bool(part.options.get("binary")), [], b""
    for signal in part.served:
        rows = made.truth[signal]
        flat = [v for row in rows for v in row]
        tensor: dict[str, Any] = {"name": names[signal], "shape": [n] if signal == "label" else [n, part.outputs]}
        kind, code = ("INT64", "q") if signal == "label" else rng.choice((("FP64", "d"), ("FP64", "d"), ("FP32", "f")))
        if not binary:
            outputs.append(
                json.dumps({**tensor, "datatype": kind, "data": flat if code != "q" else list(map(int, flat))})
            )
            continue
        packed = struct.pack(f"<{len(flat)}{code}", *(map(int, flat) if code == "q" else flat))
        if code == "f":  # what the server says is what it said in that type
            short = struct.unpack(f"<{len(flat)}f", packed)
            made.truth[signal] = [list(short[i * part.outputs : (i + 1) * part.outputs]) for i in range(n)]
        if signal == "value" and rng.random() < 0.3:
            packed = _payload(made, rng, packed, code, part, signal)
        for _ in range(rng.randrange(2)):  # a stranger's tensor before it, at times under the same name
            more = made.bytes(rng)
            name = rng.choice((names[signal], "hidden", made.word(rng)))
            stranger = {"name": name, "datatype": "UINT8", "shape": [len(more)]}
            outputs.append(json.dumps({**stranger, "parameters": {"binary_data_size": len(more)}}))
            tail += more
        outputs.append(json.dumps({**tensor, "datatype": kind, "parameters": {"binary_data_size": len(packed)}}))
        tail += packed
    while rng.random() < 0.4:
        values = [made.number(rng) for _ in range(rng.randrange(1, 5))]
        stranger = {"name": rng.choice(("hidden", "embedding")), "datatype": "FP64", "shape": [len(values)]}
        outputs.append(json.dumps({**stranger, "data": values}))
    if binary and rng.random() < 0.3:
        tail += made.bytes(rng)
    about = f'"model_name":"m","model_version":"7","id":{json.dumps(made.word(rng))}'
    return f'{{{about},"outputs":[{",".join(outputs)}]}}', tail if binary else None


def _payload(made: Planted, rng: random.Random, packed: bytes, code: str, part: Part, signal: str) -> bytes:
    """A number that is none, with a canary in the bits that say which."""
    if code == "d":
        secret = struct.pack("<Q", 0x7FF8 << 48 | rng.getrandbits(47) | 1 << 40)
    else:
        secret = struct.pack("<I", 0x7FC00000 | rng.getrandbits(21) | 1 << 20)
    made.blobs += [secret, secret[::-1]] if code == "d" else []
    # as float64 a float32's payload moves up by 29 bits
    if code == "f":
        (bits,) = struct.unpack("<I", secret)
        wide = struct.pack("<Q", 0x7FF8 << 48 | (bits & 0x3FFFFF) << 29)
        made.blobs += [wide, wide[::-1]]
    made.truth[signal][0][0] = math.nan
    return secret + packed[len(secret) :]


def _grown(made: Planted, rng: random.Random, text: str) -> str:
    """One more field, somewhere: before those that are there, so that theirs are the last of that name."""
    places = [m.start() for m in re.finditer(r"\{(?=\")", text)]
    if not places:
        return text
    at = rng.choice(places) + 1
    names = tuple(set(re.findall(r'"(\w+)": ?', text)))[:8]
    return text[:at] + made.pair(rng, names=tuple(sorted(names))) + "," + text[at:]


def _spoilt(made: Planted, rng: random.Random, text: str) -> str:
    """An answer that cannot be used, or should not be."""
    number = repr(made.number(rng))
    return rng.choice((
        text[: rng.randrange(len(text))], number + text, text + made.anything(rng), made.word(rng), "", number,
        text.replace("[", f"[{number},", 1), text.replace("[", f"[[{number}],", 1), f'{{"error":{made.anything(rng)}}}',
        re.sub(r"\d\.\d+", made.word(rng), text, count=1), re.sub(r"\d\.\d+", "NaN", text, count=1),
        re.sub(r"\d\.\d+", "1e999", text, count=1),
        f"<!doctype html><h1>{made.word(rng)}</h1>", f"[{text}]", "[" * 3000 + number,
        f'{{"predictions":{{{made.pair(rng)}}}}}',
    ))  # fmt: skip


def _error(made: Planted, rng: random.Random) -> Planted:
    """An error of the upstream's, told at length."""
    made.status = rng.choice((400, 401, 403, 404, 405, 409, 413, 415, 422, 429, 500, 500, 501, 502, 503, 503, 504, 301,
                              302, 307, 204, 206, 418, 451, 599))  # fmt: skip
    told = (
        f"Traceback (most recent call last): /srv/{made.word(rng)}.py line {made.whole(rng)} score {made.number(rng)!r}"
    )
    made.body = rng.choice((
        json.dumps({"error": told}).encode(), told.encode(), b"", made.bytes(rng),
        f"<html>{told}</html>".encode(), made.anything(rng).encode("utf-8", "surrogatepass"),
    ))  # fmt: skip
    _headers(made, rng, few=True)
    return made


def _headers(made: Planted, rng: random.Random, few: bool) -> None:
    """Headers with canaries in them, and compression."""
    for _ in range(rng.randrange(4 if few else 3)):
        name = rng.choice((
            "x-model-version", "server", "etag", "set-cookie", "x-debug", "via", "warning", "x-request-id", "location",
            "ratelimit-limit", "ratelimit-remaining", "www-authenticate", "allow", "retry-after", "x-understudy-tier",
            "access-control-expose-headers", "content-language", "x-amzn-sagemaker-custom-attributes", "retry-after",
        ))  # fmt: skip
        name = f"x-{made.word(rng)}" if rng.random() < 0.1 else name
        value = rng.choice((made.word, made.whole, made.number))(rng)
        made.headers.append((name.encode(), str(value).encode()))
    if rng.random() < 0.1:
        made.headers[0] = (b"content-type", f"application/json; charset={made.word(rng)}".encode())
    if rng.random() < 0.15:
        form = rng.choice((b"gzip", b"gzip", b"deflate", b"br", made.word(rng).encode()))
        made.headers.append((b"content-encoding", form))
        if form == b"gzip":
            made.body = gzip.compress(made.body, 1, mtime=0)
        elif form == b"deflate":
            made.body = zlib.compress(made.body, 1)
