"""What idle keep-alive connections cost, in resident memory.

    python3 xds-tests/idle.py PROXY [--connections N] [--seconds S] [--limit KIB] [--tls]

Starts PROXY (Outrigger, or Envoy to compare) with one worker before a small server, opens N connections (10,000), sends one
request on each, and leaves them alone for S seconds (60). With --tls they are connections of TLS 1.3. Prints the resident memory before, after and every ten seconds.
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


def serve(listener):
    """Answers every request on every connection; the proxy keeps only a few of them."""

    def one(connection):
        with connection:
            data = b""
            while chunk := connection.recv(65536):
                data += chunk
                while b"\r\n\r\n" in data:
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
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def resident(pid):
    """In KiB."""
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


def ask(connection):
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
        ask(connection)
        connections.append(connection)
    return connections


def wait_until_ready(proxy, port):
    for _ in range(500):
        if proxy.poll() is not None:
            sys.exit(f"the proxy exited with {proxy.returncode}")
        try:
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
    options = options.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard < options.connections + 1000:
        sys.exit(f"needs {options.connections + 1000} open files, allowed are {hard}: see ulimit -n")
    backend = socket.create_server(("127.0.0.1", 0), backlog=1024)
    threading.Thread(target=serve, args=(backend,), daemon=True).start()
    port = free_port()
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
