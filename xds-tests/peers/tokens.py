"""Tokens of PyJWT: prints its keys as a JWKS, and tokens that are good and bad, as JSON."""

import base64
import hashlib
import hmac
import json
import time

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt import algorithms

ISSUER = "https://issuer.example"
NOW = int(time.time())
CLAIMS = {"iss": ISSUER, "sub": "alice", "aud": "svc", "exp": NOW + 3600, "iat": NOW, "nbf": NOW - 10}
SECRET = b"a secret of sixty-four bytes, which is as many as HS512 asks for"

rsa_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
keys = {
    "RS256": rsa_key, "RS384": rsa_key, "RS512": rsa_key,
    "PS256": rsa_key, "PS384": rsa_key, "PS512": rsa_key,
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "ES384": ec.generate_private_key(ec.SECP384R1()),
    "ES512": ec.generate_private_key(ec.SECP521R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
    "HS256": SECRET, "HS384": SECRET, "HS512": SECRET,
}
makers = {"RS": algorithms.RSAAlgorithm, "PS": algorithms.RSAAlgorithm, "ES": algorithms.ECAlgorithm,
          "Ed": algorithms.OKPAlgorithm, "HS": algorithms.HMACAlgorithm}


def jwk(name, key):
    public = key if isinstance(key, bytes) else key.public_key()
    entry = makers[name[:2]].to_jwk(public)
    return json.loads(entry) | {"kid": name, "alg": name} if isinstance(entry, str) else entry | {"kid": name, "alg": name}


def sign(name, claims=CLAIMS, key=None, **headers):
    return jwt.encode(claims, key or keys[name], algorithm=name, headers={"kid": name} | headers)


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def confused():
    """A MAC whose secret is the public key that everybody knows."""
    pem = rsa_key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    signed = base64url(b'{"alg":"HS256","kid":"RS256"}') + "." + base64url(json.dumps(CLAIMS).encode())
    return signed + "." + base64url(hmac.new(pem, signed.encode(), hashlib.sha256).digest())


good = {name: sign(name) for name in keys}
signature = good["ES256"].rsplit(".", 1)
bad = {
    "expired": sign("RS256", CLAIMS | {"exp": NOW - 3600}),
    "not yet valid": sign("ES256", CLAIMS | {"nbf": NOW + 3600}),
    "of another issuer": sign("RS256", CLAIMS | {"iss": "https://other.example"}),
    "for another audience": sign("RS256", CLAIMS | {"aud": "other"}),
    "of another RSA key": sign("RS256", key=rsa.generate_private_key(public_exponent=65537, key_size=2048)),
    "of another EC key": sign("ES384", key=ec.generate_private_key(ec.SECP384R1())),
    "of another Ed25519 key": sign("EdDSA", key=ed25519.Ed25519PrivateKey.generate()),
    "of another secret": sign("HS256", key=b"b" * 64),
    "with the key of another algorithm": sign("PS256", kid="RS256"),
    "unsigned": jwt.encode(CLAIMS, None, algorithm="none"),
    "confused": confused(),
    "of another payload": ".".join([good["RS256"].split(".")[0], good["EdDSA"].split(".")[1], good["RS256"].split(".")[2]]) + "A",
    "with half a signature": signature[0] + "." + signature[1][:43],
}
print(json.dumps({"jwks": {"keys": [jwk(name, key) for name, key in keys.items()]}, "good": good, "bad": bad}))
