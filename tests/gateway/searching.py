"""Looks for canaries in the bytes of a response, and for anything else in it that nothing explains.

Two oracles, written without our codecs. The search: no canary is in the bytes, nor in what they decode to, as text, as
base64, hex or gzip, as float64, float32 or float16 of either byte order. The account: of an answer every header, word
and number is one that this tier is granted, to its last digit; what is left over, four digits or more, is a finding.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
import struct
import unicodedata
import zlib
from collections.abc import Iterator
from typing import Any

from house import CLASSES, Part
from planting import Planted, Truth

_TOKEN = re.compile(rb'"((?:[^"\\]|\\.)*)"|(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)|true|false|null|[\[\]{}:,]')
_WORDS = {
    "outputs", "name", "datatype", "shape", "data", "parameters", "binary_data_size", "model_name", "id", "predictions",
    "predict", "predict_proba", "decision_function", "INT64", "FP64", "FP32", "class", "scores", "label", "result",
    "ok", "score", "predicted_label", "probabilities",
}  # fmt: skip
_KNOWN = re.compile(rb"262144|262,144|8388608|8,388,608")  # the gateway's own figures, in its refusals
_HEADERS = {
    b"content-type": rb"application/json|application/octet-stream|text/plain",
    b"content-length": rb"\d{1,5}",
    b"x-request-id": rb"[0-9a-f]{8}-[0-9a-f]{1,6}",
    b"retry-after": rb"[1-9]|[1-5]\d|60",
    b"allow": rb"POST",
    b"www-authenticate": rb"Bearer",
    b"inference-header-content-length": rb"\d{1,4}",
    b"ratelimit-limit": rb"10000000",
    b"ratelimit-remaining": rb"9\d{6}",
    b"ratelimit-reset": rb"\d{1,2}",
    b"x-understudy-principal": rb"key:[0-9a-f]{8}|ip:192\.0\.2\.7",
    b"x-understudy-tier": rb"[a-z]{3,6}\d?",
}
_HEADER = {name: re.compile(value) for name, value in _HEADERS.items()}
_DATE = re.compile(rb"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT")


def findings(
    part: Part, tier: str, asked: dict[str, Any], planted: Planted, n: int, wire: bytes, server: bool = False
) -> list[str]:
    """What should not have left. `asked`: the request's JSON where it went to the inference route, else nothing."""
    head, _, body = wire.partition(b"\r\n\r\n")
    found, rest = [], list[bytes]()
    size = None
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b": ")
        if server and ((name == b"date" and _DATE.fullmatch(value)) or line == b"connection: close"):
            continue
        allowed = _HEADER.get(name)
        if (
            (name.startswith(b"x-understudy-") and wire[9:12] == b"200")
            or allowed is None
            or not allowed.fullmatch(value)
        ):
            found.append(f"header {line!r}")
            rest.append(line)
        elif name == b"inference-header-content-length":
            size = int(value)
        elif name == b"content-length" and body and int(value) != len(body):
            found.append(f"content-length {value!r} of {len(body)} bytes")
    if asked and wire[9:12] == b"200":
        known = _granted(part, tier, planted.truth)
        text, tail = (body, b"") if size is None else (body[:size], body[size:])
        rest.append(_unexplained(text, part, tier, asked, planted.truth, n, known))
        if tail or size is not None:
            rest.append(_unexplained_bytes(text, tail, part, planted.truth, known))
        if rest[-1] or rest[0]:
            found += [f"not granted: {piece[:60]!r}" for piece in rest if piece]
    else:
        rest.append(_KNOWN.sub(b"", body))
    return found + list(_canaries(part, tier, planted, wire, b"\n".join(rest)))


# the account


def _granted(part: Part, tier: str, truth: Truth) -> set[float]:
    """Every score that this tier may see, as it may see it."""
    known = {0.0}
    for signal, (top, decimals) in part.tiers[tier].items():
        if signal == "label":
            continue
        for row in truth[signal]:
            for v in sorted(row, reverse=True)[: top or len(row)]:
                if decimals is None or not math.isfinite(v):
                    known.add(v)
                    continue
                for w in (v, math.nextafter(v, math.inf), math.nextafter(v, -math.inf)):
                    known.add(float(f"{w:.{decimals}f}"))
    if part.options.get("answer_datatype") == "FP32":
        known |= {struct.unpack("<f", struct.pack("<f", v))[0] for v in known}
    return known


def _labels(part: Part, truth: Truth) -> list[int]:
    if part.served == ("value",):
        return []
    scores = truth.get("label")
    return [int(r[0]) for r in scores] if scores else [row.index(max(row)) for row in truth["probabilities"]]


def _unexplained(
    text: bytes, part: Part, tier: str, asked: dict[str, Any], truth: Truth, n: int, known: set[float]
) -> bytes:
    """What is left of an answer's JSON without what this tier is granted and what the protocol needs."""
    labels = set(_labels(part, truth)) if "label" in part.tiers[tier] else set[int]()
    small = {0, n, part.outputs, *(n * size * k for k in (1, part.outputs) for size in (4, 8)), *labels}
    words = _WORDS | {part.name} | {CLASSES[i] for i in labels if "classes" in part.options}
    single = part.options.get("answer_datatype") == "FP32"

    def keep(token: re.Match[bytes]) -> bytes:
        word, number = token[1], token[2]
        if word is not None:
            try:
                said = json.loads(token[0])
            except ValueError:
                return token[0]
            return b"" if said in words or said == asked.get("id") else token[0]
        if number is None:
            return b""
        if number.isdigit() and int(number) in small:
            return b""
        value = float(number)
        if value == 0 and number[:1] == b"-":
            return number  # a sign that says what was rounded away
        if value in known or (single and struct.unpack("<f", struct.pack("<f", value))[0] in known):
            return b""
        return number + b" "

    return _TOKEN.sub(keep, text)


def _unexplained_bytes(text: bytes, tail: bytes, part: Part, truth: Truth, known: set[float]) -> bytes:
    """What is left of an answer's binary tensors."""
    rest, at = b"", 0
    for tensor in json.loads(text)["outputs"]:
        length = tensor.get("parameters", {}).get("binary_data_size", 0)
        piece, code = tail[at : at + length], {"INT64": "q", "FP64": "d", "FP32": "f"}[tensor["datatype"]]
        width = struct.calcsize(code)
        for i in range(0, len(piece), width):
            (value,) = struct.unpack("<" + code, piece[i : i + width])
            if code == "q":
                fine = value in _labels(part, truth)
            elif math.isnan(value):
                fine = piece[i : i + width].lstrip(b"\0") in (b"\xf8\x7f", b"\xc0\x7f")
            else:
                fine = value in known and (value != 0 or not any(piece[i : i + width]))
            rest += b"" if fine else piece[i : i + width]
        at += length
    return rest + tail[at:]


# the search


def _canaries(part: Part, tier: str, planted: Planted, wire: bytes, rest: bytes) -> Iterator[str]:
    whole = {
        v
        for signal, (top, decimals) in part.tiers[tier].items()
        if decimals is None and signal != "label"
        for row in planted.truth[signal]
        for v in sorted(row, reverse=True)[: top or len(row)]
    }
    withheld = [v for s, rows in planted.truth.items() if s != "label" for row in rows for v in row if v not in whole]
    bare = wire.replace(b".", b"")
    views = [rest, *_decoded(rest)] if rest.strip() else []
    text = b"\n".join(views).lower()
    runs = b" ".join(re.findall(rb"\d[\d.]{3,}", text)).replace(b".", b"")
    for v in planted.numbers + withheld:
        if not math.isfinite(v) or v == 0:
            continue
        digits = f"{abs(v):.16e}".replace(".", "")[:16].encode()
        double = struct.pack("<d", v)
        if digits[:12] in bare or digits[3:15] in bare or double in wire or double[::-1] in wire:
            yield f"number {v!r}"
        elif text:
            single = struct.pack("<f", v)
            shorts = (
                double.hex().encode(),
                double[::-1].hex().encode(),
                single.hex().encode(),
                single[::-1].hex().encode(),
            )
            raw = b"\n".join(views)
            if double in raw or double[::-1] in raw or single in raw or single[::-1] in raw:
                yield f"bytes of {v!r}"
            elif any(s in text for s in shorts):
                yield f"hex of {v!r}"
            elif runs and any(digits[i : i + 4] in runs for i in range(0, 9)):
                yield f"digits of {v!r}"
    lower = wire.lower()
    for word in planted.words:
        coded = word.encode()
        if coded in lower or (text and (coded in text or (word.isdigit() and coded[:11] in runs))):
            yield f"word {word}"
    for blob in planted.blobs:
        if blob in wire or any(blob in view for view in views):
            yield f"bytes {blob.hex()}"


def _decoded(rest: bytes, depth: int = 0) -> Iterator[bytes]:
    """What is in there, base64, hex, gzip, escapes and look-alikes undone, twice over."""
    inner = []
    for piece in re.findall(rb"[A-Za-z0-9+/_-]{12,}", rest):
        for skip in range(4):
            cut = piece[skip:].translate(bytes.maketrans(b"-_", b"+/"))
            inner.append(base64.b64decode(cut[: len(cut) // 4 * 4]))
        if re.fullmatch(rb"(?:[0-9a-f]{2})+", piece):
            inner.append(binascii.unhexlify(piece))
    for found in re.finditer(rb"\x1f\x8b\x08|\x78[\x01\x5e\x9c\xda]", rest):
        try:
            inner.append(zlib.decompressobj(31 if found[0][0] == 31 else 15).decompress(rest[found.start() :], 2**20))
        except zlib.error:
            continue
    if b"\\" in rest:
        inner.append(
            re.sub(rb"\\u([0-9a-fA-F]{4})", lambda m: chr(int(m[1], 16)).encode("utf-8", "replace"), rest)
            .replace(b'\\"', b'"').replace(b"\\\\", b"\\")
        )  # fmt: skip
    if any(c > 127 for c in rest):
        inner.append(unicodedata.normalize("NFKC", rest.decode("utf-8", "replace")).encode("utf-8", "replace"))
    for piece in inner:
        if piece and piece != rest:
            yield piece
            if depth < 2:
                yield from _decoded(piece, depth + 1)
