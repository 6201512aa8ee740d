"""JWTs with real signatures: what is forged, stale, or meant for somebody else opens nothing."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from issuer import (
    AUDIENCE,
    EC,
    ED,
    ISSUER,
    OTHER_RSA,
    RSA,
    SMALL_RSA,
    Issuer,
    claims,
    jwt_part,
    public,
    signed,
    write_manifest,
)
from jwt.algorithms import RSAAlgorithm

from understudy.errors import ManifestError, Unauthenticated
from understudy.gateway import identity as room
from understudy.gateway import tokens
from understudy.gateway.identity import Caller, Identity
from understudy.gateway.keys import Keys, path_of


class Desk:
    """An identity that takes tokens, and a clock that can be moved."""

    def __init__(self, folder: Path, **part: Any) -> None:
        manifest, path = write_manifest(folder, jwt_part(folder, **part))
        self.ahead, self.verified = 0.0, 0
        self.who = Identity(manifest, folder, Keys(path_of(manifest, path)), lambda: time.time() + self.ahead)
        assert self.who._tokens is not None
        self.tokens = self.who._tokens

    def ask(self, token: bytes) -> Caller:
        return self.who.resolve([(b"authorization", b"Bearer " + token)], "192.0.2.7")

    def refused(self, token: bytes) -> str:
        with pytest.raises(Unauthenticated) as caught:
            self.ask(token)
        return caught.value.why

    def later(self) -> None:
        self.who._next = 0.0


@pytest.fixture
def open_desk(tmp_path: Path) -> Iterator[Callable[..., Desk]]:
    made: list[Desk] = []

    def make(**part: Any) -> Desk:
        made.append(Desk(tmp_path, **part))
        return made[-1]

    yield make
    for desk in made:
        desk.who.close()


@pytest.fixture
def desk(open_desk: Callable[..., Desk]) -> Desk:
    return open_desk()


def b64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def by_hand(head: object, body: object, sign: Callable[[bytes], bytes]) -> bytes:
    """A token that no honest library would make."""
    text = b64(json.dumps(head).encode()) + b"." + b64(json.dumps(body).encode())
    return text + b"." + b64(sign(text))


@pytest.mark.parametrize(("key", "algorithm", "kid"), [(RSA, "RS256", "r"), (EC, "ES256", "e"), (ED, "EdDSA", "o")])
def test_a_token_that_the_issuer_signed_is_believed(desk: Desk, key: Any, algorithm: str, kid: str) -> None:
    expected = Caller("jwt:alice", "jwt:alice", "standard")
    assert desk.ask(signed(key, algorithm, kid)) == expected
    assert desk.ask(signed(key, algorithm, None)) == expected  # the only key of that algorithm


def test_claims_are_read_as_the_manifest_says(open_desk: Callable[..., Desk]) -> None:
    desk = open_desk(principal="client_id", party="org", tier="plan", default_tier="public")
    said = {"client_id": "app-7", "org": "acme", "sub": None, "tier": None, "aud": ["elsewhere", AUDIENCE]}
    assert desk.ask(signed(**said, plan="partner")) == Caller("jwt:app-7", "jwt:acme", "partner")
    assert desk.ask(signed(**said)).tier == "public"  # declared for tokens that name none
    assert desk.refused(signed(**said, plan="gold")) == "unknown tier"
    assert desk.refused(signed(**{**said, "org": None}, plan="partner")) == "malformed name"


FORGED = {
    "bad signature": [
        lambda: signed(OTHER_RSA),
        lambda: signed()[:-4] + b"AAAA",
        lambda: signed(tier="public").rpartition(b".")[0] + b"." + signed().rpartition(b".")[2],
        lambda: by_hand({"alg": "RS256", "kid": "r"}, claims(), lambda text: b""),
    ],
    "algorithm not allowed": [
        lambda: by_hand({"alg": "none"}, claims(), lambda text: b""),
        lambda: by_hand({"alg": "None", "kid": "r"}, claims(), lambda text: b""),
        lambda: by_hand({"alg": "", "kid": "r"}, claims(), lambda text: b""),
        lambda: by_hand({"alg": ["RS256"], "kid": "r"}, claims(), lambda text: b""),
        lambda: by_hand({"kid": "r"}, claims(), lambda text: b""),
        lambda: b"e30.e30.",
        lambda: signed(RSA, "RS384"),  # a good signature, by an algorithm that is not pinned
        lambda: signed(RSA, "PS256"),
        lambda: confused(pem=True),
        lambda: confused(pem=False),
    ],
    "unknown signing key": [
        lambda: signed(kid="R"),
        lambda: signed(kid=""),
        lambda: signed(kid="../../../../etc/passwd"),
        lambda: signed(kid="jwks.json"),
        lambda: signed(kid="https://evil.example/jwks.json"),
        lambda: signed(kid="r' OR '1'='1"),
        lambda: signed(kid="r\x00"),
        lambda: signed(kid="e"),  # the id of a key of another algorithm
        lambda: signed(EC, "ES256", "r"),
        lambda: signed(OTHER_RSA, kid="own", head={"jwk": public(OTHER_RSA, "own")}),
        lambda: signed(OTHER_RSA, kid="own", head={"jku": "https://evil.example/jwks.json", "x5u": "file:///x"}),
    ],
    "malformed token": [
        lambda: by_hand({"alg": "RS256", "kid": ["r"]}, claims(), lambda text: b""),
        lambda: by_hand({"alg": "RS256", "kid": {"$ne": 1}}, claims(), lambda text: b""),
        lambda: by_hand([], claims(), lambda text: b""),
        lambda: rs256({"crit": ["exp"], "exp": 1}, claims()),
        lambda: rs256({"b64": True, "crit": ["b64"]}, claims()),
        lambda: rs256({}, [1]),
        lambda: rs256({}, claims(exp="9999999999")),
        lambda: rs256({}, claims(exp=True)),
        lambda: rs256({}, claims(exp=float("nan"))),
        lambda: rs256({}, claims(exp=float("inf"))),
        lambda: rs256({}, claims(exp=10**400)),
        lambda: rs256({}, claims(nbf="0")),
        lambda: b"e30",
        lambda: b"....",
        lambda: signed() + b".x",
        lambda: b64(b"[" * 4000) + b".e30.e30",
        lambda: b"\xff.\xff.\xff",
    ],
    "expired token": [lambda: signed(exp=int(time.time()) - 31), lambda: signed(exp=0), lambda: signed(exp=-1)],
    "token not yet valid": [
        lambda: signed(nbf=int(time.time()) + 60),
        lambda: signed(iat=int(time.time()) + 60),
        lambda: rs256({}, claims(nbf=int(time.time()) + 60, iat=0)),
    ],
    "wrong issuer": [lambda: signed(iss="https://issuer.example/"), lambda: signed(iss="https://evil.example")],
    "wrong audience": [lambda: signed(aud="other"), lambda: signed(aud=["other"]), lambda: signed(aud="risk-scor")],
    "missing claim": [lambda: signed(exp=None), lambda: signed(iss=None), lambda: signed(aud=None)],
    "malformed name": [
        lambda: signed(sub=None),
        lambda: signed(sub=""),
        lambda: signed(sub="x" * 129),
        lambda: signed(sub="a\nb"),
        lambda: signed(sub="\ud800"),
    ],
    "unknown tier": [
        lambda: signed(tier=None),
        lambda: signed(tier="gold"),
        lambda: signed(tier=["public"]),
        lambda: rs256({}, {**claims(), "tier": None}),
    ],
    "oversized token": [lambda: signed(pad="x" * 8192)],
}  # fmt: skip


def rs256(head: dict[str, Any], body: object) -> bytes:
    """Whatever body, with the issuer's own good signature."""
    algorithm = RSAAlgorithm(RSAAlgorithm.SHA256)
    return by_hand({"alg": "RS256", "kid": "r", **head}, body, lambda text: algorithm.sign(text, RSA))


def confused(pem: bool) -> bytes:
    """HS256 with the public key as the shared secret: the classic."""
    shape = (
        serialization.Encoding.PEM if pem else serialization.Encoding.DER,
        serialization.PublicFormat.SubjectPublicKeyInfo,
    )
    secret = RSA.public_key().public_bytes(*shape)
    return by_hand({"alg": "HS256", "kid": "r"}, claims(), lambda t: hmac.new(secret, t, hashlib.sha256).digest())


@pytest.mark.parametrize(
    ("why", "make"),
    [pytest.param(why, make, id=f"{why}-{i}") for why, all_ in FORGED.items() for i, make in enumerate(all_)],
)
def test_everything_else_is_refused(desk: Desk, why: str, make: Callable[[], bytes]) -> None:
    token = make()
    assert desk.refused(token) == why
    assert desk.refused(token) == why  # and is not remembered as anything else
    assert desk.ask(signed()).principal == "jwt:alice"


def test_clocks_may_differ_a_little(desk: Desk) -> None:
    now = int(time.time())
    assert desk.ask(signed(exp=now - 20, nbf=now + 20, iat=now + 20)).principal == "jwt:alice"


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_change_to_a_token_is_believed(desk: Desk, data: st.DataObject) -> None:
    token = bytearray(signed())
    at = data.draw(st.integers(0, len(token) - 1))
    was, token[at] = token[at], data.draw(st.integers(0, 255))
    if token[at] != was:
        desk.refused(bytes(token))


def test_a_verified_token_is_remembered_until_it_expires(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    verified = []
    verify = desk.tokens.verify
    monkeypatch.setattr(desk.tokens, "verify", lambda token, now: verified.append(1) or verify(token, now))
    token = signed(exp=int(time.time()) + 100)
    assert desk.ask(token) == desk.ask(token)
    assert len(verified) == 1
    desk.ahead = 101
    desk.ask(token), desk.ask(token)
    assert len(verified) == 3  # within the leeway it is verified each time
    desk.ahead = 131
    assert desk.refused(token) == "expired token"


def test_what_is_remembered_is_bounded(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "REMEMBERED", 3)
    made = [signed(sub=f"user-{i}") for i in range(6)]
    for token in made:
        desk.ask(token)
        desk.ask(made[0])
    assert len(desk.who._by_token._held) == 3
    assert hashlib.sha256(made[0]).digest() in desk.who._by_token._held


def test_a_key_taken_out_of_the_file_ends_its_tokens(desk: Desk, tmp_path: Path) -> None:
    token, other = signed(), signed(EC, "ES256", "e")
    desk.ask(token)
    (tmp_path / "jwks.json").write_text(json.dumps({"keys": [public(EC, "e"), public(OTHER_RSA, "r2")]}))
    desk.later()
    assert desk.refused(token) == "unknown signing key"
    assert desk.ask(other) == desk.ask(signed(OTHER_RSA, kid="r2"))
    (tmp_path / "jwks.json").write_text('{"keys": []}')
    desk.later()
    assert desk.refused(other) == "unknown signing key"


def test_a_damaged_file_leaves_the_keys_before_in_force(
    desk: Desk, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for damage in ("", "{", "[]", '{"keys": 1}', "x" * 300_000):
        (tmp_path / "jwks.json").write_text(damage)
        desk.later()
        assert desk.ask(signed()).principal == "jwt:alice"
    (tmp_path / "jwks.json").unlink()
    desk.later()
    assert desk.ask(signed()).principal == "jwt:alice"
    assert caplog.text.count("stays in force") == 6


@pytest.mark.parametrize(
    "jwk",
    [
        public(RSA, "x", use="enc"),
        public(RSA, "x", alg="RS512"),
        public(RSA, "x", key_ops=["encrypt"]),
        public(SMALL_RSA, "x"),
        {**public(RSA, "x"), "n": "!"},
        {**public(EC, "x"), "crv": "P-521"},
        {**public(EC, "x"), "y": public(EC, "x")["x"]},
        {**public(RSA, "x"), "kty": ["RSA"]},
        {"kid": "x"},
    ],
)
def test_keys_of_no_use_are_left_out(jwk: dict[str, Any]) -> None:
    body = json.dumps({"keys": [jwk, public(ED, "good")]}).encode()
    assert set(tokens.read_keys(body, ["RS256", "ES256", "EdDSA"])) == {("good", "EdDSA")}


@pytest.mark.parametrize("where", ["missing.json", "http://issuer.example/jwks", "file:///etc/jwks", "private.json"])
def test_a_key_set_that_is_no_use_is_refused_at_the_start(tmp_path: Path, where: str) -> None:
    private = RSAAlgorithm.to_jwk(RSA, as_dict=True)
    (tmp_path / "private.json").write_text(json.dumps({"keys": [private]}))
    part = {"jwks": where, "issuer": ISSUER, "audience": AUDIENCE}
    manifest, path = write_manifest(tmp_path, {"jwt": part})
    with pytest.raises(ManifestError, match=r"guard\.identity\.jwt\.jwks") as caught:
        Identity(manifest, tmp_path, Keys(path_of(manifest, path)))
    assert private["d"] not in str(caught.value)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(["RSA", "EC", "OKP", "P-256"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["keys", "kty", "kid", "crv", "x", "y", "n", "e", "use", "alg", "key_ops"]), inner, max_size=6
    ), max_leaves=12,
).map(lambda body: json.dumps({"keys": [body]}).encode()))  # fmt: skip
def test_any_bytes_are_a_key_set_or_a_value_error(body: bytes) -> None:
    try:
        found = tokens.read_keys(body, ["RS256", "ES256", "EdDSA"])
    except ValueError:
        return
    assert not found


# An issuer on the network


@pytest.fixture
def issuer(tmp_path: Path) -> Iterator[Issuer]:
    made = Issuer(tmp_path)
    yield made
    made.close()


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 15
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_issuers_keys_are_fetched_and_fetched_again_for_an_unknown_key(
    issuer: Issuer, open_desk: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(issuer.certificate))
    monkeypatch.setattr(tokens, "SOONEST", 0.5)
    began = time.monotonic()
    desk = open_desk(jwks=issuer.url)
    assert desk.who.wait(15)
    old = signed()
    assert desk.ask(old).principal == "jwt:alice"
    issuer.body = json.dumps({"keys": [public(OTHER_RSA, "next")]}).encode()
    new = signed(OTHER_RSA, kid="next")
    for _ in range(50):
        assert desk.refused(signed(kid="nobody")) == "unknown signing key"
    assert issuer.asked <= 1 + (time.monotonic() - began) / 0.5  # not before its time, however often it is wanted
    until(lambda: ("next", "RS256") in desk.tokens.jwks.keys)
    assert 2 <= issuer.asked <= 1 + (time.monotonic() - began) / 0.5
    assert desk.ask(new).principal == "jwt:alice"
    desk.later()
    assert desk.refused(old) == "unknown signing key"  # remembered tokens end with the key that signed them


def test_an_issuer_that_is_away_is_outlived(
    issuer: Issuer, open_desk: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(issuer.certificate))
    monkeypatch.setattr(tokens, "RETRY", 0.1)
    issuer.status = 503
    desk = open_desk(jwks=issuer.url)
    assert desk.who.wait(15)
    assert desk.refused(signed()) == "unknown signing key"
    issuer.status = 200
    until(lambda: bool(desk.tokens.jwks.keys))
    assert desk.ask(signed()).principal == "jwt:alice"
    assert "HTTP 503" in caplog.text


@pytest.mark.parametrize("case", ["untrusted", "redirect", "large", "damaged"])
def test_what_an_issuer_may_not_do(issuer: Issuer, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", os.devnull if case == "untrusted" else str(issuer.certificate))
    issuer.status = 302 if case == "redirect" else 200
    issuer.body = {"large": b"x" * 300_000, "damaged": b"<html>"}.get(case, issuer.body)
    expected: type[Exception] = Exception if case == "untrusted" else ValueError
    with pytest.raises(expected):
        tokens.read_keys(tokens._fetch(issuer.url), ["RS256"])
    assert issuer.asked == (0 if case == "untrusted" else 1)
