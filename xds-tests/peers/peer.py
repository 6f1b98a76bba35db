"""HTTP/2 of PyPI's h2 in clear text: `peer.py serve PORT` or `peer.py call PORT PATH TRAILERS`."""

import asyncio
import sys

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    DataReceived,
    RequestReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
    UnknownFrameReceived,
    WindowUpdated,
)

BODY = 600_000
STREAMS = 2000
AT_ONCE = 50
METADATA = 0x4D


class Stream:
    """What one side of a stream has seen, and what it still has to send."""

    def __init__(self):
        self.head = {}
        self.body = b""
        self.trailers = {}
        self.metadata = 0
        self.to_send = b""
        self.last = []
        self.ended = asyncio.get_running_loop().create_future()


class Peer(asyncio.Protocol):
    def __init__(self, is_client):
        self.is_client = is_client
        self.h2 = H2Connection(H2Configuration(client_side=is_client, header_encoding="utf-8"))
        self.streams = {}

    def connection_made(self, transport):
        self.transport = transport
        self.h2.initiate_connection()
        self.write()

    def connection_lost(self, error):
        for stream in self.streams.values():
            if not stream.ended.done():
                stream.ended.set_exception(ConnectionError("the connection ended"))

    def write(self):
        self.transport.write(self.h2.data_to_send())

    def data_received(self, data):
        for event in self.h2.receive_data(data):
            self.on(event)
        self.write()

    def on(self, event):
        match event:
            case RequestReceived():
                self.streams[event.stream_id] = Stream()
                self.streams[event.stream_id].head = dict(event.headers)
            case ResponseReceived():
                self.streams[event.stream_id].head = dict(event.headers)
            case DataReceived():
                self.streams[event.stream_id].body += event.data
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case TrailersReceived():
                self.streams[event.stream_id].trailers = dict(event.headers)
            case StreamReset():
                stream = self.streams.get(event.stream_id)
                if stream and not stream.ended.done():
                    stream.ended.set_exception(ConnectionError(f"reset by {event.error_code}"))
            case UnknownFrameReceived() if event.frame.type == METADATA:
                if event.frame.stream_id in self.streams:
                    self.streams[event.frame.stream_id].metadata += 1
            case WindowUpdated():
                for stream_id in [event.stream_id] if event.stream_id else list(self.streams):
                    self.send_more(stream_id)
            case StreamEnded():
                stream = self.streams[event.stream_id]
                if self.is_client:
                    stream.ended.set_result(None)
                else:
                    self.answer(event.stream_id, stream)

    def answer(self, stream_id, stream):
        head = [(":status", "200"), ("x-metadata", str(stream.metadata))]
        self.h2.send_headers(stream_id, head)
        length, sent = str(len(stream.body)), stream.trailers.get("x-sent", "")
        if stream.metadata:
            self.metadata(stream_id)
        self.send(stream_id, stream.body, [("x-length", length), ("x-sent", sent)])

    def metadata(self, stream_id):
        """A METADATA frame with one entry, which this library does not know how to make."""
        block = b"\x20\x00\x03key\x05value"
        head = len(block).to_bytes(3, "big") + bytes([METADATA, 4]) + stream_id.to_bytes(4, "big")
        self.write()
        self.transport.write(head + block)

    def send(self, stream_id, body, last):
        stream = self.streams[stream_id]
        stream.to_send, stream.last = body, last
        self.send_more(stream_id)

    def send_more(self, stream_id):
        stream = self.streams.get(stream_id)
        if stream is None or not stream.last:
            return
        while stream.to_send:
            room = min(self.h2.local_flow_control_window(stream_id), self.h2.max_outbound_frame_size)
            if room <= 0:
                return
            self.h2.send_data(stream_id, stream.to_send[:room])
            stream.to_send = stream.to_send[room:]
        last, stream.last = stream.last, []
        self.h2.send_headers(stream_id, last, end_stream=True)
        if not self.is_client:
            del self.streams[stream_id]

    async def post(self, path, body, metadata=False):
        stream_id = self.h2.get_next_available_stream_id()
        stream = self.streams[stream_id] = Stream()
        head = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "peer")]
        # Without it Go's server drops the trailer.
        head.append(("trailer", "x-sent"))
        self.h2.send_headers(stream_id, head)
        if metadata:
            self.metadata(stream_id)
        self.send(stream_id, body, [("x-sent", "yes")])
        self.write()
        await stream.ended
        del self.streams[stream_id]
        assert stream.head[":status"] == "200", stream.head
        return stream


async def serve(port):
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Peer(False), "127.0.0.1", port)
    await server.serve_forever()


async def call(port, path, trailers):
    loop = asyncio.get_running_loop()
    _, peer = await loop.create_connection(lambda: Peer(True), "127.0.0.1", port)

    async def echo(size, fill):
        stream = await peer.post(path, fill * size)
        assert stream.body == fill * size, f"sent {size}, got {len(stream.body)}"
        seen = stream.trailers.get("x-length"), stream.trailers.get("x-sent")
        assert not trailers or seen == (str(size), "yes"), seen

    await echo(BODY, b"b")
    sizes = iter(range(STREAMS))

    async def worker():
        for number in sizes:
            await echo(number % 300 + 1, b"s")

    await asyncio.gather(*[worker() for _ in range(AT_ONCE)])
    print("OK")


async def call_with_metadata(port, path):
    """METADATA passes both ways: says how many frames the server has seen, and we."""
    loop = asyncio.get_running_loop()
    _, peer = await loop.create_connection(lambda: Peer(True), "127.0.0.1", port)
    stream = await peer.post(path, b"body", metadata=True)
    print("metadata", stream.head["x-metadata"], stream.metadata)


if __name__ == "__main__":
    mode, port, *rest = sys.argv[1:]
    if mode == "serve":
        asyncio.run(serve(int(port)))
    elif mode == "metadata":
        asyncio.run(call_with_metadata(int(port), rest[0]))
    else:
        asyncio.run(call(int(port), rest[0], rest[1] == "trailers"))
