// HTTP/2 of Node in clear text: `peer.mjs serve PORT` or `peer.mjs call PORT PATH TRAILERS`.
import http2 from 'node:http2';

const BODY = 600_000;
const STREAMS = 3000;
const AT_ONCE = 50;

const [mode, port, path, trailers] = process.argv.slice(2);

function serve() {
  const server = http2.createServer();
  server.on('stream', (stream) => {
    const parts = [];
    let sent = '';
    stream.on('error', () => {});
    stream.on('trailers', (fields) => { sent = fields['x-sent'] ?? ''; });
    stream.on('data', (part) => parts.push(part));
    stream.on('end', () => {
      const body = Buffer.concat(parts);
      stream.on('wantTrailers', () => stream.sendTrailers({ 'x-length': String(body.length), 'x-sent': sent }));
      stream.respond({ ':status': 200 }, { waitForTrailers: true });
      stream.end(body);
    });
  });
  server.listen(Number(port), '127.0.0.1');
}

function post(session, size, fill) {
  return new Promise((resolve, reject) => {
    // Without `trailer` Go's server drops it.
    const stream = session.request({ ':method': 'POST', ':path': path, trailer: 'x-sent' }, { waitForTrailers: true });
    const parts = [];
    let status;
    let seen = '';
    stream.on('wantTrailers', () => stream.sendTrailers({ 'x-sent': 'yes' }));
    stream.on('response', (fields) => { status = fields[':status']; });
    stream.on('trailers', (fields) => { seen = `${fields['x-length']} ${fields['x-sent']}`; });
    stream.on('data', (part) => parts.push(part));
    stream.on('error', reject);
    stream.on('close', () => {
      const body = Buffer.concat(parts);
      if (status !== 200 || !body.equals(Buffer.alloc(size, fill))) reject(new Error(`${status}, ${body.length} of ${size}`));
      else if (trailers === 'trailers' && seen !== `${size} yes`) reject(new Error(`trailers: ${seen}`));
      else resolve();
    });
    stream.end(Buffer.alloc(size, fill));
  });
}

async function call() {
  const session = http2.connect(`http://127.0.0.1:${port}`);
  await post(session, BODY, 'b');
  let next = 0;
  const worker = async () => {
    while (next < STREAMS) await post(session, next++ % 300 + 1, 's');
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
  session.close();
  console.log('OK');
}

if (mode === 'serve') serve();
else call().catch((error) => { console.log(String(error)); process.exit(1); });
