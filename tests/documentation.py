"""Real texts that every Python has: sentences of the standard library's documentation, and what each is about."""

from __future__ import annotations

import importlib
import re
from functools import cache

import numpy as np

TOPICS = (
    ("argparse", "logging", "optparse", "cmd", "getopt", "configparser", "logging.handlers", "warnings", "traceback"),
    ("statistics", "fractions", "decimal", "random", "math", "cmath", "numbers", "datetime", "calendar", "heapq"),
    ("http.client", "socket", "ssl", "email.message", "urllib.request", "ftplib", "smtplib", "asyncio", "http.server"),
    ("pathlib", "shutil", "zipfile", "tarfile", "os", "tempfile", "gzip", "io", "glob", "fileinput", "mailbox"),
)


@cache
def sentences() -> tuple[list[str], list[int]]:
    """Sentences in a fixed random order, and the topic that each is of."""
    found: dict[str, int] = {}
    for topic, names in enumerate(TOPICS):
        for name in names:
            module = importlib.import_module(name)
            kinds = [o for o in vars(module).values() if isinstance(o, type) and o.__module__ == name]
            members = [m for kind in kinds for m in vars(kind).values()]
            functions = [o for o in vars(module).values() if getattr(o, "__module__", None) == name]
            for thing in [module, *functions, *members]:
                doc = getattr(thing, "__doc__", None)
                for part in re.split(r"(?<=[.])\s+|\n\s*\n", doc if isinstance(doc, str) else ""):
                    text = " ".join(part.split())
                    if 30 <= len(text) <= 250 and ">>>" not in text:
                        found.setdefault(text, topic)
    texts = sorted(found)
    order = np.random.default_rng(0).permutation(len(texts)).tolist()
    return [texts[i] for i in order], [found[texts[i]] for i in order]
