"""A TLS peer of Python's ssl: `client ADDRESS MAX CA [CERT KEY]` or `server ADDRESS MAX CA CERT KEY`."""

import socket
import ssl
import sys

side, address, most, ca, *own = sys.argv[1:]
host, port = address.rsplit(":", 1)
purpose = ssl.PROTOCOL_TLS_SERVER if side == "server" else ssl.PROTOCOL_TLS_CLIENT
context = ssl.SSLContext(purpose)
context.maximum_version = ssl.TLSVersion.TLSv1_2 if most == "1.2" else ssl.TLSVersion.TLSv1_3
context.load_verify_locations(ca)
if own:
    context.load_cert_chain(*own)
if side == "client":
    context.set_alpn_protocols(["http/1.1"])
    try:
        with socket.create_connection((host, int(port)), timeout=5) as plain:
            with context.wrap_socket(plain, server_hostname="server.example") as tls:
                tls.sendall(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
                answer = tls.recv(4096)
                print(answer.split(b"\r\n")[0].decode() or "refused", tls.version(), tls.selected_alpn_protocol())
    except OSError:
        print("refused")
else:
    context.verify_mode = ssl.CERT_REQUIRED
    listener = socket.create_server((host, int(port)))
    while True:
        plain, _ = listener.accept()
        try:
            with context.wrap_socket(plain, server_side=True) as tls:
                tls.recv(4096)
                tls.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok")
        except OSError:
            pass
