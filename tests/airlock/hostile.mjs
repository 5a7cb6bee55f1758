// Tokens that must not get anybody in, each with the reason. All but one thing about each is right, so that only the check
// that is named keeps it out: where a signature can be good, it is, by a key that the provider publishes.
import * as crypto from 'node:crypto';

import { compact, encode, newKey, publicPart, signature } from './keys.mjs';

const NOT_OURS = 401;
const NO_TENANT = 403;
/** The order of Ed25519's group. */
const L = 2n ** 252n + 27742317777372353535851937790883648493n;

/** Good tokens, so that whoever tries the others can see that the door opens at all. */
export function good(airlock) {
  const now = Math.floor(Date.now() / 1000);
  return {
    'EdDSA': airlock.mint(),
    'ES256': airlock.mint({ alg: 'ES256' }),
    'RS256': airlock.mint({ alg: 'RS256' }),
    'typ JWT': airlock.mint({ header: { typ: 'JWT' } }),
    'typ missing': airlock.mint({ header: { typ: null } }),
    'aud in an array': airlock.mint({ claims: { aud: ['other', 'kahn'] } }),
    'exp a fraction': airlock.mint({ claims: { exp: now + 300.5 } }),
    'claims that nobody asked for': airlock.mint({ claims: { roles: ['x'], nested: { a: [1, { b: null }] }, name: 'Zoë \u{1f600}' } }),
  };
}

export function hostile(airlock) {
  const now = Math.floor(Date.now() / 1000);
  const [ed, es, rs] = ['EdDSA', 'ES256', 'RS256'].map((alg) => airlock.key({ alg }));
  const all = [];
  const add = (name, token, status = NOT_OURS) => all.push({ name, token, status });
  const header = (more = {}, key = ed) => ({ alg: key.alg, typ: 'at+jwt', kid: key.kid, ...more });
  const claims = (more) => airlock.claims(more);
  const text = JSON.stringify;
  /** A token whose header or payload is this very text, well signed. */
  const headerText = (name, said) => add(`header: ${name}`, compact(said, text(claims()), 'EdDSA', ed));
  const payloadText = (name, said, status) => add(`payload: ${name}`, compact(text(header()), said, 'EdDSA', ed), status);
  const withHeader = (name, more) => add(`header: ${name}`, airlock.mint({ header: more }));
  const withClaims = (name, more, status) => add(`claims: ${name}`, airlock.mint({ claims: more }), status);
  const whole = airlock.mint();
  const [h, p, s] = whole.split('.');

  // Shape.
  const shapes = {
    'one dot': `${h}.${p}`, 'only dots': '..', 'three dots alone': '...', 'four dots alone': '....',
    'no header': `.${p}.${s}`, 'no payload': `${h}..${s}`, 'no signature': `${h}.${p}.`, 'only a header': `${h}..`, 'only a signature': `..${s}`,
    'four parts': `${whole}.${s}`, 'five parts': `${h}.${p}.${s}.${s}.${s}`, 'six parts': `${whole}.${whole}`,
    'a dot more at the end': `${whole}.`, 'a dot more at the beginning': `.${whole}`,
    'a padded header': `${h}=.${p}.${s}`, 'a padded payload': `${h}.${p}=.${s}`, 'a padded signature': `${h}.${p}.${s}==`,
    'a blank in the payload': `${h}.${p.slice(0, 9)} ${p.slice(9)}.${s}`, 'a comma behind it': `${whole},`, 'quoted': `"${whole}"`,
    'percent signs for its dots': whole.replaceAll('.', '%2E'), 'twice': `${whole} ${whole}`, 'the scheme again': `Bearer ${whole}`,
    'a star in the header': `*${h}.${p}.${s}`, 'in lower case': whole.toLowerCase(), 'in upper case': whole.toUpperCase(),
    'a plus in the signature': `${h}.${p}.+${s.slice(1)}`, 'a slash in the signature': `${h}.${p}.${s.slice(0, -1)}/`,
    'a letter that is none of ASCII': `${h}.${p}é.${s}`, 'a tilde': `${h}.${p}~.${s}`,
    'one letter, which is no byte': `${h}.${p}.A`, 'a payload that ends in one letter': `${h}.${p}${'A'.repeat((5 - (p.length % 4)) % 4)}.${s}`,
    'as JSON': text({ payload: p, protected: h, signature: s }),
    'an encrypted token': `${encode(text({ alg: 'dir', enc: 'A256GCM', kid: ed.kid }))}..${encode(crypto.randomBytes(12))}.${p}.${encode(crypto.randomBytes(16))}`,
    'longer than may be': airlock.mint({ claims: { more: 'm'.repeat(9000) } }),
    'an API key of nobody': `kahn_live_sk_${'a'.repeat(8)}_${'b'.repeat(49)}`, 'an API key with dots': `kahn_${h}.${p}.${s}`,
    'an opaque token of nobody': encode(crypto.randomBytes(32)), 'too short for an opaque one': 'abc', 'fifteen letters': 'a'.repeat(15),
    'too long for an opaque one': 'a'.repeat(4097), 'an opaque one with a dot': `abcdefgh.${encode(crypto.randomBytes(16))}`,
    'an opaque one with three dots': `aa.bb.cc.${encode(crypto.randomBytes(16))}`, 'an opaque one with a colon': `user:${encode(crypto.randomBytes(16))}`,
  };
  for (const [name, token] of Object.entries(shapes)) add(`shape: ${name}`, token);
  // The same bytes written another way: the bits that the last letter has too many of.
  const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_';
  const loose = (part) => part.slice(0, -1) + alphabet[alphabet.indexOf(part.at(-1)) + 1];
  add('shape: a signature that is not canonical', `${h}.${p}.${loose(s)}`);
  for (const [name, at] of [['header', 0], ['payload', 1]]) {
    const fill = (members) => {
      let said = text(members);
      while (Buffer.byteLength(said) % 3 === 0) said += ' ';
      return said;
    };
    const parts = [fill(header()), fill(claims())].map(encode);
    parts[at] = loose(parts[at]);
    add(`shape: a ${name} that is not canonical`, `${parts.join('.')}.${encode(signature('EdDSA', ed, parts.join('.')))}`);
  }
  for (const [name, at] of [['header', 0], ['payload', 1]]) {
    const parts = [text(header()), text(claims())].map(encode);
    parts[at] += '='.repeat(parts[at].length % 4 ? 4 - (parts[at].length % 4) : 4);
    add(`shape: a ${name} that was signed with its padding`, `${parts.join('.')}.${encode(signature('EdDSA', ed, parts.join('.')))}`);
  }

  // Algorithms.
  for (const alg of ['none', 'None', 'NONE', 'nOnE']) {
    add(`alg: ${alg}, unsigned`, `${encode(text(header({ alg })))}.${p}.`);
    add(`alg: ${alg}, with a signature`, compact(text(header({ alg })), text(claims()), 'EdDSA', ed));
  }
  const pem = crypto.createPublicKey({ key: publicPart(rs), format: 'jwk' }).export({ type: 'spki', format: 'pem' });
  const secrets = {
    "the RSA key's PEM": [pem, rs], "the RSA key's PEM without its last line": [pem.trim(), rs], "the JWK's JSON": [text(publicPart(rs)), rs],
    "the Ed25519 key's bytes": [Buffer.from(ed.x, 'base64url'), ed], 'no byte': ['', ed], 'the kid': [ed.kid, ed],
    "the client's secret": [airlock.clients()[0].client_secret, ed],
  };
  for (const [name, [secret, key]] of Object.entries(secrets)) {
    for (const alg of ['HS256', 'HS384', 'HS512']) {
      add(`alg: ${alg} with ${name}`, compact(text(header({ alg, kid: key.kid })), text(claims()), alg, secret));
    }
  }
  for (const alg of ['PS256', 'PS384', 'PS512']) add(`alg: ${alg}`, compact(text(header({ alg }, rs)), text(claims()), alg, rs));
  for (const alg of ['RS384', 'RS512']) add(`alg: ${alg} by a key that is for RS256`, compact(text(header({ alg }, rs)), text(claims()), alg, rs));
  for (const alg of ['ES384', 'ES512', 'ES256K']) {
    add(`alg: ${alg} by a P-256 key`, compact(text(header({ alg }, es)), text(claims()), alg === 'ES256K' ? 'ES256' : alg, es));
  }
  for (const [alg, key] of [['ES256', ed], ['RS256', ed], ['EdDSA', es], ['RS256', es], ['EdDSA', rs], ['ES256', rs], ['ES384', rs], ['Ed448', ed]]) {
    add(`alg: ${alg} said of a key for ${key.alg}`, compact(text(header({ alg }, key)), text(claims()), key.alg, key));
  }
  for (const alg of [null, '', 'eddsa', 'EdDSA ', ' EdDSA', 'EdDSA\u0000', 'EDDSA', 'Es256', 1, true, ['EdDSA'], { EdDSA: 1 }]) {
    headerText(`alg ${text(alg)}`, text(header({ alg })));
  }
  headerText('no alg', text({ typ: 'at+jwt', kid: ed.kid }));

  // Keys.
  for (const kid of [null, '', 1, true, [ed.kid], { kid: ed.kid }, 'nobody', `${ed.kid} `, ` ${ed.kid}`, ed.kid.toUpperCase(), ed.kid.slice(0, -1),
    `${ed.kid}\u0000`, '../../../../dev/null', "' OR '1'='1", 'http://127.0.0.1:1/key', '*', '0', 'k'.repeat(3000)]) {
    headerText(`kid ${text(kid).slice(0, 40)}`, text(header({ kid })));
  }
  headerText('no kid', text({ alg: 'EdDSA', typ: 'at+jwt' }));
  for (const key of [ed, es, rs]) {
    const foreign = { ...newKey(key.alg), kid: key.kid };
    const by = (more) => compact(text(header(more, key)), text(claims()), key.alg, foreign);
    const der = crypto.createPublicKey({ key: publicPart(foreign), format: 'jwk' }).export({ type: 'spki', format: 'der' });
    add(`key: somebody else's for ${key.alg}`, by({}));
    add(`key: somebody else's for ${key.alg}, in jwk`, by({ jwk: publicPart(foreign) }));
    add(`key: somebody else's for ${key.alg}, in jku`, by({ jku: `${airlock.issuer}/jwks` }));
    add(`key: somebody else's for ${key.alg}, in x5u`, by({ x5u: `${airlock.issuer}/cert` }));
    add(`key: somebody else's for ${key.alg}, in x5c`, by({ x5c: [der.toString('base64')] }));
    add(`key: somebody else's for ${key.alg}, in jwk alone`, by({ jwk: publicPart(foreign), kid: undefined }));
  }
  const short = crypto.generateKeyPairSync('rsa', { modulusLength: 1024 }).privateKey;
  add('key: RSA of 1024 bits', compact(text(header({}, rs)), text(claims()), 'RS256', short));

  // Signatures.
  const signed = (key, bend) => {
    const token = compact(text(header({}, key)), text(claims()), key.alg, key);
    const at = token.lastIndexOf('.') + 1;
    return token.slice(0, at) + encode(bend(Buffer.from(token.slice(at), 'base64url'), token.slice(0, at - 1)));
  };
  const bent = {
    'first bit': (b) => { b[0] ^= 0x80; return b; }, 'last bit': (b) => { b[b.length - 1] ^= 1; return b; },
    'a byte short': (b) => b.subarray(0, -1), 'a byte long': (b) => Buffer.concat([b, Buffer.from([0])]),
    'a nought before it': (b) => Buffer.concat([Buffer.from([0]), b]), 'noughts': (b) => Buffer.alloc(b.length),
    'ones': (b) => Buffer.alloc(b.length, 255), 'twice': (b) => Buffer.concat([b, b]), 'turned around': (b) => Buffer.from(b).reverse(),
    'halves exchanged': (b) => Buffer.concat([b.subarray(b.length / 2), b.subarray(0, b.length / 2)]),
  };
  for (const key of [ed, es, rs]) {
    for (const [name, bend] of Object.entries(bent)) {
      add(`signature: ${key.alg}, ${name}`, signed(key, bend));
    }
    const other = compact(text(header({}, key)), text(claims()), key.alg, key).split('.');
    const [mine, , its] = compact(text(header({}, key)), text(claims()), key.alg, key).split('.');
    add(`signature: ${key.alg}, another token's`, `${mine}.${other[1]}.${its}`);
    add(`signature: ${key.alg}, the organisation changed behind it`, `${mine}.${encode(text(claims({ org_id: 'org_globex' })))}.${its}`);
  }
  const little = (bytes) => BigInt(`0x${Buffer.from(bytes).reverse().toString('hex')}`);
  add('signature: EdDSA, S and the order', signed(ed, (b) => {
    const sum = (little(b.subarray(32)) + L).toString(16).padStart(64, '0');
    return Buffer.concat([b.subarray(0, 32), Buffer.from(sum, 'hex').reverse()]);
  }));
  add('signature: ES256 in DER', signed(es, (_, bytes) => crypto.sign('sha256', Buffer.from(bytes), crypto.createPrivateKey({ key: es, format: 'jwk' }))));
  add('signature: ES256, r is nought', signed(es, (b) => Buffer.concat([Buffer.alloc(32), b.subarray(32)])));
  add('signature: ES256, s is nought', signed(es, (b) => Buffer.concat([b.subarray(0, 32), Buffer.alloc(32)])));
  add('signature: RS256 over SHA-1', signed(rs, (_, bytes) => crypto.sign('sha1', Buffer.from(bytes), crypto.createPrivateKey({ key: rs, format: 'jwk' }))));
  add('signature: RS256 over the bare digest', signed(rs, (_, bytes) => crypto.privateEncrypt(
    crypto.createPrivateKey({ key: rs, format: 'jwk' }), crypto.createHash('sha256').update(bytes).digest(),
  )));
  add('signature: the header changed behind it', `${encode(text(header({ typ: 'JWT' })))}.${p}.${s}`);

  // What a header may not say.
  for (const crit of [[], ['exp'], ['b64'], 'exp', null, {}]) headerText(`crit ${text(crit)}`, text(header({ crit })));
  for (const [name, value] of [['b64', false], ['b64', true], ['zip', 'DEF'], ['zip', 'GZ'], ['cty', 'JWT'], ['cty', 'at+jwt'], ['cty', '']]) {
    withHeader(`${name} ${text(value)}`, { [name]: value });
  }
  for (const typ of ['logout+jwt', 'dpop+jwt', 'secevent+jwt', 'rt+jwt', 'token-introspection+jwt', 'JOSE', 'jwt+at', 'at+jwt ', '', 1, true, ['at+jwt'], {}]) {
    headerText(`typ ${text(typ)}`, text(header({ typ })));
  }
  for (const typ of ['JWT', null]) {
    for (const [name, value] of [['nonce', 'n'], ['at_hash', 'a'], ['c_hash', 'c'], ['events', { 'http://schemas.openid.net/event/backchannel-logout': {} }]]) {
      add(`claims: ${name}, with typ ${typ}`, airlock.mint({ header: { typ }, claims: { [name]: value } }));
    }
  }
  add('claims: an ID token', airlock.mint({ header: { typ: 'JWT' }, claims: { aud: 'kahn-browser', nonce: 'n', scope: null } }));

  // JSON.
  const deep = (depth) => '['.repeat(depth) + ']'.repeat(depth);
  const within = (members, extra) => `${text(members).slice(0, -1)},${extra}}`;
  const odd = {
    'empty': '', 'null': 'null', 'a number': '1', 'a string': '"x"', 'true': 'true', 'an empty array': '[]', 'an empty object': '{}',
    'half of an object': '{"alg":"EdDSA"', 'binary': Buffer.from([0, 1, 2, 255]),
  };
  for (const [name, said] of Object.entries(odd)) {
    headerText(name, said);
    payloadText(name, said);
  }
  for (const [part, members, put] of [['header', header(), headerText], ['payload', claims(), payloadText]]) {
    const json = text(members);
    const first = Object.keys(members)[0];
    const more = {
      'in an array': `[${json}]`, 'two objects': json + json, 'a letter behind it': `${json}x`, 'a nought behind it': `${json}\u0000`,
      'a mark of byte order': `\ufeff${json}`, 'in UTF-16': Buffer.from(json, 'utf16le'), 'a comma too many': `${json.slice(0, -1)},}`,
      'a comment': `${json.slice(0, -1)}/**/}`, 'single quotes': json.replaceAll('"', "'"), 'a name without quotes': within(members, 'x:1'),
      'bytes that are no UTF-8': Buffer.concat([Buffer.from(`${json.slice(0, -1)},"x":"`), Buffer.from([0xc3, 0x28]), Buffer.from('"}')]),
      'a long form of a letter': Buffer.concat([Buffer.from(`${json.slice(0, -1)},"x":"`), Buffer.from([0xc0, 0xaf]), Buffer.from('"}')]),
      'half of a pair': within(members, '"x":"\\ud800"'), 'a line break in a string': within(members, '"x":"a\nb"'),
      'NaN': within(members, '"x":NaN'), 'a nought before a number': within(members, '"x":01'), 'a plus before a number': within(members, '"x":+1'),
      'a name twice': within(members, `${text(first)}:${text(members[first])}`),
      'a name twice, once written with an escape': within(members, `"\\u00${first.charCodeAt(0).toString(16)}${first.slice(1)}":${text(members[first])}`),
      'a name twice, of no interest': within(members, '"x":1,"x":1'), 'a name twice, further in': within(members, '"x":{"y":[{"z":1,"z":2}]}'),
      'too deep': within(members, `"x":${deep(40)}`), 'far too deep': within(members, `"x":${deep(2000)}`),
    };
    for (const [name, said] of Object.entries(more)) put(name, said);
  }
  for (const [name, value] of [['exp', now + 600], ['iss', airlock.issuer], ['aud', 'kahn'], ['org_id', 'org_globex'], ['sub', 'somebody'], ['scope', 'kahn:read']]) {
    payloadText(`${name} twice`, within(claims(), `${text(name)}:${text(value)}`));
  }

  // Claims.
  const times = {
    'exp missing': { exp: null }, 'exp a string': { exp: String(now + 600) }, 'exp true': { exp: true }, 'exp in an array': { exp: [now + 600] },
    'exp an object': { exp: {} }, 'exp nought': { exp: 0 }, 'exp -1': { exp: -1 }, 'exp two minutes ago': { exp: now - 120 },
    'exp a fraction, two minutes ago': { exp: now - 120.5 }, 'exp two days ahead': { exp: now + 172_800 }, 'exp ten years ahead': { exp: now + 315_360_000 },
    'exp in milliseconds': { exp: (now + 600) * 1000 }, 'exp 2^53': { exp: 2 ** 53 }, 'exp 2^64': { exp: 2 ** 64 }, 'exp 1e308': { exp: 1e308 },
    'exp -1e308': { exp: -1e308 }, 'nbf in five minutes': { nbf: now + 300 }, 'nbf a string': { nbf: String(now) }, 'nbf true': { nbf: true },
    'nbf in an array': { nbf: [now] }, 'nbf 1e308': { nbf: 1e308 }, 'iat a string': { iat: String(now) }, 'iat true': { iat: true }, 'iat an object': { iat: {} },
  };
  for (const [name, more] of Object.entries(times)) withClaims(name, more);
  const plain = claims({ exp: null });
  for (const exp of ['null', '1e400', '-1e400', '1e99999', 'Infinity', '0x7fffffff', `${now + 600}.`, '18446744073709551616', '-0']) {
    payloadText(`exp ${exp}`, within(plain, `"exp":${exp}`));
  }
  const { issuer } = airlock;
  const issuers = [null, '', 1, true, [issuer], { iss: issuer }, `${issuer}/`, ` ${issuer}`, `${issuer} `, issuer.replace('http', 'HTTP'), issuer.replace('http', 'https'),
    issuer.replace('127.0.0.1', 'localhost'), issuer.replace('127.0.0.1', '127.1'), issuer.slice(0, -1), `${issuer}0`, `${issuer}#x`, `${issuer}?x`, `${issuer}\u0000`,
    issuer.replace('http://', ''), 'https://evil.example', issuer.replace('127', '%3127')];
  for (const iss of issuers) withClaims(`iss ${iss === null ? 'missing' : text(iss)}`, { iss });
  for (const aud of [null, '', 1, true, {}, { kahn: true }, [], [''], [['kahn']], [{ aud: 'kahn' }], ['other'], 'other', 'KAHN', 'kahn ', ' kahn', 'kahn,other', 'kahn other',
    'kahnx', 'kah', '*', 'kahn\u0000', 'urn:kahn', 'k\u0430hn']) {
    withClaims(`aud ${aud === null ? 'missing' : text(aud)}`, { aud });
  }
  withClaims('neither sub nor client_id', { sub: null, client_id: null });
  for (const sub of ['', 1, true, ['ada'], {}, 'a\u0000b', 'a\r\nb', 'n'.repeat(300)]) withClaims(`sub ${text(sub).slice(0, 30)}`, { sub });
  for (const cnf of [{ jkt: 'x' }, { 'x5t#S256': 'x' }, {}, 'x', true]) withClaims(`cnf ${text(cnf)}`, { cnf });

  // Good tokens of nobody who has a tenant here.
  for (const org_id of [null, '', 1, true, ['org_acme'], { id: 'org_acme' }, 'org_nobody', 'ORG_ACME', 'org_acme ', ' org_acme', 'org acme', 'org/acme', 'org_acme\u0000',
    "org_acme'--", '*', '%', '\u043erg_acme', 'o'.repeat(65), 'o'.repeat(3000)]) {
    withClaims(`org_id ${org_id === null ? 'missing' : `${text(org_id).slice(0, 30)}, ${text(org_id).length} letters`}`, { org_id }, NO_TENANT);
  }
  payloadText('org_id null', within(claims({ org_id: null }), '"org_id":null'), NO_TENANT);
  return all;
}
