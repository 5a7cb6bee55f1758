// The OpenID Connect server: clients, accounts, resources, keys.
import { randomBytes } from 'node:crypto';
import Provider from 'oidc-provider';

import { newKey, newKeys, compact } from './keys.mjs';

export const AUDIENCE = 'kahn';
export const RESOURCE = 'urn:kahn';
const SCOPES = ['kahn:read', 'kahn:ingest', 'kahn:admin'];

/** Everything that is kept, by model and id. It outlives the server that a change of keys replaces. */
class Kept {
  static models = new Map();

  static of(model) {
    if (!Kept.models.has(model)) Kept.models.set(model, new Map());
    return Kept.models.get(model);
  }

  constructor(model) {
    this.rows = Kept.of(model);
  }

  async upsert(id, payload, expiresIn) {
    this.rows.set(id, { payload, until: expiresIn ? Date.now() + expiresIn * 1000 : Infinity });
  }

  async find(id) {
    const row = this.rows.get(id);
    return row && row.until > Date.now() ? row.payload : undefined;
  }

  async findByUid(uid) {
    return [...this.rows.values()].map((row) => row.payload).find((payload) => payload.uid === uid);
  }

  async consume(id) {
    this.rows.get(id).payload.consumed = Math.floor(Date.now() / 1000);
  }

  async destroy(id) {
    this.rows.delete(id);
  }

  async revokeByGrantId(grantId) {
    for (const [id, row] of this.rows) if (row.payload.grantId === grantId) this.rows.delete(id);
  }
}

/** `ada@acme` belongs to org_acme; a name without @ belongs to nobody. */
const orgOf = (account) => (account.includes('@') ? `org_${account.split('@').at(-1)}` : undefined);

/** Whose name begins with `reader` may only read. */
const scopesOf = (account) => (account.startsWith('reader') ? SCOPES.slice(0, 1) : SCOPES);

const page = (title, body) => `<!doctype html><html lang="en"><meta charset="utf-8"><title>${title}</title><h1>${title}</h1>${body}</html>`;

export class Airlock {
  keys = newKeys();

  constructor(issuer) {
    this.issuer = issuer;
    this.addClient({
      client_id: 'kahn',
      grant_types: ['authorization_code'],
      response_types: ['code'],
      redirect_uris: ['http://127.0.0.1:1/auth/callback'],
    });
    const machines = [
      ['service:kahn-harness', 'org_acme', 'jwt', 'EdDSA'],
      ['service:acme-es256', 'org_acme', 'jwt', 'ES256'],
      ['service:acme-rs256', 'org_acme', 'jwt', 'RS256'],
      ['service:acme-opaque', 'org_acme', 'opaque', 'EdDSA'],
      ['service:globex', 'org_globex', 'jwt', 'EdDSA'],
      ['service:globex-opaque', 'org_globex', 'opaque', 'EdDSA'],
      ['service:nobody', undefined, 'jwt', 'EdDSA'],
    ];
    for (const [client_id, org_id, token_format, token_alg] of machines) {
      this.addClient({ client_id, org_id, token_format, token_alg });
    }
    this.serve();
  }

  /** Adds a client, or changes what is said of one. */
  addClient(said) {
    const clients = Kept.of('Client');
    const client = {
      client_secret: randomBytes(24).toString('base64url'),
      token_endpoint_auth_method: 'client_secret_basic',
      grant_types: ['client_credentials'],
      response_types: [],
      redirect_uris: [],
      scope: ['openid', ...SCOPES].join(' '),
      token_format: 'jwt',
      token_alg: 'EdDSA',
      token_ttl: 600,
      ...clients.get(said.client_id)?.payload,
      ...said,
    };
    clients.set(client.client_id, { payload: client, until: Infinity });
    return client;
  }

  clients() {
    return [...Kept.of('Client').values()].map(({ payload }) => payload);
  }

  /** New keys, which sign from now on; the old ones stay published. */
  rotate() {
    this.keys = [...newKeys(), ...this.keys];
    this.serve();
  }

  /** Takes a key back. Every algorithm keeps one that signs. */
  withdraw(kid) {
    const gone = this.keys.find((key) => key.kid === kid);
    this.keys = this.keys.filter((key) => key.kid !== kid);
    if (gone && !this.keys.some((key) => key.alg === gone.alg)) this.keys.unshift(newKey(gone.alg));
    this.serve();
  }

  /** The key that signs for this algorithm, or the one of this kid. */
  key({ alg = 'EdDSA', kid } = {}) {
    return this.keys.find((key) => (kid ? key.kid === kid : key.alg === alg));
  }

  /** Claims of a good token. */
  claims(more = {}) {
    const now = Math.floor(Date.now() / 1000);
    const claims = {
      iss: this.issuer, aud: AUDIENCE, sub: 'service:kahn-harness', client_id: 'service:kahn-harness', org_id: 'org_acme',
      scope: SCOPES.join(' '), iat: now, exp: now + 600, jti: randomBytes(16).toString('base64url'), ...more,
    };
    return Object.fromEntries(Object.entries(claims).filter(([, value]) => value !== null));
  }

  /** A token signed by a current key, with whatever header and claims; null takes a member away. */
  mint({ alg, kid, header = {}, claims = {}, header_text, payload_text } = {}) {
    const key = this.key({ alg, kid });
    const whole = { alg: key.alg, typ: 'at+jwt', kid: key.kid, ...header };
    const members = Object.fromEntries(Object.entries(whole).filter(([, value]) => value !== null));
    return compact(header_text ?? JSON.stringify(members), payload_text ?? JSON.stringify(this.claims(claims)), key.alg, key);
  }

  /** The server itself, over the keys of now. */
  serve() {
    const provider = new Provider(this.issuer, this.configuration());
    // An error of the server's own is a mistake of this script.
    provider.on('server_error', (_, error) => console.error(error));
    this.provider = provider;
    this.callback = provider.callback();
  }

  configuration() {
    const info = (client) => ({
      audience: AUDIENCE,
      scope: SCOPES.join(' '),
      accessTokenFormat: client.token_format,
      accessTokenTTL: client.token_ttl,
      ...(client.token_format === 'jwt' ? { jwt: { sign: { alg: client.token_alg } } } : {}),
    });
    return {
      adapter: Kept,
      jwks: { keys: this.keys },
      scopes: ['openid', ...SCOPES],
      claims: { openid: ['sub', 'org_id'] },
      conformIdTokenClaims: false,
      clientDefaults: { id_token_signed_response_alg: 'EdDSA' },
      enabledJWA: { idTokenSigningAlgValues: ['EdDSA', 'Ed25519', 'ES256', 'RS256'] },
      extraClientMetadata: { properties: ['org_id', 'token_format', 'token_alg', 'token_ttl'] },
      cookies: { keys: ['not a secret: this is a provider of tests'] },
      pkce: { required: () => true },
      ttl: {
        AccessToken: (_, token) => token.resourceServer.accessTokenTTL,
        ClientCredentials: (_, token) => token.resourceServer.accessTokenTTL,
        IdToken: 600, Interaction: 600, Session: 3600, Grant: 3600, AuthorizationCode: 60,
      },
      features: {
        devInteractions: { enabled: false },
        clientCredentials: { enabled: true },
        introspection: { enabled: true, allowedPolicy: () => true },
        revocation: { enabled: true },
        resourceIndicators: {
          enabled: true,
          defaultResource: () => RESOURCE,
          useGrantedResource: () => true,
          getResourceServerInfo: (_, __, client) => info(client),
        },
        rpInitiatedLogout: {
          enabled: true,
          logoutSource: (ctx, form) => {
            ctx.body = page('Sign out', `${form}<button type="submit" form="op.logoutForm" name="logout" value="yes">Sign out</button>`);
          },
          postLogoutSuccessSource: (ctx) => {
            ctx.body = page('Signed out', '');
          },
        },
      },
      extraTokenClaims: (_, token) => {
        const org_id = token.accountId ? orgOf(token.accountId) : token.client.org_id;
        return org_id ? { org_id } : undefined;
      },
      findAccount: (_, sub) => ({ accountId: sub, claims: () => ({ sub, org_id: orgOf(sub) }) }),
      interactions: { url: (_, { uid }) => `/interaction/${uid}` },
      // Whoever has signed in has agreed.
      loadExistingGrant: async (ctx) => {
        const { accountId } = ctx.oidc.session;
        const grant = new ctx.oidc.provider.Grant({ clientId: ctx.oidc.client.clientId, accountId });
        const allowed = scopesOf(accountId);
        grant.addOIDCScope(['openid', ...allowed].join(' '));
        grant.addResourceScope(RESOURCE, allowed.join(' '));
        const refused = SCOPES.filter((scope) => !allowed.includes(scope));
        if (refused.length) {
          grant.rejectOIDCScope(refused.join(' '));
          grant.rejectResourceScope(RESOURCE, refused.join(' '));
        }
        await grant.save();
        return grant;
      },
      renderError: (ctx, out) => {
        ctx.type = 'html';
        ctx.body = page('It did not work', `<pre>${JSON.stringify(out).replaceAll('<', '&lt;')}</pre>`);
      },
    };
  }

  /** The page where a person says who they are. Any name will do. */
  async interaction(request, response) {
    await this.provider.interactionDetails(request, response);
    if (request.method === 'GET') {
      const form = '<form method="post"><label>Account <input name="account" autofocus required></label>'
        + '<button name="do" value="in">Sign in</button><button name="do" value="no" formnovalidate>Refuse</button></form>';
      response.writeHead(200, { 'content-type': 'text/html; charset=utf-8', 'cache-control': 'no-store' });
      response.end(page('Who are you?', form));
      return;
    }
    let body = '';
    for await (const piece of request) body += piece;
    const said = new URLSearchParams(body);
    const result = said.get('do') === 'no'
      ? { error: 'access_denied', error_description: 'the person refused' }
      : { login: { accountId: said.get('account'), remember: false } };
    await this.provider.interactionFinished(request, response, result, { mergeWithLastSubmission: false });
  }

  async answer(request, response) {
    try {
      if (request.url.startsWith('/interaction/')) await this.interaction(request, response);
      else this.callback(request, response);
    } catch (error) {
      response.writeHead(400, { 'content-type': 'text/plain' });
      response.end(`${error.name}: ${error.message}`);
    }
  }
}
