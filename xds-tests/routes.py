"""What large route tables cost, in CPU time per request and resident memory per route.

    python3 xds-tests/routes.py PROXY [--entries N] [--requests N] [--rounds N] [--limit RATIO]

Starts PROXY (Outrigger, or Envoy to compare) with one worker and one of three route tables: a single route; N virtual hosts
(10,000) of one route each; N prefix routes in one virtual host. Requests go to hosts and routes at random, one at a time over
one connection, and the proxy answers by itself, so that nothing hides what a look-up costs. Prints the lowest CPU time per request
of some rounds that take turns, the ratio to the single route, and the resident memory that an entry adds. Fails if a ratio is
above RATIO (1.3).
"""

import argparse
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time

ANSWER = {"status": 200, "body": {"inline_string": "ok"}}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def route(prefix):
    return {"match": {"prefix": prefix}, "direct_response": ANSWER}


def table(kind, entries):
    if kind == "hosts":
        name = "service-{:05}.example.com".format
        return [{"name": name(i), "domains": [name(i)], "routes": [route("/")]} for i in range(entries)]
    if kind == "routes":
        routes = [route(f"/service/{i:05}/") for i in range(entries)]
        return [{"name": "all", "domains": ["*"], "routes": routes}]
    return [{"name": "all", "domains": ["*"], "routes": [route("/")]}]


def bootstrap(port, kind, entries):
    extensions = "type.googleapis.com/envoy.extensions.filters"
    manager = {
        "@type": f"{extensions}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "routes",
        "route_config": {"virtual_hosts": table(kind, entries)},
        "http_filters": [{"name": "router", "typed_config": {"@type": f"{extensions}.http.router.v3.Router"}}],
    }
    listener = {
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    return {"static_resources": {"listeners": [listener]}}


class Proxy:
    """A proxy with one of the tables, and a connection to it."""

    def __init__(self, program, kind, entries, folder):
        port = free_port()
        path = os.path.join(folder, f"{kind}.json")
        with open(path, "w") as file:
            json.dump(bootstrap(port, kind, entries), file)
        arguments = [program, "-c", path, "--concurrency", "1", "--use-dynamic-base-id", "-l", "error"]
        self.process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.connection = self.connect(port)
        self.requests = [self.request(kind, random.randrange(entries)) for _ in range(4096)]

    def connect(self, port):
        for _ in range(600):
            try:
                connection = socket.create_connection(("127.0.0.1", port))
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return connection
            except ConnectionRefusedError:
                if self.process.poll() is not None:
                    sys.exit("the proxy did not start")
                time.sleep(0.1)
        sys.exit("the proxy does not listen")

    @staticmethod
    def request(kind, number):
        host = f"service-{number:05}.example.com" if kind == "hosts" else "service-00000.example.com"
        return f"GET /service/{number:05}/item?id=1 HTTP/1.1\r\nhost: {host}\r\nuser-agent: routes\r\n\r\n".encode()

    def send(self, count):
        """The CPU time of all threads for one of so many requests, in microseconds."""
        connection, requests = self.connection, self.requests
        before = self.cpu_time()
        for number in range(count):
            connection.sendall(requests[number % len(requests)])
            if not connection.recv(4096).startswith(b"HTTP/1.1 200"):
                sys.exit("a request was not answered well")
        return (self.cpu_time() - before) / count / 1000

    def cpu_time(self):
        folder = f"/proc/{self.process.pid}/task"
        total = 0
        for thread in os.listdir(folder):
            with open(f"{folder}/{thread}/schedstat") as file:
                total += int(file.read().split()[0])
        return total

    def resident(self):
        with open(f"/proc/{self.process.pid}/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmRSS:"))

    def stop(self):
        self.connection.close()
        self.process.terminate()
        self.process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("proxy")
    parser.add_argument("--entries", type=int, default=10_000)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--limit", type=float, default=1.3)
    arguments = parser.parse_args()
    random.seed(1)
    kinds = ["one", "hosts", "routes"]
    with tempfile.TemporaryDirectory() as folder:
        proxies = {kind: Proxy(arguments.proxy, kind, arguments.entries, folder) for kind in kinds}
        try:
            for proxy in proxies.values():
                proxy.send(2_000)
            # What loading has left over goes back a second later.
            time.sleep(3)
            memory = {kind: proxy.resident() for kind, proxy in proxies.items()}
            rounds = [{kind: proxy.send(arguments.requests) for kind, proxy in proxies.items()} for _ in range(arguments.rounds)]
        finally:
            for proxy in proxies.values():
                proxy.stop()
    bad = False
    lowest = {kind: min(one[kind] for one in rounds) for kind in kinds}
    for kind in kinds:
        ratio = lowest[kind] / lowest["one"]
        per_entry = (memory[kind] - memory["one"]) * 1024 / arguments.entries
        bad |= ratio > arguments.limit
        print(f"{kind:7} {lowest[kind]:6.2f} us per request, {ratio:4.2f} of a single route; {memory[kind] / 1024:6.1f} MiB resident, {per_entry:5.0f} bytes per entry")
    if bad:
        sys.exit(f"more than {arguments.limit} of a single route")


if __name__ == "__main__":
    main()
