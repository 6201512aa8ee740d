"""The files of a log: paths, folders, globs and fsspec URLs; gzip and zstd by suffix; lines of bounded length."""

from __future__ import annotations

import glob
import gzip
import io
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from understudy.errors import MissingExtra, UsageError
from understudy.logs._tally import Tally

LONGEST = 16 * 2**20  # bytes of one line; a longer one is passed over without being held
_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".parquet")
_PACKED = (".gz", ".zst")
_BUFFER = 2**16  # what is lost at most before a damaged place
_BOM = b"\xef\xbb\xbf"
_CUT = "the compressed stream ends too early or is damaged; what came before was read"


@dataclass(frozen=True)
class File:
    """One file: how to open it, and its name as messages show it, without credentials."""

    name: str
    handle: Any  # a Path, or an fsspec OpenFile

    @property
    def kind(self) -> str:
        """The suffix that says what is in it, compression aside."""
        bare = self.name.lower()
        for packed in _PACKED:
            bare = bare.removesuffix(packed)
        return next((suffix for suffix in _SUFFIXES if bare.endswith(suffix)), "")

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """Its bytes, decompressed. Raises UsageError where it cannot be opened."""
        try:
            raw: IO[bytes] = self.handle.open("rb") if isinstance(self.handle, Path) else self.handle.open()
        except (OSError, ValueError, ImportError) as error:
            raise UsageError(f"{self.name} cannot be opened: {getattr(error, 'strerror', None) or error}") from None
        with raw:
            yield _unpacked(raw, self.name)


def expand(sources: str | Path | Sequence[str | Path]) -> Iterator[File | Path]:
    """The files of each source, in order; a folder of the gateway's history is given as it is.

    Raises UsageError where a source names nothing, or a file that is no log.
    """
    for source in [sources] if isinstance(sources, str | Path) else sources:
        text = str(source)
        if "://" in text:
            yield from _remote(text)
            continue
        if Path(text).is_dir():
            if any(Path(text).glob("*.sqlite")):
                yield Path(text)
                continue
            paths = sorted(p for p in Path(text).rglob("*") if p.is_file() and File(p.name, p).kind)
        else:
            paths = [Path(text)] if Path(text).is_file() else sorted(map(Path, glob.glob(text, recursive=True)))
        if not paths:
            raise UsageError(f"{text}: no such log (a file, a folder of {', '.join(_SUFFIXES)}, a pattern, or a URL)")
        yield from (_known(File(str(path), path)) for path in paths if path.is_file())


def _remote(url: str) -> Iterator[File]:
    try:
        import fsspec
    except ImportError:
        raise MissingExtra("logs at a URL need fsspec: pip install 'understudy[logs]'") from None
    try:
        found = fsspec.open_files(url, "rb", expand=True)
    except (OSError, ValueError, ImportError) as error:
        raise UsageError(f"{_shown(url)} cannot be opened: {type(error).__name__}: {error}") from None
    if not found:
        raise UsageError(f"{_shown(url)}: no such log")
    scheme = urlsplit(url).scheme
    for one in sorted(found, key=lambda f: str(f.path)):
        yield _known(File(_shown(f"{scheme}://{one.path}" if "://" not in one.path else one.path), one))


def _shown(url: str) -> str:
    """A URL without user, password and query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _known(file: File) -> File:
    if not file.kind:
        raise UsageError(f"{file.name}: what is in it cannot be told from its name ({', '.join(_SUFFIXES)})")
    return file


def _unpacked(raw: IO[bytes], name: str) -> IO[bytes]:
    if name.lower().endswith(".gz"):
        return io.BufferedReader(gzip.GzipFile(fileobj=raw), _BUFFER)
    if name.lower().endswith(".zst"):
        try:
            import zstandard
        except ImportError:
            raise MissingExtra("zstd logs need zstandard: pip install 'understudy[logs]'") from None
        return io.BufferedReader(_Zstd(raw, zstandard.ZstdDecompressor), _BUFFER)
    return raw


class _Zstd(io.RawIOBase):
    """Frame after frame of zstd; EOFError where the last one is not whole, which zstandard's own reader lets pass."""

    def __init__(self, raw: IO[bytes], decompressor: Any) -> None:
        self._raw, self._make = raw, decompressor
        self._frame, self._ready, self._rest = decompressor().decompressobj(), b"", b""
        self._whole = True

    def readable(self) -> bool:
        return True

    def readinto(self, room: Any) -> int:
        while not self._ready:
            packed = self._rest or self._raw.read(_BUFFER // 4)
            self._rest = b""
            if not packed:
                if not self._whole:
                    raise EOFError
                return 0
            if self._whole:
                self._frame = self._make().decompressobj()
            self._ready = self._frame.decompress(packed)
            self._whole, self._rest = self._frame.eof, self._frame.unused_data
        part, self._ready = self._ready[: len(room)], self._ready[len(room) :]
        room[: len(part)] = part
        return len(part)


def lines(stream: IO[bytes], name: str, tally: Tally, blank: bool = False) -> Iterator[tuple[int, bytes]]:
    """(number from 1, line) of every line, those that are `blank` only on request. A line that is too long is rejected,
    not held.
    """
    number = 0
    try:
        while line := stream.readline(LONGEST + 1):
            number += 1
            if len(line) > LONGEST and not line.endswith(b"\n"):
                tally.reject(name, number, f"a line of more than {LONGEST:,} bytes")
                while line and not line.endswith(b"\n"):
                    line = stream.readline(LONGEST)
                continue
            if number == 1:
                line = line.removeprefix(_BOM)
            if line and (blank or not line.isspace()):
                yield number, line
    except (EOFError, zlib.error, gzip.BadGzipFile) as _:
        tally.reject(name, number + 1, _CUT)
    except OSError as error:
        tally.reject(name, number + 1, f"the file cannot be read any further ({type(error).__name__})")
    except Exception as error:
        if type(error).__module__.partition(".")[0] != "zstandard":
            raise
        tally.reject(name, number + 1, _CUT)
