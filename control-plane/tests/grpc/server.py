"""Servers of PyPI's grpcio: `server.py plain PORT`, or `server.py xds PORT`, which asks xDS for its TLS and who may call."""

import sys
from concurrent import futures

import grpc

KIND, PORT = sys.argv[1:]
HANDLERS = {"Unary": grpc.unary_unary_rpc_method_handler(lambda request, _: request + b" of " + KIND.encode())}

address = f"127.0.0.1:{PORT}"
pool = futures.ThreadPoolExecutor(max_workers=8)
server = grpc.server(pool, xds=KIND == "xds")
server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("peer.Echo", HANDLERS)])
if KIND == "xds":
    server.add_secure_port(address, grpc.xds_server_credentials(grpc.insecure_server_credentials()))
else:
    server.add_insecure_port(address)
server.start()
server.wait_for_termination()
