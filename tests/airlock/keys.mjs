// Signing keys, and signing whatever bytes a test wants signed.
import * as crypto from 'node:crypto';

const KINDS = {
  EdDSA: () => crypto.generateKeyPairSync('ed25519'),
  ES256: () => crypto.generateKeyPairSync('ec', { namedCurve: 'P-256' }),
  RS256: () => crypto.generateKeyPairSync('rsa', { modulusLength: 2048 }),
};

let made = 0;

/** A private key for an algorithm; its kid is new in this process. */
export function newKey(alg) {
  const { privateKey } = KINDS[alg]();
  made += 1;
  return { ...privateKey.export({ format: 'jwk' }), kid: `${alg.toLowerCase()}-${made}`, alg, use: 'sig' };
}

export const newKeys = () => Object.keys(KINDS).map(newKey);

/** The part of a key that everybody may see. */
export function publicPart({ d, p, q, dp, dq, qi, ...rest }) {
  return rest;
}

export const encode = (bytes) => Buffer.from(bytes).toString('base64url');

/** Signs bytes as an algorithm of JWS does, whatever the key says of itself. */
export function signature(alg, key, bytes) {
  const data = Buffer.from(bytes);
  if (alg.startsWith('HS')) return crypto.createHmac(`sha${alg.slice(2)}`, key).update(data).digest();
  const object = key instanceof crypto.KeyObject ? key : crypto.createPrivateKey({ key, format: 'jwk' });
  if (alg === 'EdDSA' || alg === 'Ed25519') return crypto.sign(null, data, object);
  const hash = `sha${alg.slice(2)}`;
  if (alg.startsWith('ES')) return crypto.sign(hash, data, { key: object, dsaEncoding: 'ieee-p1363' });
  if (alg.startsWith('PS')) {
    const padding = crypto.constants.RSA_PKCS1_PSS_PADDING;
    return crypto.sign(hash, data, { key: object, padding, saltLength: crypto.constants.RSA_PSS_SALTLEN_DIGEST });
  }
  return crypto.sign(hash, data, object);
}

/** A compact JWS of these two texts, as they are. */
export function compact(header, payload, alg, key) {
  const signed = `${encode(header)}.${encode(payload)}`;
  return `${signed}.${encode(signature(alg, key, signed))}`;
}
