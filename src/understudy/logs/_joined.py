"""Two halves of one exchange, joined on their id; those that wait too long wait on disk."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple
from zlib import crc32

import orjson

_PARTS = 64


class Half(NamedTuple):
    """A request or a response, and where it was read."""

    request: bool
    file: str
    line: int
    event: dict[str, Any]


class Recent:
    """Ids seen lately, at most `most`: a record delivered twice comes twice within a short time."""

    def __init__(self, most: int = 100_000) -> None:
        self._most, self._seen = most, OrderedDict[Any, None]()

    def again(self, key: Any) -> bool:
        """Whether it was here before; from now on it was."""
        if key in self._seen:
            return True
        self._seen[key] = None
        if len(self._seen) > self._most:
            self._seen.popitem(last=False)
        return False


class Join:
    """Holds `room` halves in memory, of `size` bytes; when more wait, all go to files below `folder`, by id."""

    def __init__(self, folder: Path, room: int, size: int) -> None:
        self._folder, self._room, self._size = folder, room, size
        self._waiting: dict[str, tuple[bool, bytes]] = {}  # whether it is the request, and the half as it is written
        self._held = 0
        self._spilled = False

    def add(self, key: str, half: Half) -> tuple[Half, Half] | None:
        """(request, response) once both are there. A half that comes twice stays out: the first one counts.

        Raises TypeError where an event is nested too deeply to be written.
        """
        other = self._waiting.get(key)
        if other is None:
            line = orjson.dumps([key, *half], default=str, option=orjson.OPT_APPEND_NEWLINE)
            self._waiting[key] = half.request, line
            self._held += len(line)
            if len(self._waiting) > self._room or self._held > self._size:
                self._spill()
            return None
        request, line = other
        if request == half.request:
            return None
        del self._waiting[key]
        self._held -= len(line)
        return _pair(half, _read(line))

    def rest(self) -> Iterator[tuple[Half, Half] | Half]:
        """Pairs whose halves came far apart, and the halves that stayed alone. Nothing can be added after."""
        if not self._spilled:
            yield from (_read(line) for _, line in self._waiting.values())
            return
        self._spill()
        for path in sorted(self._folder.iterdir()):
            alone: dict[str, tuple[bool, int]] = {}  # whether it is the request, and where in the file it lies
            with path.open("rb") as file, path.open("rb") as again:
                end = 0
                for line in file:
                    here, end = end, end + len(line)
                    key, half = orjson.loads(line)[0], _read(line)
                    other = alone.get(key)
                    if other is None:
                        alone[key] = half.request, here
                    elif other[0] != half.request:
                        del alone[key]
                        yield _pair(half, _at(again, other[1]))
                yield from (_at(again, place) for _, place in alone.values())
            path.unlink()

    def _spill(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        parts: dict[int, list[bytes]] = {}
        for key, (_, line) in self._waiting.items():
            parts.setdefault(crc32(key.encode()) % _PARTS, []).append(line)
        for part, lines in parts.items():
            handle = os.open(self._folder / f"{part:02d}", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
            with open(handle, "ab") as file:
                file.writelines(lines)
        self._waiting, self._held, self._spilled = {}, 0, True


def _read(line: bytes) -> Half:
    return Half(*orjson.loads(line)[1:])


def _at(file: IO[bytes], place: int) -> Half:
    file.seek(place)
    return _read(file.readline())


def _pair(half: Half, other: Half) -> tuple[Half, Half]:
    return (half, other) if half.request else (other, half)
