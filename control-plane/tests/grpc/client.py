"""A client of gRPC without a proxy, of PyPI's grpcio: calls each target that it reads, and prints the answer or the status."""

import sys

import grpc
import grpc.experimental

credentials = grpc.xds_channel_credentials(grpc.experimental.insecure_channel_credentials())
channels = {}
for line in sys.stdin:
    target = line.strip()
    if target not in channels:
        channels[target] = grpc.secure_channel(target, credentials)
    call = channels[target].unary_unary("/peer.Echo/Unary")
    try:
        print(call(b"hello", timeout=20, wait_for_ready=True).decode(), flush=True)
    except grpc.RpcError as error:
        print(error.code().name, error.details(), flush=True)
