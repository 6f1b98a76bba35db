"""Asks a rate limit service with Envoy's own protos: rls.py ADDRESS DOMAIN, then a JSON object per line on stdin,

    {"descriptors": [[["user", "ann"]], ...], "hits": 2, "own": [3, null]}

and prints what is answered, a JSON object per line. `own` are hits of single descriptors.
"""

import json
import sys

import grpc
from envoy.extensions.common.ratelimit.v3.ratelimit_pb2 import RateLimitDescriptor
from envoy.service.ratelimit.v3 import rls_pb2 as rls
from envoy.service.ratelimit.v3 import rls_pb2_grpc
from google.protobuf.wrappers_pb2 import UInt64Value

Unit = rls.RateLimitResponse.RateLimit.Unit


def descriptor(entries, own):
    return RateLimitDescriptor(
        entries=[RateLimitDescriptor.Entry(key=key, value=value) for key, value in entries],
        hits_addend=None if own is None else UInt64Value(value=own),
    )


def told(response):
    code = rls.RateLimitResponse.Code.Name
    return {
        "overall": code(response.overall_code),
        "headers": {header.key: header.value for header in response.response_headers_to_add},
        "statuses": [
            {
                "code": code(status.code),
                "limit": [status.current_limit.name, status.current_limit.requests_per_unit, Unit.Name(status.current_limit.unit)]
                if status.HasField("current_limit")
                else None,
                "remaining": status.limit_remaining,
                "reset": status.duration_until_reset.seconds,
            }
            for status in response.statuses
        ],
    }


def main():
    address, domain = sys.argv[1:]
    service = rls_pb2_grpc.RateLimitServiceStub(grpc.insecure_channel(address))
    for line in sys.stdin:
        asked = json.loads(line)
        lists = asked["descriptors"]
        own = asked.get("own", [None] * len(lists))
        request = rls.RateLimitRequest(
            domain=domain,
            descriptors=[descriptor(*pair) for pair in zip(lists, own)],
            hits_addend=asked.get("hits", 0),
        )
        try:
            answer = told(service.ShouldRateLimit(request, timeout=5))
        except grpc.RpcError as error:
            answer = {"error": error.code().name, "details": error.details()}
        print(json.dumps(answer), flush=True)


main()
