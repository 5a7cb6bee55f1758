// Starts the provider, the proxy in front and the control address; says where they are; lives as long as standard input.
import * as http from 'node:http';

import { Front } from './front.mjs';
import { good, hostile } from './hostile.mjs';
import { publicPart } from './keys.mjs';
import { AUDIENCE, Airlock } from './provider.mjs';

let airlock;
const front = new Front((request, response) => airlock.answer(request, response));
airlock = new Airlock(await front.listen());

/** What can be asked, and what is answered. */
const control = {
  'GET /control/counts': () => front.counts,
  'GET /control/clients': () => airlock.clients(),
  'GET /control/hostile': () => ({ good: good(airlock), hostile: hostile(airlock) }),
  'GET /control/keys': () => ({ keys: airlock.keys.map(publicPart) }),
  'POST /control/client': (said) => airlock.addClient(said),
  'POST /control/rotate': () => airlock.rotate(),
  'POST /control/withdraw': ({ kid }) => airlock.withdraw(kid),
  'POST /control/mint': (said) => ({ token: airlock.mint(said) }),
  'POST /control/fault': (said) => front.fault(said),
};

const controls = http.createServer(async (request, response) => {
  let body = '';
  for await (const piece of request) body += piece;
  const act = control[`${request.method} ${request.url}`];
  let [status, said] = [404, { allowed: Object.keys(control) }];
  if (act) {
    try {
      [status, said] = [200, (await act(body ? JSON.parse(body) : {})) ?? {}];
    } catch (error) {
      [status, said] = [400, { error: String(error.stack) }];
    }
  }
  response.writeHead(status, { 'content-type': 'application/json' });
  response.end(JSON.stringify(said));
});
await new Promise((done) => controls.listen(0, '127.0.0.1', done));

const { client_id, client_secret } = airlock.clients().find((client) => client.client_id === 'kahn');
console.log(JSON.stringify({
  issuer: airlock.issuer, control: `http://127.0.0.1:${controls.address().port}`, audience: AUDIENCE, client_id, client_secret,
}));
process.stdin.resume();
process.stdin.on('end', () => process.exit(0));
