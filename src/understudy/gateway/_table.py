"""A file of usages that processes of one machine map into memory: fixed-size entries and an index over them.

    0      magic, sizes, salts, checksum         written once
    512    moved, count, boot id                 8-byte words
    4096   index: uint32 entry number + 1, or 0  open addressing, linear probing, never full
    ...    entries: usage (48 bytes), key (1 byte of length + 1, 55 of text)

Callers hold a lock around every call. A process killed in the middle leaves a file that counts no less than was asked:
an entry is written before it is counted, and counted before the index names it.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import secrets
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.errors import LedgerError
from understudy.guard import DAY, MONTH, Counted, Usage

#: Six numbers of 8 bytes, in native order and alignment.
USAGE = struct.Struct("@dddqdq")
KEY = 56
ENTRY = np.dtype(
    {
        "names": [*Usage._fields, "key"],
        "formats": ["f8", "f8", "f8", "i8", "f8", "i8", f"V{KEY}"],
        "offsets": [0, 8, 16, 24, 32, 40, 48],
        "itemsize": USAGE.size + KEY,
    }
)
_STATIC = struct.Struct("@16sQQ14Q")
_MAGIC = b"understudy usage"[:15] + b"\x01"
_WORDS, _INDEX, _TAIL = 512, 4096, 512
_MOVED, _COUNT = 0, 1
_BOOT = slice(_WORDS + 16, _WORDS + 32)
_KEYS = struct.Struct(f"@{KEY // 4}I")
_GROWTH = 8  # entries in the file for one to spare
UNKNOWN = bytes(16)


def field(key: str) -> bytes:
    """The key as it is stored: as it is up to 55 bytes of UTF-8, else its beginning and a digest."""
    text = key.encode()
    if len(text) >= KEY:
        digest = hashlib.blake2b(text, digest_size=16).hexdigest().encode()
        text = text[: KEY - 2 - len(digest)].decode(errors="ignore").encode() + b"~" + digest
    return bytes([len(text) + 1]) + text.ljust(KEY - 1, b"\0")


class Full(Exception):
    """No room for another entry."""


class Table:
    """One mapped file. Raises LedgerError where it is not one or, if asked to verify every entry, is damaged."""

    def __init__(self, path: Path, verify: bool = True) -> None:
        self.path = path
        try:
            with path.open("r+b") as file:
                self.inode = os.fstat(file.fileno()).st_ino
                self._map = mmap.mmap(file.fileno(), 0)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is empty"
            raise LedgerError(f"{path}: cannot be read: {reason}; {_REMEDY}") from None
        self._views = list[Any]()
        try:
            self._attach()
            if verify:
                self._verify()
        except LedgerError:
            self.close()
            raise

    def _attach(self) -> None:
        if len(self._map) < _INDEX or self._map[:16] != _MAGIC:
            raise LedgerError(f"{self.path}: is not a file of allowances of this version; {_REMEDY}")
        head = self._map[: _STATIC.size]
        if struct.unpack_from("@I", self._map, _STATIC.size)[0] != zlib.crc32(head):
            raise LedgerError(f"{self.path}: its header is damaged; {_REMEDY}")
        _, self._size, self.capacity, *self._salts = _STATIC.unpack(head)
        self._start = _INDEX + 4 * (self._size + _TAIL)
        if len(self._map) != self._start + self.capacity * ENTRY.itemsize:
            raise LedgerError(f"{self.path}: is cut short, {len(self._map):,} bytes; {_REMEDY}")
        whole = memoryview(self._map)
        self._words = whole[_WORDS : _WORDS + 32].cast("Q")
        self._index = whole[_INDEX : self._start].cast("I")
        self._floats, self._counts = whole.cast("d"), whole.cast("q")
        self._views += [self._words, self._index, self._floats, self._counts, whole]

    def _verify(self) -> None:
        """Every entry is found by its key or holds nothing, and all its numbers are possible."""
        rows, index = self.rows(), np.frombuffer(self._map, np.uint32, self._size + _TAIL, _INDEX)
        at = np.flatnonzero(index)
        named = index[at].astype(np.int64) - 1
        sound = self._words[_COUNT] <= self.capacity and not index[-1] and bool((named < len(rows)).all())
        if sound:
            used = rows[["level", "day_used", "month_used"]]
            sound = all(bool((rows[name] >= 0).all() and np.isfinite(rows[name]).all()) for name in Usage._fields)
            lengths = np.ascontiguousarray(rows["key"]).view(np.uint8)[::KEY]
            sound = sound and bool(((lengths > 0) & (lengths <= KEY)).all())
            if sound:  # looking for each key from where it begins meets no gap before its entry
                gaps = np.concatenate(([0], np.cumsum(index == 0)))
                sound = bool((gaps[at] == gaps[_homes(rows["key"][named], self._salts, self._size)]).all())
            loose = np.ones(len(rows), bool)
            loose[named] = False
            sound = sound and not any(used[name][loose].any() for name in used.dtype.names or ())
        del index
        if not sound:
            raise LedgerError(f"{self.path}: is damaged; {_REMEDY}")

    @property
    def moved(self) -> bool:
        """Whether another file has taken this one's place, or was about to."""
        return bool(self._words[_MOVED])

    @moved.setter
    def moved(self, yes: bool) -> None:
        self._words[_MOVED] = yes

    @property
    def boot(self) -> bytes:
        """The start of the machine that this belongs to; zeros where it is new."""
        return self._map[_BOOT]

    def find(self, name: bytes) -> int | None:
        """Where in the file the usage of a key is."""
        i, index, start = self._home(name), self._index, self._start
        at: int
        while entry := index[i]:
            at = start + (entry - 1) * ENTRY.itemsize
            if self._map[at + USAGE.size : at + ENTRY.itemsize] == name:
                return at
            i += 1
        return None

    def insert(self, name: bytes) -> int:
        """Make room for a new key, with nothing used, and return where. Raises Full."""
        count, i = self._words[_COUNT], self._home(name)
        while self._index[i]:
            i += 1
        if count == self.capacity or i == len(self._index) - 1:
            raise Full
        at: int = self._start + count * ENTRY.itemsize
        USAGE.pack_into(self._map, at, *Usage())
        self._map[at + USAGE.size : at + ENTRY.itemsize] = name
        self._words[_COUNT] = count + 1
        self._index[i] = count + 1
        return at

    def read(self, at: int) -> Counted:
        """The numbers of a usage."""
        return USAGE.unpack_from(self._map, at)

    def write(self, at: int, usage: Usage) -> None:
        """Replace a usage, number by number: each is stored whole, starts of windows before what was used in them.

        Not `Struct.pack_into`: it fills its place with zeros first, and a process can be killed right then.
        """
        floats, counts, i = self._floats, self._counts, at >> 3
        floats[i], floats[i + 1], floats[i + 2], counts[i + 3], floats[i + 4], counts[i + 5] = usage

    def rows(self) -> npt.NDArray[Any]:
        """A copy of all entries."""
        count = min(self._words[_COUNT], self.capacity)
        return np.frombuffer(self._map, ENTRY, count, self._start).copy()

    def close(self) -> None:
        """Let go of the file."""
        for view in self._views:
            view.release()
        self._map.close()

    def _home(self, name: bytes) -> int:
        # multiply-add over secret salts: a customer cannot pick names that collide, and numpy computes the same
        mixed = sum(map(int.__mul__, _KEYS.unpack(name), self._salts)) >> 32 & 0xFFFFFFFF
        home: int = mixed * self._size >> 32
        return home


_REMEDY = "move it away, and allowances are counted anew from the history"


def entries(rows: npt.NDArray[Any]) -> Iterator[tuple[str, Usage]]:
    """Every key with what it used, where it used anything."""
    for *numbers, key in rows.tolist():
        if numbers != [0] * 6:
            yield key[1 : key[0]].decode(errors="replace"), Usage(*numbers)


def alive(rows: npt.NDArray[Any], now: float) -> npt.NDArray[Any]:
    """The entries that still count at `now`: `Usage.over` for arrays."""
    day = (rows["day_used"] > 0) & (now < rows["day"] + DAY)
    month = (rows["month_used"] > 0) & (now < rows["month"] + MONTH)
    return rows[day | month | ((rows["level"] > 0) & (now < rows["at"] + 60.0))]


def build(path: Path, rows: npt.NDArray[Any], boot: bytes) -> None:
    """Write a file with these entries, and room for an eighth more, in the place of `path`. Raises LedgerError."""
    capacity = len(rows) + max(len(rows) // _GROWTH, 1024)
    size = (capacity // 4 + 1) * 6  # half as much again, and even: entries lie at multiples of 8 bytes
    while True:
        salts = [secrets.randbits(64) | 1 for _ in range(KEY // 4)]
        homes = _homes(rows["key"], salts, size)
        order = np.argsort(homes, kind="stable")
        steps = np.arange(len(rows))
        places = np.maximum.accumulate(homes[order] - steps) + steps
        if not len(rows) or places[-1] < size + _TAIL - 1:
            break
    index = np.zeros(size + _TAIL, np.uint32)
    index[places] = order + 1
    head = _STATIC.pack(_MAGIC, size, capacity, *salts)
    head += struct.pack("@I", zlib.crc32(head))
    words = struct.pack("@QQ16s", 0, len(rows), boot)
    new = path.with_name(path.name + ".new")
    try:
        new.unlink(missing_ok=True)
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write((head.ljust(_WORDS, b"\0") + words).ljust(_INDEX, b"\0"))
            for part in (index, rows, np.zeros(capacity - len(rows), ENTRY)):
                file.write(part.tobytes())
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
    except OSError as error:
        new.unlink(missing_ok=True)
        raise LedgerError(f"{path}: no room can be made for another principal: {error.strerror}") from None


def _homes(keys: npt.NDArray[Any], salts: list[int], size: int) -> npt.NDArray[np.int64]:
    words = np.ascontiguousarray(keys).view(np.uint32).reshape(len(keys), KEY // 4)
    mixed = np.zeros(len(keys), np.uint64)
    for column, salt in zip(words.T, salts, strict=True):
        mixed += column.astype(np.uint64) * np.uint64(salt)
    return ((mixed >> np.uint64(32)) * np.uint64(size) >> np.uint64(32)).astype(np.int64)
