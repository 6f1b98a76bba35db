// The same as client.py, of npm's grpc-js. The folder of its packages is the first argument.
import { createRequire } from 'node:module';
import readline from 'node:readline';

const require = createRequire(`${process.argv[2]}/package.json`);
const grpc = require('@grpc/grpc-js');
const xds = require('@grpc/grpc-js-xds');

xds.register();
const credentials = new xds.XdsChannelCredentials(grpc.credentials.createInsecure());
const clients = new Map();
const same = (bytes) => bytes;

function call(target) {
  if (!clients.has(target)) clients.set(target, new grpc.Client(target, credentials));
  const options = { deadline: Date.now() + 20_000 };
  const metadata = new grpc.Metadata({ waitForReady: true });
  return new Promise((resolve) => {
    clients.get(target).makeUnaryRequest(
      '/peer.Echo/Unary', same, same, Buffer.from('hello'), metadata, options,
      (error, answer) => resolve(error ? `${grpc.status[error.code]} ${error.details}` : answer.toString()),
    );
  });
}

for await (const line of readline.createInterface({ input: process.stdin })) console.log(await call(line.trim()));
process.exit(0);
