"""A manifest to be guarded, and an issuer that signs real tokens."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import jwt
import yaml
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from understudy.manifest import Manifest, load

DEMO = Path(__file__).resolve().parents[2] / "examples" / "demo" / "risk_score.yaml"
ISSUER, AUDIENCE = "https://issuer.example", "risk-score"
RSA = rsa.generate_private_key(65537, 2048)
OTHER_RSA = rsa.generate_private_key(65537, 2048)
SMALL_RSA = rsa.generate_private_key(65537, 1024)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()
ALGORITHMS = ["RS256", "ES256", "EdDSA"]


def public(key: Any, kid: str | None, **more: object) -> dict[str, Any]:
    """A private key's public half as a JWK."""
    algorithm: Any = {rsa.RSAPrivateKey: RSAAlgorithm, ec.EllipticCurvePrivateKey: ECAlgorithm}.get(
        next((k for k in (rsa.RSAPrivateKey, ec.EllipticCurvePrivateKey) if isinstance(key, k)), object), OKPAlgorithm
    )
    jwk = algorithm.to_jwk(key.public_key(), as_dict=True)
    return {**jwk, **({} if kid is None else {"kid": kid}), **more}


KEY_SET = {"keys": [public(RSA, "r"), public(EC, "e"), public(ED, "o")]}


def claims(**more: object) -> dict[str, Any]:
    """What an honest token says; None takes a claim away."""
    now = int(time.time())
    said = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "tier": "standard", "iat": now, "exp": now + 600, **more}
    return {name: value for name, value in said.items() if value is not None}


def signed(key: Any = RSA, algorithm: str = "RS256", kid: object = "r", head: Any = None, **more: object) -> bytes:
    """A token of the issuer's, or of whoever holds `key`."""
    return jwt.encode(
        claims(**more), key, algorithm, {**({} if kid is None else {"kid": kid}), **(head or {})}
    ).encode()


def write_manifest(
    folder: Path, identity: dict[str, Any] | None = None, unauthenticated: tuple[str, ...] = ()
) -> tuple[Manifest, Path]:
    """The demo's manifest with a guard section, in `folder`."""
    body = yaml.safe_load(DEMO.read_text())
    for tier in body["tiers"]:
        tier["unauthenticated"] = tier["id"] in unauthenticated
    body["guard"] = {"identity": identity or {}}
    path = folder / "endpoint.yaml"
    path.write_text(yaml.safe_dump(body))
    return load(path), path


def jwt_part(folder: Path, key_set: object = KEY_SET, **more: object) -> dict[str, Any]:
    """An identity section that trusts the issuer, its key set in a file."""
    (folder / "jwks.json").write_text(json.dumps(key_set))
    part: dict[str, Any] = {
        "jwks": "jwks.json",
        "issuer": ISSUER,
        "audience": AUDIENCE,
        "algorithms": ALGORITHMS,
        **more,
    }
    return {"jwt": part}
