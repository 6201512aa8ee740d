"""Who asks: a request's headers and address become a caller, or nobody.

In this order, and never two at once: an API key, a JWT, the identity header of a trusted front proxy, the address of a
caller without any credential where a tier is declared for those. Names say where they come from (`key:`, `jwt:`,
`proxy:`, `ip:`), so that none can be another's.
"""

from __future__ import annotations

import hashlib
import ipaddress
import logging
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from understudy.errors import KeysError, ManifestError, Unauthenticated
from understudy.gateway.keys import Keys, name_fits
from understudy.gateway.tokens import Tokens
from understudy.manifest import GuardPart, Manifest, Trusted

__all__ = ["Caller", "Identity", "Unauthenticated"]

LARGEST_TOKEN = 8192  # bytes
REMEMBERED = 65_536  # keys, tokens and addresses at most, each
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_TAKEN = {"authorization", "host", "content-type", "content-length", "transfer-encoding", "connection", "cookie"}
_log = logging.getLogger(__name__)

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Headers = list[tuple[bytes, bytes]]
V = TypeVar("V")


class Caller(NamedTuple):
    """Who asks, for whom, and as what class of customer. `audit`: the owner's own audit, kept out of billing."""

    principal: str
    party: str
    tier: str
    audit: bool = False


class _Lately(Generic[V]):
    """The values used last, `REMEMBERED` of them."""

    def __init__(self) -> None:
        self._held: OrderedDict[Any, V] = OrderedDict()
        self.clear = self._held.clear

    def get(self, name: object) -> V | None:
        value = self._held.get(name)
        if value is not None:
            self._held.move_to_end(name)
        return value

    def keep(self, name: object, value: V) -> V:
        self._held[name] = value
        if len(self._held) > REMEMBERED:
            self._held.popitem(last=False)
        return value


class Identity:
    """Tells callers apart, as one manifest says. One per worker process, made after the fork; `close` it.

    `base`: the manifest's folder, where a key set's file is. `keys` is closed with it, and also where this raises
    ManifestError: where the identity section contradicts itself. `clock` gives seconds since 1970.
    """

    def __init__(self, manifest: Manifest, base: Path, keys: Keys, clock: Callable[[], float] = time.time) -> None:
        self._keys = keys
        try:
            self._prepare(manifest, base)
        except BaseException:
            keys.close()
            raise
        self._clock, self._next = clock, 0.0

    def _prepare(self, manifest: Manifest, base: Path) -> None:
        part = (manifest.guard or GuardPart()).identity
        self._tiers = _tiers(manifest)
        self._open_tier = next((tier.id for tier in manifest.tiers if tier.unauthenticated), None)
        self._key_header = part.key_header.lower().encode()
        self._jwt, self._trusted = part.jwt, part.trusted
        self._networks = _networks(part.trusted)
        names = {n: getattr(part.trusted, n) for n in ("principal", "party", "tier")} if part.trusted else {}
        self._proxy = {name: header.lower().encode() for name, header in names.items() if header is not None}
        _headers_fit({"key_header": part.key_header, **{f"trusted.{n}": h for n, h in names.items() if h is not None}})
        self._watched = frozenset({b"authorization", self._key_header, *self._proxy.values()})
        self._by_key: _Lately[tuple[Caller, float]] = _Lately()
        self._by_token: _Lately[tuple[Caller, float]] = _Lately()
        self._by_address: _Lately[tuple[bool, str | None]] = _Lately()
        self._tokens = Tokens(part.jwt, base) if part.jwt else None
        self._signed_by = self._tokens.jwks.keys if self._tokens else None

    def close(self) -> None:
        """Let go of the key database and of the thread that fetches an issuer's keys."""
        self._keys.close()
        if self._tokens:
            self._tokens.jwks.close()

    def wait(self, timeout: float) -> bool:
        """Whether an issuer's keys are there, or were asked for once in vain, within `timeout` seconds. It blocks."""
        return self._tokens is None or self._tokens.jwks.wait(timeout)

    def resolve(self, headers: Headers, client: str | None) -> Caller:
        """Who asks. `headers` as in ASGI (names in lower case), `client` the address of the connection itself.

        Raises Unauthenticated (401), and KeysError (503) where a key must be looked up and cannot be.
        """
        try:
            return self._resolve(headers, client)
        except Unauthenticated as error:
            _log.info("refused: %s (key %s)", error.why, error.key_id or "-")
            raise

    def _resolve(self, headers: Headers, client: str | None) -> Caller:
        if time.monotonic() >= self._next:
            self._look()
        found: dict[bytes, bytes] = {}
        twice = []
        for name, value in headers:
            if name in self._watched:
                if name in found:
                    twice.append(name)
                found[name] = value
        if not found:
            return self._anonymous(client)
        if self._proxy and not self._address(client)[0]:  # said by somebody who may not say it: as if it were not there
            twice = [name for name in twice if name not in self._proxy.values()]
            for name in self._proxy.values():
                found.pop(name, None)
        if twice:
            raise Unauthenticated("duplicate header")
        bearer, key = found.get(b"authorization"), found.get(self._key_header)
        named = found.get(self._proxy["principal"]) if self._proxy else None
        if (bearer is not None) + (key is not None) + (named is not None) > 1:
            raise Unauthenticated("two credentials")
        if bearer is not None:
            token = bearer[7:]
            if bearer[:7].lower() != b"bearer " or not token or b" " in token:
                raise Unauthenticated("malformed header")
            return self._holder(token) if token[:3] == b"us_" else self._bearer(token)
        if key is not None:
            return self._holder(key)
        return self._anonymous(client) if named is None else self._vouched(found)

    def _look(self) -> None:
        """Notice keys that were made or revoked, and key sets that changed; called once a second at most."""
        try:
            if self._keys.changed():
                self._by_key.clear()
        except KeysError:
            self._by_key.clear()  # what was remembered may have been revoked: each look-up says what is wrong
        if self._tokens:
            self._tokens.jwks.look()
            if self._tokens.jwks.keys is not self._signed_by:
                self._signed_by = self._tokens.jwks.keys
                self._by_token.clear()
        self._next = time.monotonic() + 1.0

    def _holder(self, token: bytes) -> Caller:
        if len(token) > LARGEST_TOKEN:
            raise Unauthenticated("oversized token")
        digest, now = hashlib.sha256(token).digest(), self._clock()
        known = self._by_key.get(digest)
        if known is not None and now < known[1]:
            return known[0]
        key, until = self._keys.lookup(token, now)
        if key.tier not in self._tiers:
            raise Unauthenticated("unknown tier", key.id)
        caller = Caller(f"key:{key.principal}", f"key:{key.party}", key.tier, key.audit)
        return self._by_key.keep(digest, (caller, until))[0]

    def _bearer(self, token: bytes) -> Caller:
        if self._tokens is None or self._jwt is None:
            raise Unauthenticated("no tokens are taken here")
        if len(token) > LARGEST_TOKEN:
            raise Unauthenticated("oversized token")
        digest, now = hashlib.sha256(token).digest(), self._clock()
        known = self._by_token.get(digest)
        if known is not None and now < known[1]:
            return known[0]
        claims, until = self._tokens.verify(token, now)
        part = self._jwt
        principal = f"jwt:{_name(claims.get(part.principal))}"
        party = f"jwt:{_name(claims.get(part.party))}" if part.party else principal
        tier = claims.get(part.tier, part.default_tier) if part.tier else part.default_tier
        caller = Caller(principal, party, self._tier(tier))
        return self._by_token.keep(digest, (caller, until))[0]

    def _vouched(self, found: dict[bytes, bytes]) -> Caller:
        part, said = self._trusted, {name: _text(found[h]) for name, h in self._proxy.items() if h in found}
        assert part is not None
        principal = f"proxy:{_name(said['principal'])}"
        party = f"proxy:{_name(said.get('party'))}" if part.party else principal
        return Caller(principal, party, self._tier(said.get("tier", part.default_tier)))

    def _anonymous(self, client: str | None) -> Caller:
        if self._open_tier is None:
            raise Unauthenticated("no credential")
        principal = self._address(client)[1]
        if principal is None:
            raise Unauthenticated("no client address")
        return Caller(principal, principal, self._open_tier)

    def _address(self, client: str | None) -> tuple[bool, str | None]:
        """Whether an address may vouch for callers, and the principal of a caller who is only known by it."""
        if client is None:
            return False, None
        known = self._by_address.get(client)
        if known is not None:
            return known
        try:
            ip = ipaddress.ip_address(client.partition("%")[0])
        except ValueError:
            return False, None
        if isinstance(ip, ipaddress.IPv6Address):
            ip = ip.ipv4_mapped or ip
        network = ipaddress.ip_network((ip, 64), strict=False) if ip.version == 6 else ip
        return self._by_address.keep(client, (any(ip in n for n in self._networks), f"ip:{network}"))

    def _tier(self, named: object) -> str:
        if not isinstance(named, str) or named not in self._tiers:
            raise Unauthenticated("unknown tier")
        return named


def _name(said: object) -> str:
    """A caller's or organisation's name out of a token or header."""
    if not isinstance(said, str) or not name_fits(said):
        raise Unauthenticated("malformed name")
    return said


def _text(value: bytes) -> str:
    """One header's text. A comma means that two headers were joined into one on the way."""
    if len(value) > LARGEST_TOKEN or b"," in value:
        raise Unauthenticated("malformed header")
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise Unauthenticated("malformed header") from None


def _tiers(manifest: Manifest) -> frozenset[str]:
    """The tiers' ids. Raises ManifestError where the identity section names others, or leaves a caller's tier open."""
    tiers = frozenset(tier.id for tier in manifest.tiers)
    unnamed = [tier.id for tier in manifest.tiers if tier.unauthenticated]
    if len(unnamed) > 1:
        raise ManifestError(f"tiers: {' and '.join(unnamed)} are all unauthenticated; at most one can be")
    part = (manifest.guard or GuardPart()).identity
    for name, section in (("jwt", part.jwt), ("trusted", part.trusted)):
        if section is None:
            continue
        if section.default_tier is not None and section.default_tier not in tiers:
            allowed = ", ".join(sorted(tiers))
            raise ManifestError(f"guard.identity.{name}.default_tier: no such tier (tiers: {allowed})")
        if section.tier is None and section.default_tier is None:
            raise ManifestError(f"guard.identity.{name}: give tier, default_tier, or both: callers need a tier")
    return tiers


def _networks(part: Trusted | None) -> tuple[Network, ...]:
    found: list[Network] = []
    for i, text in enumerate(part.addresses if part else ()):
        try:
            network = ipaddress.ip_network(text)
        except ValueError as error:
            raise ManifestError(f"guard.identity.trusted.addresses.{i}: {error}") from None
        if not network.prefixlen:
            raise ManifestError(f"guard.identity.trusted.addresses.{i}: {text} would believe everybody")
        found.append(network)
    return tuple(found)


def _headers_fit(named: dict[str, str]) -> None:
    """Raise ManifestError where a header's name is none, is taken, or is given twice."""
    seen: set[str] = set()
    for where, header in named.items():
        if not _HEADER.fullmatch(header) or header.lower() in _TAKEN:
            raise ManifestError(f"guard.identity.{where}: {header!r} cannot be the name of this header")
        if header.lower() in seen:
            raise ManifestError(f"guard.identity.{where}: {header!r} is the name of two headers")
        seen.add(header.lower())
