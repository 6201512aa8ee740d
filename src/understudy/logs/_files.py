"""The files of a log: paths, folders, globs and fsspec URLs; gzip and zstd by suffix; lines of bounded length."""

from __future__ import annotations

import glob
import io
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
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
    source: str = ""  # the URL that named it, of a file at a URL

    @property
    def key(self) -> str:
        """What tells it from other files."""
        if isinstance(self.handle, Path):
            return str(self.handle.resolve())
        return f"{self.source.partition('::')[2]} {self.name}"

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
        except Exception as error:
            raise UsageError(f"{self.name} cannot be opened: {_why(error)}") from None
        with raw:
            yield _unpacked(raw, self.name)

    @contextmanager
    def seekable(self, folder: Path, tally: Tally) -> Iterator[IO[bytes] | None]:
        """Its bytes, decompressed, to be read in any order; None, and rejected, where they end too early."""
        with self.open() as stream:
            if stream.seekable():
                yield stream
                return
            with tempfile.TemporaryFile(dir=folder) as copy:
                whole = False
                with told(self.name, lambda: 0, tally):
                    shutil.copyfileobj(stream, copy, _BUFFER)
                    whole = True
                copy.seek(0)
                yield copy if whole else None


def expand(sources: str | Path | Sequence[str | Path]) -> Iterator[File | Path]:
    """The files of each source, in order; a folder of the gateway's history is given as it is.

    Raises UsageError where a source names nothing, or a file that is no log.
    """
    taken = set[str]()  # a file that two patterns name is read once
    for source in [sources] if isinstance(sources, str | Path) else sources:
        for found in _remote(str(source)) if "://" in str(source) else _local(str(source)):
            key = str(found.resolve()) if isinstance(found, Path) else found.key
            if key not in taken:
                taken.add(key)
                yield found


def _local(text: str) -> Iterator[File | Path]:
    paths = [Path(text)] if Path(text).exists() else sorted(map(Path, glob.glob(text, recursive=True)))
    named = 0
    for path in paths:
        if not path.is_dir():
            yield _known(File(str(path), path))
        elif any(path.glob("*.sqlite")):
            yield path
        elif "**" in text:
            continue  # what is in it was matched, too, if it is meant
        else:
            inside = sorted(p for p in path.rglob("*") if p.is_file() and File(p.name, p).kind)
            yield from (File(str(p), p) for p in inside)
            named += len(inside) - 1
        named += 1
    if not named:
        raise UsageError(f"{text}: no such log (a file, a folder of {', '.join(_SUFFIXES)}, a pattern, or a URL)")


def _remote(url: str) -> Iterator[File]:
    try:
        import fsspec
    except ImportError:
        raise MissingExtra("logs at a URL need fsspec: pip install 'understudy[logs]'") from None
    try:
        found = fsspec.open_files(url, "rb", expand=True)
        if len(found) == 1 and not File(found[0].path, None).kind and found[0].fs.isdir(found[0].path):
            head, *tail = url.split("::")
            inside = fsspec.open_files("::".join([f"{head.rstrip('/')}/**", *tail]), "rb", expand=True)
            found = [one for one in inside if File(one.path, None).kind]
    except Exception as error:  # a file system of anybody's making
        raise UsageError(f"{shown(url)} cannot be opened: {_why(error)}") from None
    if not found:
        raise UsageError(f"{shown(url)}: no such log")
    scheme = urlsplit(url).scheme
    for one in sorted(found, key=lambda f: str(f.path)):
        yield _known(File(shown(f"{scheme}://{one.path}" if "://" not in one.path else one.path), one, url))


def shown(source: str) -> str:
    """A path as it is; a URL, or several in a chain, without user, password and query."""
    if "://" not in source:
        return source

    def bare(url: str) -> str:
        if "://" not in url:
            return url
        parts = urlsplit(url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    return "::".join(map(bare, source.split("::")))


def _why(error: Exception) -> str:
    """What went wrong. Not what a library says of it where that may repeat the address, and what is secret in it."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    told = getattr(error, "strerror", None)
    if told is None and isinstance(error, ImportError):
        told = str(error)
    return f"{type(error).__name__}: {told}" if told else type(error).__name__


def _known(file: File) -> File:
    if not file.kind:
        raise UsageError(f"{file.name}: what is in it cannot be told from its name ({', '.join(_SUFFIXES)})")
    return file


def _unpacked(raw: IO[bytes], name: str) -> IO[bytes]:
    if name.lower().endswith(".gz"):
        return io.BufferedReader(_Packed(raw, lambda: zlib.decompressobj(31)), _BUFFER)
    if name.lower().endswith(".zst"):
        try:
            import zstandard
        except ImportError:
            raise MissingExtra("zstd logs need zstandard: pip install 'understudy[logs]'") from None
        return io.BufferedReader(_Packed(raw, lambda: zstandard.ZstdDecompressor().decompressobj()), _BUFFER)
    return raw


class _Packed(io.RawIOBase):
    """Frame after frame of gzip or zstd, as far as they go.

    EOFError where the last one is not whole: zstandard's own reader lets that pass, and gzip's keeps what came before.
    """

    def __init__(self, raw: IO[bytes], make: Callable[[], Any]) -> None:
        self._raw, self._make = raw, make
        self._frame, self._ready, self._rest = make(), memoryview(b""), b""
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
                packed = packed.lstrip(b"\0")  # padding between frames
                if not packed:
                    continue
                self._frame = self._make()
            self._ready = memoryview(self._frame.decompress(packed))
            self._whole, self._rest = self._frame.eof, self._frame.unused_data
        part, self._ready = self._ready[: len(room)], self._ready[len(room) :]
        room[: len(part)] = part
        return len(part)


def lines(stream: IO[bytes], name: str, tally: Tally, blank: bool = False) -> Iterator[tuple[int, bytes]]:
    """(number from 1, line) of every line, those that are `blank` only on request. A line that is too long is rejected,
    not held.
    """
    number = 0
    with told(name, lambda: number + 1, tally):
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


@contextmanager
def told(name: str, number: Callable[[], int], tally: Tally) -> Iterator[None]:
    """A file is read in here. Where that fails it goes no further, and is rejected at line `number`."""
    try:
        yield
    except (EOFError, zlib.error):
        tally.reject(name, number(), _CUT)
    except OSError as error:
        tally.reject(name, number(), f"the file cannot be read any further ({type(error).__name__})")
    except Exception as error:
        if type(error).__module__.partition(".")[0] != "zstandard":
            raise
        tally.reject(name, number(), _CUT)
