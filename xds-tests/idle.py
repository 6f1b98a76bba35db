"""What idle keep-alive connections cost, in resident memory.

    python3 xds-tests/idle.py PROXY [--connections N] [--seconds S] [--limit KIB] [--tls] [--http2 [--open]]

Starts PROXY (Outrigger, or Envoy to compare) with one worker before a small server, opens N connections (10,000), sends one
request on each, and leaves them alone for S seconds (60). With --tls they are connections of TLS 1.3, with --http2 they speak HTTP/2; with --open
each of them then opens a hundred streams more whose requests have no end, and what is printed is the cost of a stream. Prints the resident memory before, after and every ten seconds.
Fails if a connection costs more than KIB (4), or if the memory grows while nothing happens.
"""

import argparse
import json
import os
import resource
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
# The connections of one source address: well below the number of ports that it has.
PER_SOURCE = 2000
# While nothing happens, memory may move by this many KiB.
DRIFT = 512
# How clients speak TLS. None: they do not.
CLIENT = None
# The next stream of each connection of HTTP/2. None: HTTP/1.
STREAMS = None
# Requests without end that a connection of HTTP/2 opens.
OPEN = 100
GET = bytes([0x82, 0x86, 0x84, 0x41, 4]) + b"idle"
POST = bytes([0x83, 0x86, 0x44, 5]) + b"/hang" + bytes([0x41, 4]) + b"idle"


def frame(kind, flags, stream, payload=b""):
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def serve(listener):
    """Answers every GET on every connection, and no POST; the proxy keeps only a few of them."""

    def one(connection):
        with connection:
            data = b""
            while chunk := connection.recv(65536):
                data += chunk
                while b"\r\n\r\n" in data and not data.startswith(b"POST"):
                    data = data.split(b"\r\n\r\n", 1)[1]
                    connection.sendall(ANSWER)

    while True:
        threading.Thread(target=one, args=(listener.accept()[0],), daemon=True).start()


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def bootstrap(port, upstream, own):
    extensions = "type.googleapis.com/envoy.extensions.filters"
    address = lambda port: {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    manager = {
        "@type": f"{extensions}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "idle",
        "route_config": {
            "virtual_hosts": [
                {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "backend"}}]}
            ]
        },
        "http_filters": [{"name": "router", "typed_config": {"@type": f"{extensions}.http.router.v3.Router"}}],
    }
    listener = {
        "name": "main",
        "address": address(port),
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    if own:
        files = {"certificate_chain": {"filename": own}, "private_key": {"filename": own}}
        context = {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": {"tls_certificates": [files]},
        }
        listener["filter_chains"][0]["transport_socket"] = {"name": "tls", "typed_config": context}
    endpoint = {"endpoint": {"address": address(upstream)}}
    cluster = {
        "name": "backend",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": "backend", "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
    if STREAMS is not None:
        # Requests without end wait for a connection; answers do not.
        cluster["circuit_breakers"] = {"thresholds": [{"max_connections": 64, "max_pending_requests": 1 << 30}]}
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def resident(pid):
    """In KiB."""
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


def ask_http2(connection):
    stream = STREAMS.get(connection.fileno(), 1)
    STREAMS[connection.fileno()] = stream + 2
    start = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0) + frame(4, 1, 0) if stream == 1 else b""
    connection.sendall(start + frame(1, 5, stream, GET))
    got = b""
    while True:
        while len(got) >= 9 and len(got) >= (end := 9 + int.from_bytes(got[:3], "big")):
            kind, flags, of = got[3], got[4], int.from_bytes(got[5:9], "big")
            if kind in (3, 7):
                raise OSError(got[:end])
            got = got[end:]
            if kind == 0 and flags & 1 and of == stream:
                return
        chunk = connection.recv(4096)
        if not chunk:
            raise OSError("the proxy closed the connection")
        got += chunk


def hang(connection):
    """Opens requests that do not end."""
    stream = STREAMS[connection.fileno()]
    STREAMS[connection.fileno()] = stream + 2 * OPEN
    connection.sendall(b"".join(frame(1, 4, stream + 2 * n, POST) for n in range(OPEN)))


def ask(connection):
    if STREAMS is not None:
        return ask_http2(connection)
    connection.sendall(b"GET / HTTP/1.1\r\nhost: idle\r\n\r\n")
    got = b""
    while not got.endswith(b"ok"):
        chunk = connection.recv(4096)
        if not chunk:
            raise OSError("the proxy closed the connection")
        got += chunk
    if not got.startswith(b"HTTP/1.1 200"):
        raise OSError(got)


def secured(connection):
    """The same over TLS, if that is measured."""
    return CLIENT.wrap_socket(connection) if CLIENT else connection


def certificate(folder):
    """A certificate with its key, in one file."""
    path = os.path.join(folder, "own.pem")
    options = "-x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=idle"
    command = ["openssl", "req", *options.split(), "-keyout", path + ".key", "-out", path + ".crt"]
    subprocess.run(command, check=True, capture_output=True)
    with open(path, "w") as both:
        for end in (".crt", ".key"):
            with open(path + end) as part:
                both.write(part.read())
    return path


def open_connections(port, count):
    connections = []
    for index in range(count):
        source = f"127.0.0.{2 + index // PER_SOURCE}"
        connection = secured(socket.create_connection(("127.0.0.1", port), 10, (source, 0)))
        if STREAMS is not None:
            STREAMS.pop(connection.fileno(), None)
        ask(connection)
        connections.append(connection)
    return connections


def wait_until_ready(proxy, port):
    for _ in range(500):
        if proxy.poll() is not None:
            sys.exit(f"the proxy exited with {proxy.returncode}")
        try:
            if STREAMS is not None:
                STREAMS.clear()
            with socket.create_connection(("127.0.0.1", port), 1) as connection:
                return ask(secured(connection))
        except OSError:
            time.sleep(0.02)
    sys.exit("the proxy does not answer")


def measure(proxy, port, options):
    wait_until_ready(proxy, port)
    for connection in open_connections(port, 100):
        connection.close()
    time.sleep(1)
    before = resident(proxy.pid)
    connections = open_connections(port, options.connections)
    time.sleep(1)
    held = [resident(proxy.pid)]
    each = (held[0] - before) / len(connections)
    print(f"before {before} KiB, with {len(connections)} connections {held[0]} KiB: {each:.2f} KiB each", flush=True)
    if options.open:
        for connection in connections:
            hang(connection)
        time.sleep(3)
        streams = OPEN * len(connections)
        each = (resident(proxy.pid) - held[0]) / streams
        print(f"with {streams} open streams {resident(proxy.pid)} KiB: {each:.2f} KiB each")
        return True
    for _ in range(0, options.seconds, 10):
        time.sleep(10)
        held.append(resident(proxy.pid))
        print(f"  {held[-1]} KiB", flush=True)
    for connection in connections:
        ask(connection)
    print(f"after one more request on each {resident(proxy.pid)} KiB")
    return each <= options.limit and max(held) - held[0] <= DRIFT


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("proxy")
    options.add_argument("--connections", type=int, default=10_000)
    options.add_argument("--seconds", type=int, default=60)
    options.add_argument("--limit", type=float, default=4.0)
    options.add_argument("--tls", action="store_true")
    options.add_argument("--http2", action="store_true")
    options.add_argument("--open", action="store_true")
    options = options.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard < options.connections + 1000:
        sys.exit(f"needs {options.connections + 1000} open files, allowed are {hard}: see ulimit -n")
    backend = socket.create_server(("127.0.0.1", 0), backlog=1024)
    threading.Thread(target=serve, args=(backend,), daemon=True).start()
    port = free_port()
    if options.http2 or options.open:
        global STREAMS
        STREAMS = {}
    if options.tls:
        global CLIENT
        CLIENT = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        CLIENT.check_hostname = False
        CLIENT.verify_mode = ssl.CERT_NONE
    with tempfile.TemporaryDirectory() as folder, tempfile.NamedTemporaryFile("w", suffix=".json") as config:
        own = certificate(folder) if options.tls else None
        json.dump(bootstrap(port, backend.getsockname()[1], own), config)
        config.flush()
        flags = ["--concurrency", "1", "-l", "error", "--base-id", str(os.getpid() % 30_000 + 1)]
        proxy = subprocess.Popen([options.proxy, "-c", config.name, *flags])
        try:
            good = measure(proxy, port, options)
        finally:
            proxy.terminate()
            proxy.wait(30)
    sys.exit(0 if good else "too much")


if __name__ == "__main__":
    main()
