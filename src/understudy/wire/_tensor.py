"""Tensors as bytes: little-endian, row-major, as the Open Inference Protocol's binary extension has them."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

from understudy.errors import InputError
from understudy.types import Array, Floats

_TYPES = {
    "BOOL": "u1",
    "UINT8": "u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "BF16": "<u2",
    "FP32": "<f4",
    "FP64": "<f8",
}
DTYPES = {name: np.dtype(code) for name, code in _TYPES.items()}  # BYTES has no fixed size


def unpack(datatype: str, body: bytes, start: int, count: int) -> Floats:
    """`count` numbers from `start` on as float64 (integers beyond 2^53 are rounded); the caller has checked the length.

    NaN and infinities are let through.
    """
    found: Array = np.frombuffer(body, DTYPES[datatype], count, start)
    if datatype == "BOOL":
        found = found != 0
    elif datatype == "BF16":
        found = (found.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(invalid="ignore"):  # a signalling NaN
        return np.asarray(found, np.float64)


def cast(x: Floats, datatype: str) -> Array:
    """Numbers as another type (BF16 as the float32 of that value). Raises InputError where they do not fit it."""
    if datatype == "FP64":
        return x
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        if datatype in ("FP32", "FP16", "BF16"):
            made = x.astype(np.float16 if datatype == "FP16" else np.float32)
            if datatype == "BF16":
                made = _rounded(made)
            fits = np.isfinite(made) | ~np.isfinite(x)
        else:
            made = x.astype(np.bool_ if datatype == "BOOL" else DTYPES[datatype])
            fits = made == x
    if not fits.all():
        raise InputError(f"{int(np.size(fits) - np.count_nonzero(fits))} input(s) do not fit the datatype {datatype}")
    return made


def _rounded(made: Array) -> Array:
    """float32 rounded half to even to the upper 16 bits, which are a BF16; NaN is the caller's affair."""
    bits = made.view(np.uint32)
    return (np.where(np.isfinite(made), bits + 0x7FFF + ((bits >> 16) & 1), bits) & 0xFFFF0000).view(np.float32)


def pack(x: Floats, datatype: str) -> bytes:
    """Numbers as bytes of a type. Raises InputError where they do not fit it."""
    made = cast(x, datatype)
    if datatype == "BF16":
        made = made.view(np.uint32) >> 16
    return made.astype(DTYPES[datatype], copy=False).tobytes()


def pack_texts(texts: Sequence[str]) -> bytes:
    """Texts as a BYTES tensor: each a 4-byte length and its UTF-8."""
    coded = [text.encode() for text in texts]
    return b"".join(struct.pack("<I", len(text)) + text for text in coded)


def unpack_texts(body: bytes, count: int) -> list[str]:
    """A BYTES tensor of `count` texts that fill `body`. Raises ValueError."""
    texts, at = list[str](), 0
    while at + 4 <= len(body) and len(texts) < count:
        (size,) = struct.unpack_from("<I", body, at)
        if size > len(body) - at - 4:
            break
        texts.append(body[at + 4 : at + 4 + size].decode())
        at += 4 + size
    if at != len(body) or len(texts) != count:
        raise ValueError("not a BYTES tensor of that many texts")
    return texts
