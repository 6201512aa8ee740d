"""Who asks: keys, tokens, a trusted proxy, an address; one credential, never two; never a tier by default."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from issuer import jwt_part, signed, write_manifest

from understudy.errors import KeysError, ManifestError, Unauthenticated
from understudy.gateway.identity import Caller, Identity
from understudy.gateway.keys import Keys, path_of

TRUSTED = {"addresses": ["10.1.0.0/16", "::1/128"], "principal": "X-Principal", "party": "x-org", "tier": "x-tier"}
PROXY = "10.1.2.3"


class Gate:
    """An identity, the key database beside it, and a clock that can be moved."""

    def __init__(self, folder: Path, unauthenticated: tuple[str, ...] = (), **identity: Any) -> None:
        manifest, self.path = write_manifest(folder, identity, unauthenticated)
        self.keys = Keys(path_of(manifest, self.path))
        self.ahead = 0.0
        self.who = Identity(manifest, folder, Keys(self.keys.path), lambda: time.time() + self.ahead)

    def ask(self, *headers: tuple[str, str | bytes], client: str | None = "192.0.2.7") -> Caller:
        sent = [(n.encode(), v if isinstance(v, bytes) else v.encode()) for n, v in headers]
        return self.who.resolve([(b"host", b"x"), *sent, (b"accept", b"*/*")], client)

    def refused(self, *headers: tuple[str, str | bytes], client: str | None = "192.0.2.7") -> str:
        with pytest.raises(Unauthenticated) as caught:
            self.ask(*headers, client=client)
        assert str(caught.value) == "invalid or missing credential"
        assert (caught.value.status, caught.value.headers["www-authenticate"]) == (401, "Bearer")
        return caught.value.why

    def later(self) -> None:
        """As if a second had passed since the databases were looked at."""
        self.who._next = 0.0
        self.who._keys._checked -= 2

    def close(self) -> None:
        self.who.close()
        self.keys.close()


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    made = Gate(tmp_path, trusted=TRUSTED, **jwt_part(tmp_path))
    yield made
    made.close()


def test_a_key_is_believed_in_either_header(gate: Gate) -> None:
    token = gate.keys.add("standard", "acme")
    expected = Caller("key:acme-1", "key:acme", "standard")
    assert gate.ask(("authorization", f"Bearer {token}")) == expected
    assert gate.ask(("authorization", f"bearer {token}")) == expected
    assert gate.ask(("x-api-key", token)) == expected
    assert gate.ask(("x-api-key", gate.keys.add("partner", audit=True))).audit


def test_the_key_header_can_be_called_otherwise(tmp_path: Path) -> None:
    gate = Gate(tmp_path, key_header="X-Model-Key")
    token = gate.keys.add("standard")
    assert gate.ask(("x-model-key", token)).tier == "standard"
    assert gate.refused(("x-api-key", token)) == "no credential"
    gate.close()


def test_a_revoked_rotated_or_expired_key_ends_though_it_is_remembered(gate: Gate) -> None:
    token, short = gate.keys.add("standard"), gate.keys.add("standard", expires=time.time() + 100)
    gate.ask(("x-api-key", token)), gate.ask(("x-api-key", short))
    fresh = gate.keys.rotate(token[3:11], 50)
    gate.later()
    assert gate.ask(("x-api-key", token)) == gate.ask(("x-api-key", fresh))
    gate.ahead = 51
    assert gate.refused(("x-api-key", token)) == "rotated key"
    gate.ahead = 101
    assert gate.refused(("x-api-key", short)) == "expired key"
    gate.keys.revoke(token[3:11])
    gate.later()
    assert gate.refused(("x-api-key", fresh)) == "revoked key"


def test_a_key_of_a_tier_that_is_gone_opens_nothing(gate: Gate) -> None:
    assert gate.refused(("x-api-key", gate.keys.add("gold"))) == "unknown tier"


def test_a_key_database_that_is_gone_refuses_keys_and_nothing_else(gate: Gate, tmp_path: Path) -> None:
    token = gate.keys.add("standard")
    gate.ask(("x-api-key", token))
    kept = gate.keys.path.rename(tmp_path / "kept.sqlite")
    gate.later()
    with pytest.raises(KeysError):
        gate.ask(("x-api-key", token))
    assert gate.ask(("authorization", b"Bearer " + signed())).principal == "jwt:alice"
    kept.rename(gate.keys.path)
    gate.later()
    assert gate.ask(("x-api-key", token)).tier == "standard"


@pytest.mark.parametrize(
    "headers",
    [
        [("authorization", "Bearer {key}"), ("x-api-key", "{key}")],
        [("x-api-key", "{key}"), ("x-api-key", "{key}")],
        [("authorization", "Bearer {key}"), ("authorization", "Bearer {jwt}")],
        [("authorization", "Bearer {jwt}"), ("x-api-key", "{key}")],
        [("authorization", "{key}")],
        [("authorization", "Basic {key}")],
        [("authorization", "Bearer  {key}")],
        [("authorization", "Bearer {key} ")],
        [("authorization", "Bearer {key}, Bearer {key}")],
        [("authorization", "Bearer")],
        [("authorization", "Bearer ")],
        [("authorization", "")],
        [("x-api-key", "")],
        [("x-api-key", "{jwt}")],
        [("x-api-key", "Bearer {key}")],
        [("authorization", "Bearer " + "a" * 8193)],
        [("x-api-key", "us_" + "a" * 100_000)],
        [],
    ],
)
def test_two_malformed_and_missing_credentials_are_refused(gate: Gate, headers: list[tuple[str, str]]) -> None:
    key, token = gate.keys.add("standard"), signed().decode()
    gate.refused(*((name, value.replace("{key}", key).replace("{jwt}", token)) for name, value in headers))


def test_a_bad_credential_never_falls_back_to_the_open_tier(tmp_path: Path) -> None:
    gate = Gate(tmp_path, unauthenticated=("public",))
    assert gate.ask() == Caller("ip:192.0.2.7", "ip:192.0.2.7", "public")
    for header in (("authorization", "Basic eA=="), ("x-api-key", "nonsense"), ("authorization", "Bearer e.y.J")):
        gate.refused(header)
    gate.close()


def test_callers_without_a_credential_are_told_apart_by_network(tmp_path: Path) -> None:
    gate = Gate(tmp_path, unauthenticated=("public",))
    names = {
        client: gate.ask(client=client).principal
        for client in ("2001:db8::1", "2001:db8::2", "2001:db8:0:1::1", "::ffff:192.0.2.7", "192.0.2.7", "fe80::1%eth0")
    }
    assert names == {
        "2001:db8::1": "ip:2001:db8::/64",
        "2001:db8::2": "ip:2001:db8::/64",
        "2001:db8:0:1::1": "ip:2001:db8:0:1::/64",
        "::ffff:192.0.2.7": "ip:192.0.2.7",
        "192.0.2.7": "ip:192.0.2.7",
        "fe80::1%eth0": "ip:fe80::/64",
    }
    for client in (None, "", "unix:/run/x", "192.0.2.7, 10.0.0.1"):
        assert gate.refused(client=client) == "no client address"
    gate.close()


# A trusted proxy

VOUCHED = (("x-principal", "carol"), ("x-org", "acme"), ("x-tier", "partner"))


def test_a_proxy_is_believed_from_its_addresses_only(gate: Gate) -> None:
    expected = Caller("proxy:carol", "proxy:acme", "partner")
    for client in (PROXY, "10.1.255.255", "::1", "::ffff:10.1.0.1"):
        assert gate.ask(*VOUCHED, client=client) == expected
    for client in ("10.2.0.1", "192.0.2.7", "::2", None, "", "localhost"):
        assert gate.refused(*VOUCHED, client=client) == "no credential"


def test_anybody_elses_identity_headers_are_as_if_they_were_not_there(gate: Gate, tmp_path: Path) -> None:
    token = gate.keys.add("standard", "acme")
    assert gate.ask(*VOUCHED, *VOUCHED, ("x-api-key", token)).principal == "key:acme-1"
    (tmp_path / "open").mkdir()
    open_gate = Gate(tmp_path / "open", unauthenticated=("public",), trusted=TRUSTED)
    assert open_gate.ask(*VOUCHED) == Caller("ip:192.0.2.7", "ip:192.0.2.7", "public")
    assert open_gate.ask(("x-tier", "partner"), client=PROXY).tier == "public"  # a tier alone vouches for nobody
    open_gate.close()


@pytest.mark.parametrize(
    "headers",
    [
        [*VOUCHED, ("x-principal", "mallory")],
        [*VOUCHED, ("x-tier", "partner")],
        [*VOUCHED, ("x-api-key", "{key}")],
        [("x-principal", "carol"), ("x-org", "acme"), ("x-tier", "gold")],
        [("x-principal", "carol"), ("x-org", "acme")],
        [("x-principal", "carol"), ("x-tier", "partner")],
        [("x-principal", ""), *VOUCHED[1:]],
        [("x-principal", "a,b"), *VOUCHED[1:]],
        [("x-principal", b"\xff\xfe"), *VOUCHED[1:]],
        [("x-principal", "a\x07b"), *VOUCHED[1:]],
        [("x-principal", "x" * 129), *VOUCHED[1:]],
        [("x-principal", "carol"), ("x-org", " acme"), ("x-tier", "partner")],
        [("x-principal", "carol"), ("x-org", "acme"), ("x-tier", "")],
    ],
)
def test_what_a_proxy_says_must_be_whole(gate: Gate, headers: list[tuple[str, str | bytes]]) -> None:
    key = gate.keys.add("standard")
    gate.refused(*((n, key if v == "{key}" else v) for n, v in headers), client=PROXY)


def test_a_proxys_callers_may_share_a_declared_tier(tmp_path: Path) -> None:
    gate = Gate(tmp_path, trusted={"addresses": ["10.0.0.0/8"], "default_tier": "standard"})
    assert gate.ask(("x-principal", "zoë"), client=PROXY) == Caller("proxy:zoë", "proxy:zoë", "standard")
    gate.close()


def test_nobody_is_called_as_somebody_from_elsewhere(tmp_path: Path) -> None:
    gate = Gate(tmp_path, ("public",), trusted=TRUSTED, **jwt_part(tmp_path))
    name = "key:acme-1"
    token = gate.keys.add("standard", principal=name)
    callers = [
        gate.ask(("x-api-key", token)),
        gate.ask(("authorization", b"Bearer " + signed(sub=name))),
        gate.ask(("x-principal", name), ("x-org", name), ("x-tier", "standard"), client=PROXY),
        gate.ask(),
    ]
    assert len({c.principal for c in callers}) == len({c.party for c in callers}) == 4
    gate.close()


@pytest.mark.parametrize(
    ("identity", "unauthenticated", "message"),
    [
        ({}, ("public", "standard"), "public and standard are all unauthenticated"),
        ({"trusted": {**TRUSTED, "addresses": ["10.0.0.1/8"]}}, (), "addresses.0: 10.0.0.1/8 has host bits set"),
        ({"trusted": {**TRUSTED, "addresses": ["10.0.0.1", "proxy"]}}, (), "addresses.1"),
        ({"trusted": {**TRUSTED, "addresses": ["0.0.0.0/0"]}}, (), "believe everybody"),
        ({"trusted": {**TRUSTED, "default_tier": "gold"}}, (), "trusted.default_tier: no such tier"),
        ({"trusted": {**TRUSTED, "tier": None}}, (), "callers need a tier"),
        ({"trusted": {**TRUSTED, "tier": "X-API-Key"}}, (), "name of two headers"),
        ({"trusted": {**TRUSTED, "principal": "Authorization"}}, (), "cannot be the name"),
        ({"key_header": "x key"}, (), "cannot be the name"),
    ],
)
def test_a_contradictory_identity_section_is_refused(
    tmp_path: Path, identity: dict[str, Any], unauthenticated: tuple[str, ...], message: str
) -> None:
    manifest, path = write_manifest(tmp_path, identity, unauthenticated)
    with pytest.raises(ManifestError, match=message):
        Identity(manifest, tmp_path, Keys(path_of(manifest, path)))


# Laws


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"authorization", b"x-api-key", b"x-principal", b"x-org", b"x-tier", b"host"])
            | st.binary(max_size=20),
            st.binary(max_size=200)
            | st.binary(max_size=80).map(b"Bearer ".__add__)
            | st.from_regex(rb"Bearer us_[0-9a-f]{8}_[A-Za-z0-9_-]{43}", fullmatch=True)
            | st.from_regex(rb"Bearer [A-Za-z0-9_-]{0,40}(\.[A-Za-z0-9_-]{0,40}){0,4}", fullmatch=True)
            | st.sampled_from([b"carol", b"standard", b"partner"]),
        ),
        max_size=6,
    ),
    st.sampled_from([None, "", "192.0.2.7", PROXY, "::1", "fe80::1%x", "\x00"]) | st.text(max_size=20),
)
def test_arbitrary_headers_are_a_caller_or_a_401(
    gate: Gate, headers: list[tuple[bytes, bytes]], client: str | None
) -> None:
    with suppress(Unauthenticated):
        caller = gate.who.resolve(headers, client)
        assert caller.principal.startswith("proxy:")  # no key and no token here is real
        assert client in {PROXY, "::1"}
        assert caller.tier in {"standard", "partner"}


def test_no_secret_is_logged_or_shown(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    token, never = gate.keys.add("standard"), "us_deadbeef_" + "S" * 43
    gate.ask(("x-api-key", token))
    gate.keys.revoke(token[3:11])
    gate.later()
    jwts = [signed(aud="other"), signed(tier="gold-4711"), signed(exp=1)]
    errors = []
    for header in (token, never):
        with pytest.raises(Unauthenticated) as caught:
            gate.ask(("x-api-key", header))
        errors.append(repr(caught.value) + str(vars(caught.value)))
    whys = [gate.refused(("authorization", b"Bearer " + t)) for t in jwts]
    assert whys == ["wrong audience", "unknown tier", "expired token"]
    gate.refused(("x-principal", "secret-name"), ("x-org", "a"), ("x-tier", "gold-4711"), client=PROXY)
    told = caplog.text + "".join(errors) + repr(gate.who) + repr(gate.who._keys) + repr(gate.who._tokens)
    assert f"revoked key (key {token[3:11]})" in told
    assert "unknown key (key deadbeef)" in told
    for hidden in (token[12:], "S" * 43, "gold-4711", "secret-name", *(t.decode()[-40:] for t in jwts)):
        assert hidden not in told
