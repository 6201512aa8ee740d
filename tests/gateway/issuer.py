"""A manifest to be guarded, and an issuer that signs real tokens."""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID
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


class Issuer:
    """A real HTTPS server with a certificate of its own making."""

    def __init__(self, folder: Path) -> None:
        self.body, self.status, self.asked = json.dumps(KEY_SET).encode(), 200, 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked += 1
                self.send_response(outer.status)
                if 300 <= outer.status < 400:
                    self.send_header("Location", "/elsewhere")
                self.end_headers()
                self.wfile.write(outer.body)

            def log_message(self, *args: object) -> None:
                """Say nothing."""

        self.certificate = folder / "ca.pem"
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
        now = dt.datetime.now(dt.UTC)
        made = (
            x509.CertificateBuilder(name, name, EC.public_key(), x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
            .add_extension(x509.BasicConstraints(True, None), True)
            .sign(EC, hashes.SHA256())
        )
        self.certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        key = folder / "server.key"
        key.write_bytes(
            EC.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, key)
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self.server.server_address[1]}/jwks"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
