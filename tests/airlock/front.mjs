// A proxy in front of the provider that can be told to fail. Its address is the issuer, so that whoever trusts the
// provider goes through it.
import * as http from 'node:http';

const PATHS = {
  discovery: '/.well-known/openid-configuration', jwks: '/jwks', token: '/token', introspection: '/token/introspection',
};

export class Front {
  /** What to do instead of passing, by path; `*` is every path. */
  faults = new Map();

  counts = {};

  constructor(answer) {
    this.inner = http.createServer(answer);
    this.outer = http.createServer((request, response) => this.take(request, response));
  }

  async listen() {
    await listening(this.inner, 0);
    await listening(this.outer, 0);
    this.port = this.outer.address().port;
    return `http://127.0.0.1:${this.port}`;
  }

  /** Sets what happens at a path; `pass` is nothing. */
  async fault({ path = '*', mode, ...more }) {
    const at = PATHS[path] ?? path;
    if (mode === 'pass') this.faults.delete(at);
    else this.faults.set(at, { mode, ...more });
    const isDown = this.faults.get('*')?.mode === 'down';
    if (isDown && this.outer.listening) {
      this.outer.closeAllConnections();
      await new Promise((done) => this.outer.close(done));
    } else if (!isDown && !this.outer.listening) {
      await listening(this.outer, this.port);
    }
  }

  take(request, response) {
    const path = request.url.split('?')[0];
    this.counts[path] = (this.counts[path] ?? 0) + 1;
    const fault = this.faults.get(path) ?? this.faults.get('*');
    switch (fault?.mode) {
      case undefined: return this.pass(request, (status, headers, body) => send(response, status, headers, body));
      // The connection breaks without a word.
      case 'down': return request.socket.destroy();
      // Nothing comes, ever.
      case 'slow': return undefined;
      // The true answer, so many milliseconds later.
      case 'late': return setTimeout(() => this.pass(request, (status, headers, body) => send(response, status, headers, body)), fault.ms);
      // The true answer, a byte a second.
      case 'drip': return this.pass(request, (status, headers, body) => drip(response, status, headers, body));
      // Whatever the test wants to hear.
      case 'answer': {
        const body = fault.fill ? fault.body + ' '.repeat(fault.fill) : fault.body ?? '';
        return send(response, fault.status ?? 200, { 'content-type': 'application/json', ...fault.headers }, Buffer.from(body));
      }
      // The true answer with some members changed; null takes one away.
      case 'patch': return this.pass(request, (status, headers, body) => {
        const members = Object.entries({ ...JSON.parse(body), ...fault.patch }).filter(([, value]) => value !== null);
        send(response, status, headers, Buffer.from(JSON.stringify(Object.fromEntries(members))));
      });
      default: return send(response, 500, {}, Buffer.from(`no such fault: ${fault.mode}`));
    }
  }

  pass(request, done) {
    const { port } = this.inner.address();
    const { method, url, headers } = request;
    const through = http.request({ host: '127.0.0.1', port, method, path: url, headers }, async (answer) => {
      const pieces = [];
      for await (const piece of answer) pieces.push(piece);
      done(answer.statusCode, answer.headers, Buffer.concat(pieces));
    });
    through.on('error', () => request.socket.destroy());
    request.pipe(through);
  }
}

const listening = (server, port) => new Promise((done, failed) => {
  server.once('error', failed);
  server.listen(port, '127.0.0.1', done);
});

function send(response, status, headers, body) {
  const { 'transfer-encoding': _, connection: __, ...rest } = headers;
  response.writeHead(status, { ...rest, 'content-length': body.length });
  response.end(body);
}

function drip(response, status, headers, body) {
  const { 'transfer-encoding': _, connection: __, ...rest } = headers;
  response.writeHead(status, { ...rest, 'content-length': body.length });
  let at = 0;
  const timer = setInterval(() => {
    if (at === body.length) {
      clearInterval(timer);
      response.end();
    } else {
      response.write(body.subarray(at, at + 1));
      at += 1;
    }
  }, 1000);
  response.on('close', () => clearInterval(timer));
}
