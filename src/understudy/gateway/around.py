"""`--check-upstream`: can the model server be reached around the guard?"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import numpy as np

from understudy.errors import AnswerError, TargetError
from understudy.gateway.service import Service

_LISTENING = "0A"


class Remark(NamedTuple):
    """One thing found. `open`: whether it is a way around the guard."""

    open: bool
    text: str


def check(service: Service) -> list[Remark]:
    """What can be said from this machine: who can connect to the upstream, and whether it answers without a credential.

    One query is asked, without the manifest's headers. Loopback is no way around: who is on this machine reads the
    guard's folder too. It is no proof: neither a firewall nor a forwarder elsewhere is seen.
    """
    from understudy.targets.http import HttpTarget

    url = urlsplit(service.http.url)
    host, port = url.hostname or "", url.port or (443 if url.scheme == "https" else 80)
    remarks = list(_listeners(host, port))
    elsewhere = any(remark.open for remark in remarks)
    who = "whoever connects" if elsewhere else "whoever connects from this machine"
    target = HttpTarget(service.http.url, service.codec, service.exposure, service.space, timeout_s=10, retries=0)
    try:
        target.query(service.space.sample(1, np.random.default_rng(0)))
    except AnswerError:
        remarks.append(Remark(elsewhere, f"it answers {who} without a credential, though not as the manifest says"))
    except TargetError as error:
        remarks.append(Remark(False, f"it did not answer a request without a credential ({error})"))
    else:
        remarks.append(Remark(elsewhere, f"it answers {who}: it asks for no credential"))
    return remarks


def _listeners(host: str, port: int) -> Iterator[Remark]:
    """Where a local upstream listens; for another machine, that others may reach it as this one does."""
    try:
        addresses = {info[4][0] for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    except OSError as error:
        yield Remark(False, f"{host} cannot be resolved from here: {error.strerror}")
        return
    if not all(ipaddress.ip_address(a).is_loopback for a in addresses):
        yield Remark(True, f"{host}:{port} is not a loopback address: whoever can route to it can connect")
        return
    bound = set(_bound(port))
    outside = sorted(a for a in bound if not ipaddress.ip_address(a).is_loopback)
    if outside:
        yield Remark(True, f"port {port} listens on {', '.join(outside)}: other machines can connect")
    elif bound:
        yield Remark(False, f"port {port} listens on loopback only: connections come from this machine")
    else:
        yield Remark(False, f"nothing listens on port {port} here")


def _bound(port: int) -> Iterator[str]:
    """Addresses on which this machine's kernel listens at a port (Linux)."""
    for name in ("tcp", "tcp6"):
        table = Path("/proc/net") / name
        for line in table.read_text().splitlines()[1:] if table.exists() else ():
            local, state = line.split()[1], line.split()[3]
            address, _, at = local.partition(":")
            if state == _LISTENING and int(at, 16) == port:
                words = bytes.fromhex(address)
                yield str(ipaddress.ip_address(b"".join(words[i : i + 4][::-1] for i in range(0, len(words), 4))))
