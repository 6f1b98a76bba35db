"""An authorizer as one writes it for an API gateway: it verifies the token of a request, decrypts who its user is and
passes the id on. It speaks Envoy's authorization API by gRPC.

    authorizer.py serve [PORT]     listens on 127.0.0.1 (default: port 9001)
    authorizer.py token USER       prints a token for a user, as the login of the company would make it

Needs PyPI's grpcio, xds-protos, PyJWT and cryptography.
"""

import base64
import json
import os
import sys
import time
from concurrent import futures

import grpc
import jwt
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from envoy.config.core.v3.base_pb2 import HeaderValue, HeaderValueOption
from envoy.service.auth.v3 import external_auth_pb2 as auth
from envoy.service.auth.v3 import external_auth_pb2_grpc as auth_grpc
from envoy.type.v3.http_status_pb2 import HttpStatus
from google.rpc import code_pb2
from google.rpc.status_pb2 import Status

# Both would come from a vault.
SIGNING_KEY = os.environ.get("SIGNING_KEY", "the key that signs tokens, 32 bytes at least")
CLAIM_KEY = os.environ.get("CLAIM_KEY", "0123456789abcdef0123456789abcdef").encode()

ISSUER = "https://login.example.com"


def make_token(user):
    """A token whose user only an authorizer can read."""
    nonce = os.urandom(12)
    sealed = nonce + AESGCM(CLAIM_KEY).encrypt(nonce, user.encode(), b"user")
    claims = {"iss": ISSUER, "exp": int(time.time()) + 600, "user": base64.b64encode(sealed).decode()}
    return jwt.encode(claims, SIGNING_KEY, algorithm="HS256")


def user_of(token):
    """The user of a token; raises an error where it is not good."""
    claims = jwt.decode(token, SIGNING_KEY, algorithms=["HS256"], issuer=ISSUER, options={"require": ["exp", "iss"]})
    sealed = base64.b64decode(claims["user"], validate=True)
    return AESGCM(CLAIM_KEY).decrypt(sealed[:12], sealed[12:], b"user").decode()


def header(name, value):
    return HeaderValueOption(header=HeaderValue(key=name, value=value))


def denied(status, reason):
    return auth.CheckResponse(
        status=Status(code=code_pb2.PERMISSION_DENIED),
        denied_response=auth.DeniedHttpResponse(
            status=HttpStatus(code=status),
            headers=[header("content-type", "application/json")],
            body=json.dumps({"message": reason}),
        ),
    )


class Authorizer(auth_grpc.AuthorizationServicer):
    def Check(self, request, context):
        http = request.attributes.request.http
        scheme, _, token = http.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return denied(401, "Unauthorized")
        try:
            user = user_of(token)
        except (jwt.PyJWTError, InvalidTag, KeyError, ValueError):
            return denied(401, "Unauthorized")
        # What a route asks for stands in its context_extensions.
        team = request.attributes.context_extensions.get("team")
        if team and not user.startswith(team + "/"):
            return denied(403, "User is not authorized to access this resource")
        response = auth.CheckResponse(
            status=Status(code=code_pb2.OK),
            ok_response=auth.OkHttpResponse(
                headers=[header("x-user-id", user)],
                # The service behind has no use for it.
                headers_to_remove=["authorization"],
            ),
        )
        response.dynamic_metadata.update({"user": user})
        return response


def serve(port):
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
    auth_grpc.add_AuthorizationServicer_to_server(Authorizer(), server)
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    print(f"listening on {bound}", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    if sys.argv[1:2] == ["token"]:
        print(make_token(sys.argv[2]))
    elif sys.argv[1:2] == ["serve"]:
        serve(int(sys.argv[2]) if len(sys.argv) > 2 else 9001)
    else:
        sys.exit(__doc__)
