// gRPC-Web of npm's grpc-web over xhr2, with a method descriptor made by hand: `grpc_web_peer.mjs FOLDER PORT FORMAT`.
import { createRequire } from "node:module";
import assert from "node:assert";

const [folder, port, format] = process.argv.slice(2);
const require = createRequire(`${folder}/`);
globalThis.XMLHttpRequest = require("xhr2");
const grpc = require("grpc-web");

class Message {
  constructor(bytes) {
    this.bytes = bytes ?? new Uint8Array();
  }
}
const method = (name, type) =>
  new grpc.MethodDescriptor(
    `/peer.Echo/${name}`,
    type,
    Message,
    Message,
    (message) => message.bytes,
    (bytes) => new Message(bytes),
  );
const url = (name) => `http://127.0.0.1:${port}/peer.Echo/${name}`;
const client = new grpc.GrpcWebClientBase({ format });
const unary = method("Unary", grpc.MethodType.UNARY);
const call = (bytes) =>
  new Promise((resolve, reject) => {
    let status;
    let answer;
    const end = () => status && answer && resolve({ status, answer });
    const stream = client.rpcCall(url("Unary"), new Message(bytes), {}, unary, (error, message) => {
      if (error) reject(error);
      answer = message;
      end();
    });
    stream.on("status", (found) => {
      status = found;
      end();
    });
  });

for (const size of [0, 1, 2, 3, 100, 70_000]) {
  const bytes = Uint8Array.from({ length: size }, (_, at) => at % 251);
  const { status, answer } = await call(bytes);
  assert.deepStrictEqual(Uint8Array.from(answer.bytes), bytes);
  assert.strictEqual(status.code, 0);
  assert.strictEqual(status.metadata["x-length"], String(size));
}
await assert.rejects(call(new TextEncoder().encode("fail")), (error) => {
  assert.strictEqual(error.code, 9);
  assert.strictEqual(error.message, "as you wish");
  assert.strictEqual(error.metadata["x-why"], "asked for");
  return true;
});
if (format === "text") {
  const pieces = await new Promise((resolve, reject) => {
    const found = [];
    const streaming = method("Stream", grpc.MethodType.SERVER_STREAMING);
    const stream = client.serverStreaming(url("Stream"), new Message(new Uint8Array([7])), {}, streaming);
    stream.on("data", (message) => found.push([...message.bytes]));
    stream.on("error", reject);
    stream.on("end", () => resolve(found));
  });
  assert.deepStrictEqual(pieces, [[7]]);
}
// A service that is not there: the answer of the proxy itself.
const gone = new grpc.GrpcWebClientBase({ format });
await assert.rejects(
  new Promise((resolve, reject) =>
    gone.rpcCall(
      `http://127.0.0.1:${port}/none/None`,
      new Message(),
      {},
      unary,
      (error, message) => (error ? reject(error) : resolve(message)),
    ),
  ),
  (error) => {
    // Which one is the client's own guess: it does not look at the head of a 503.
    assert.notStrictEqual(error.code, 0);
    return true;
  },
);
console.log("OK");
