// Tokens of npm's jose: prints its keys as a JWKS, and tokens that are good and bad, as JSON.
// Usage: tokens.mjs FOLDER, whose node_modules has jose.
import { createRequire } from 'node:module';
import { createHmac } from 'node:crypto';
import { pathToFileURL } from 'node:url';

const require = createRequire(process.argv[2] + '/');
const jose = await import(pathToFileURL(require.resolve('jose')).href);

const now = Math.floor(Date.now() / 1000);
const claims = { iss: 'https://issuer.example', sub: 'alice', aud: 'svc', exp: now + 3600, iat: now, nbf: now - 10 };
const secret = new TextEncoder().encode('a secret of sixty-four bytes, which is as many as HS512 asks for');
const names = ['RS256', 'RS384', 'RS512', 'PS256', 'PS384', 'PS512', 'ES256', 'ES384', 'ES512', 'EdDSA', 'HS256', 'HS384', 'HS512'];
const pair = async (name) => name.startsWith('HS')
  ? { publicKey: secret, privateKey: secret }
  : jose.generateKeyPair(name, { extractable: true });
const keys = Object.fromEntries(await Promise.all(names.map(async (name) => [name, await pair(name)])));
const sign = (name, payload = claims, key = keys[name].privateKey, header = {}) =>
  new jose.SignJWT(payload).setProtectedHeader({ alg: name, kid: name, ...header }).sign(key);

const good = {};
const jwks = { keys: [] };
for (const name of names) {
  good[name] = await sign(name);
  jwks.keys.push({ ...await jose.exportJWK(keys[name].publicKey), kid: name, alg: name });
}

const base64url = (text) => Buffer.from(text).toString('base64url');
const pem = await jose.exportSPKI(keys.RS256.publicKey);
const signed = base64url('{"alg":"HS256","kid":"RS256"}') + '.' + base64url(JSON.stringify(claims));
const confused = signed + '.' + createHmac('sha256', pem).update(signed).digest('base64url');
const other = async (name) => (await pair(name)).privateKey;
const [head, , signature] = good.ES512.split('.');
const bad = {
  'expired': await sign('ES512', { ...claims, exp: now - 3600 }),
  'not yet valid': await sign('PS512', { ...claims, nbf: now + 3600 }),
  'of another issuer': await sign('EdDSA', { ...claims, iss: 'https://other.example' }),
  'for another audience': await sign('HS384', { ...claims, aud: ['other', 'else'] }),
  'of another RSA key': await sign('PS256', claims, await other('PS256')),
  'of another EC key': await sign('ES512', claims, await other('ES512')),
  'of another Ed25519 key': await sign('EdDSA', claims, await other('EdDSA')),
  'of a key that nobody knows': await sign('ES256', claims, await other('ES256'), { kid: 'nobody' }),
  'unsigned': new jose.UnsecuredJWT(claims).encode(),
  'confused': confused,
  'of another payload': head + '.' + base64url(JSON.stringify({ ...claims, sub: 'mallory' })) + '.' + signature,
  'encrypted': await new jose.EncryptJWT(claims).setProtectedHeader({ alg: 'dir', enc: 'A256GCM' }).encrypt(secret.slice(0, 32)),
};
console.log(JSON.stringify({ jwks, good, bad }));
