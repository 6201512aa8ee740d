"""JWTs: the issuer's public keys, and what a token signed by one of them says.

Algorithms are pinned by the manifest and bound to keys of their own kind when the key set is read, so no token can
choose how it is verified. Nothing in a token's header is ever fetched or opened; `kid` is only looked up.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from understudy.errors import ManifestError, MissingExtra, Unauthenticated
from understudy.manifest import Jwt

if TYPE_CHECKING:
    from jwt import PyJWK

    KeySet = Mapping[tuple[str | None, str], PyJWK]  # (kid, algorithm) -> public key

LEEWAY = 30.0  # seconds that clocks may differ
LARGEST_SET, MOST_KEYS = 256 * 1024, 100  # bytes, keys
REFRESH, SOONEST, RETRY = 300.0, 60.0, 10.0  # seconds: as a rule, for an unknown kid, after a failure
TIMEOUT, DEADLINE = 5.0, 15.0  # seconds: for each read, for the whole fetch
_NEVER = 1e12  # seconds since 1970 that no honest token names; NaN is not under it either
_KINDS = {
    ("RSA", None): {"RS256", "RS384", "RS512", "PS256"},
    ("EC", "P-256"): {"ES256"},
    ("EC", "P-384"): {"ES384"},
    ("OKP", "Ed25519"): {"EdDSA"},
}
_WHY = {
    "InvalidSignatureError": "bad signature",
    "InvalidIssuerError": "wrong issuer",
    "InvalidAudienceError": "wrong audience",
    "MissingRequiredClaimError": "missing claim",
}
_log = logging.getLogger(__name__)


def read_keys(body: bytes, algorithms: list[str]) -> KeySet:
    """The usable public keys of a JWKS. Those of other uses, other kinds, or under 2048 bits of RSA are left out.

    Raises ValueError where it is not a key set, is too large, or holds a private or shared key: such a set is public
    by mistake.
    """
    from jwt import PyJWK

    if len(body) > LARGEST_SET:
        raise ValueError(f"larger than {LARGEST_SET:,} bytes")
    try:
        listed = json.loads(body)["keys"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError('not a key set ({"keys": [...]})') from None
    if not isinstance(listed, list) or len(listed) > MOST_KEYS or not all(isinstance(jwk, dict) for jwk in listed):
        raise ValueError(f"not a list of at most {MOST_KEYS} keys")
    if any("d" in jwk or "k" in jwk for jwk in listed):
        raise ValueError("holds a private or shared key; serve public keys only, and replace that key")
    found: dict[tuple[str | None, str], PyJWK] = {}
    for jwk in listed:
        kid, kty, crv, use, bound = said = [jwk.get(name) for name in ("kid", "kty", "crv", "use", "alg")]
        ops = jwk.get("key_ops", ["verify"])
        if not all(isinstance(x, str | None) for x in said) or use not in {None, "sig"} or not isinstance(ops, list):
            continue
        fitting = _KINDS.get((kty, None if kty == "RSA" else crv), set()) & set(algorithms)
        for algorithm in fitting if "verify" in ops else ():
            if bound not in {None, algorithm}:
                continue
            try:
                key = PyJWK(jwk, algorithm)
            except Exception:  # whatever is wrong with it, it is no key
                break
            if kty != "RSA" or key.key.key_size >= 2048:
                found.setdefault((kid, algorithm), key)
    return found


class Jwks:
    """An issuer's key set: a file, read again when it changes, or an https URL, fetched by a thread.

    `keys` is replaced as a whole, never changed. One that cannot be read is logged and leaves the one before in force.
    """

    def __init__(self, where: str, base: Path, algorithms: list[str]) -> None:
        self.keys: KeySet = {}
        self._algorithms = algorithms
        self._first, self._wanted, self._closing = threading.Event(), threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        if where.startswith("https://"):
            self._url = where
            self._thread = threading.Thread(target=self._keep, name="jwks", daemon=True)
            self._thread.start()
        elif "://" in where:
            raise ManifestError("guard.identity.jwt.jwks: give an https:// URL, or a file relative to the manifest")
        else:
            self._path, self._stamp = base / where, (0, 0, 0)
            try:
                self._read()
            except (OSError, ValueError) as error:
                raise ManifestError(f"guard.identity.jwt.jwks: {self._path}: {_short(error)}") from None

    def find(self, kid: str | None, algorithm: str) -> PyJWK | None:
        """The key of that id; without an id, the only key of that algorithm."""
        if kid is not None:
            return self.keys.get((kid, algorithm))
        fitting = [key for (_, a), key in self.keys.items() if a == algorithm]
        return fitting[0] if len(fitting) == 1 else None

    def missed(self) -> None:
        """Somebody named an unknown key: fetch the set again, a minute after the last time at the soonest."""
        self._wanted.set()

    def look(self) -> None:
        """Read the file again where it changed: some microseconds where it did not. Nothing to do for a URL."""
        if self._thread is None:
            try:
                self._read()
            except (OSError, ValueError) as error:
                _log.error("%s: %s; the key set before stays in force", self._path, _short(error))

    def wait(self, timeout: float) -> bool:
        """Whether the set was there, or one attempt to fetch it was made, within `timeout` seconds."""
        return self._thread is None or self._first.wait(timeout)

    def close(self) -> None:
        """End the thread; one that is in the middle of a fetch ends after it."""
        self._closing.set()
        self._wanted.set()
        if self._thread is not None:
            self._thread.join(1.0)

    def _read(self) -> None:
        found = os.stat(self._path)
        stamp = found.st_mtime_ns, found.st_size, found.st_ino
        if stamp == self._stamp:
            return
        self._stamp = stamp  # also where it is no use: complained of once, read again when it changes again
        with self._path.open("rb") as file:
            self.keys = read_keys(file.read(LARGEST_SET + 1), self._algorithms)

    def _keep(self) -> None:
        while True:
            good = False
            try:
                self.keys = read_keys(_fetch(self._url), self._algorithms)
                good = True
            except Exception as error:  # a thread that dies would leave the set as it is for ever
                _log.warning("the key set at guard.identity.jwt.jwks cannot be fetched: %s", _short(error))
            self._first.set()
            if self._closing.wait(SOONEST if good else RETRY):
                return
            if good:
                self._wanted.wait(REFRESH - SOONEST)
            if self._closing.is_set():
                return
            self._wanted.clear()


def _fetch(url: str) -> bytes:
    """What is at a URL: certificate checked, no redirect followed, bounded in bytes and seconds. Raises ValueError."""
    import urllib3

    until = time.monotonic() + DEADLINE
    with urllib3.PoolManager(cert_reqs="CERT_REQUIRED", retries=False, timeout=TIMEOUT) as pool:
        head = {"Accept": "application/json", "Accept-Encoding": "identity"}
        response = pool.request("GET", url, headers=head, redirect=False, preload_content=False, decode_content=False)
        try:
            if response.status != 200:
                raise ValueError(f"HTTP {response.status}")
            body = b""
            while more := response.read1(65_536, decode_content=False):
                body += more
                if len(body) > LARGEST_SET or time.monotonic() > until:
                    raise ValueError(f"larger than {LARGEST_SET:,} bytes, or slower than {DEADLINE:.0f} s")
            return body
        finally:
            response.close()


def _short(error: Exception) -> str:
    """An error's reason without addresses or contents."""
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return str(error) if type(error) is ValueError else type(error).__name__


class Tokens:
    """Verifies JWTs as the manifest says. Raises ManifestError for a key set that is no use."""

    def __init__(self, part: Jwt, base: Path) -> None:
        try:
            import jwt
        except ModuleNotFoundError:
            raise MissingExtra("guard.identity.jwt needs PyJWT: pip install 'understudy[guard]'") from None
        self._part, self._algorithms = part, frozenset(part.algorithms)
        self._library = jwt
        self.jwks = Jwks(part.jwks, base, list(part.algorithms))

    def verify(self, token: bytes, now: float) -> tuple[Mapping[str, Any], float]:
        """A token's claims and its `exp`. Raises Unauthenticated for everything that is not as it should be."""
        try:
            head = self._library.get_unverified_header(token)
        except Exception:  # whatever a hostile token brings about, it is refused
            raise Unauthenticated("malformed token") from None
        algorithm, kid = head.get("alg"), head.get("kid")
        if not isinstance(algorithm, str) or algorithm not in self._algorithms:
            raise Unauthenticated("algorithm not allowed")
        if not isinstance(kid, str | None) or "crit" in head or "b64" in head:
            raise Unauthenticated("malformed token")
        key = self.jwks.find(kid, algorithm)
        if key is None:
            self.jwks.missed()
            raise Unauthenticated("unknown signing key")
        try:
            claims: dict[str, Any] = self._library.decode(
                token,
                key,
                [algorithm],
                {"require": ["exp", "iss", "aud"], "verify_exp": False, "verify_nbf": False, "verify_iat": False},
                audience=self._part.audience,
                issuer=self._part.issuer,
            )
        except Exception as error:
            raise Unauthenticated(_WHY.get(type(error).__name__, "malformed token")) from None
        return claims, _in_force(claims, now)


def _in_force(claims: Mapping[str, Any], now: float) -> float:
    """The `exp` of a token that is valid at `now`, give or take the leeway."""
    times = {name: claims[name] for name in ("exp", "nbf", "iat") if name in claims}
    if any(isinstance(t, bool) or not isinstance(t, int | float) or not abs(t) < _NEVER for t in times.values()):
        raise Unauthenticated("malformed token")
    if now >= times["exp"] + LEEWAY:
        raise Unauthenticated("expired token")
    if any(t > now + LEEWAY for name, t in times.items() if name != "exp"):
        raise Unauthenticated("token not yet valid")
    return float(times["exp"])
