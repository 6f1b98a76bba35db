"""gRPC of PyPI's grpcio: `grpc_peer.py serve PORT` or `grpc_peer.py call PORT`."""

import sys
from concurrent import futures

import grpc

SERVICE = "peer.Echo"
CALLS = 2000
AT_ONCE = 100
MESSAGES = 100
LARGE = 3_000_000


def unary(request, context):
    if request == b"fail":
        context.set_trailing_metadata([("x-why", "asked for")])
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "as you wish")
    context.set_trailing_metadata([("x-length", str(len(request)))])
    return request


def stream(requests, context):
    count = 0
    for request in requests:
        count += 1
        yield request
    context.set_trailing_metadata([("x-count", str(count))])


def serve(port):
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Stream": grpc.stream_stream_rpc_method_handler(stream),
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, handlers)])
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    server.wait_for_termination()


def call(port):
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        unary = channel.unary_unary(f"/{SERVICE}/Unary")
        # Not all at once: of two thousand open calls grpcio now and then cancels one by itself, whoever serves.
        for first in range(0, CALLS, AT_ONCE):
            numbers = range(first, first + AT_ONCE)
            calls = [unary.future(b"u" * number, timeout=30) for number in numbers]
            for number, call in zip(numbers, calls):
                assert call.result() == b"u" * number
                assert ("x-length", str(number)) in call.trailing_metadata()
        large = b"l" * LARGE
        assert unary(large, timeout=30) == large
        try:
            unary(b"fail", timeout=30)
            raise AssertionError("it did not fail")
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.FAILED_PRECONDITION, error
            assert error.details() == "as you wish"
            assert ("x-why", "asked for") in error.trailing_metadata()
        stream = channel.stream_stream(f"/{SERVICE}/Stream")
        sent = [bytes([number]) * 30_000 for number in range(MESSAGES)]
        call = stream(iter(sent), timeout=30)
        assert list(call) == sent
        assert ("x-count", str(MESSAGES)) in call.trailing_metadata()
    print("OK")


if __name__ == "__main__":
    {"serve": serve, "call": call}[sys.argv[1]](sys.argv[2])
