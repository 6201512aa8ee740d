"""Two halves of one exchange, joined on their id; those that wait too long wait on disk."""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

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
    """Holds `room` halves in memory; when more wait, all of them go to files below `folder`, by id."""

    def __init__(self, folder: Path, room: int) -> None:
        self._folder, self._room = folder, room
        self._waiting: dict[str, Half] = {}
        self._spilled = False

    def add(self, key: str, half: Half) -> tuple[Half, Half] | None:
        """(request, response) once both are there. A half that comes twice stays out: the first one counts."""
        other = self._waiting.get(key)
        if other is None:
            self._waiting[key] = half
            if len(self._waiting) > self._room:
                self._spill()
            return None
        if other.request == half.request:
            return None
        del self._waiting[key]
        return (half, other) if half.request else (other, half)

    def rest(self) -> Iterator[tuple[Half, Half] | Half]:
        """Pairs whose halves came far apart, and the halves that stayed alone. Nothing can be added after."""
        if not self._spilled:
            yield from self._waiting.values()
            return
        self._spill()
        for path in sorted(self._folder.iterdir()):
            alone: dict[str, Half] = {}
            with path.open(encoding="utf-8") as file:
                for line in file:
                    key, *half = json.loads(line)
                    one, other = Half(*half), alone.pop(key, None)
                    if other is None:
                        alone[key] = one
                    elif other.request == one.request:
                        alone[key] = other
                    else:
                        yield (one, other) if one.request else (other, one)
            yield from alone.values()
            path.unlink()

    def _spill(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        parts: dict[int, list[str]] = {}
        for key, half in self._waiting.items():
            part = crc32(key.encode("utf-8", "surrogatepass")) % _PARTS
            parts.setdefault(part, []).append(json.dumps([key, *half]) + "\n")
        for part, text in parts.items():
            handle = os.open(self._folder / f"{part:02d}", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
            with open(handle, "a", encoding="utf-8") as file:
                file.writelines(text)
        self._waiting, self._spilled = {}, True
