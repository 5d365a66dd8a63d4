/**
 * Servers that violate the protocols: each response leads to a clear error in time, and no credentials are sent to other hosts.
 */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { describe, test } from 'node:test';
import type { BerthError } from '../../src/lib/errors.ts';
import { layer, manifestType, sendError } from '../support/fake-registry.ts';
import { failure, readAll, timing, useRegistries, userAuth } from '../support/registry-bed.ts';

const bed = useRegistries();
const deps = { timing: { ...timing, responseTimeoutMs: 400, stallTimeoutMs: 200 } };

function residentBytes(): number {
  return Number(/VmRSS:\s+(\d+) kB/.exec(readFileSync('/proc/self/status', 'utf8'))?.[1]) << 10;
}

/** Sends `first`, then sends `again` repeatedly while the client is connected. */
function sendsBytes(first: string, again = ''): (request: IncomingMessage) => boolean {
  return ({ socket }) => {
    socket.on('error', () => undefined);
    const more = (): void => {
      if (!socket.destroyed) socket.write(again, () => setTimeout(more, 1));
    };
    socket.write(first, 'latin1', again === '' ? undefined : more);
    return true;
  };
}

const ok = 'HTTP/1.1 200 OK\r\n';
const chunked = `${ok}Content-Type: ${manifestType}\r\nTransfer-Encoding: chunked\r\n\r\n`;
const sized = (length: string): string => `${ok}Content-Type: ${manifestType}\r\nContent-Length: ${length}\r\n\r\n`;

type BadResponse = readonly [what: string, code: BerthError['code'], first: string, again?: string];
const badResponses: readonly BadResponse[] = [
  ['not HTTP', 'FAILED_PRECONDITION', 'SSH-2.0-OpenSSH_9.2\r\n'],
  ['a header of 1 MiB', 'FAILED_PRECONDITION', `${ok}X: ${'x'.repeat(1 << 20)}\r\n\r\n`],
  ['a challenge of 1 MiB', 'FAILED_PRECONDITION', `HTTP/1.1 401 No\r\nWWW-Authenticate: Bearer realm="${'x'.repeat(1 << 20)}"\r\n\r\n`],
  ['endless headers', 'FAILED_PRECONDITION', ok, `X: ${'x'.repeat(4000)}\r\n`],
  ['slow headers', 'UNAVAILABLE', ok, 'X: y\r\n'],
  ['endless early hints', 'UNAVAILABLE', '', 'HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n'],
  ['endless 100 Continue', 'UNAVAILABLE', '', 'HTTP/1.1 100 Continue\r\n\r\n'],
  ['a switch to another protocol', 'FAILED_PRECONDITION', 'HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n'],
  ['two lengths', 'FAILED_PRECONDITION', `${ok}Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef`],
  ['a negative length', 'FAILED_PRECONDITION', sized('-5')],
  ['a length that exceeds integers', 'FAILED_PRECONDITION', sized('99999999999999999999999')],
  ['a length larger than the body', 'UNAVAILABLE', `${sized('100000')}{}`],
  ['length and chunked encoding', 'FAILED_PRECONDITION', `${ok}Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`],
  ['chunks without a valid size', 'UNAVAILABLE', `${chunked}zz\r\n{}`],
  ['a chunk size that exceeds integers', 'UNAVAILABLE', `${chunked}ffffffffffffffffff\r\n{}`],
  ['a chunk of exabytes', 'FAILED_PRECONDITION', `${chunked}fffffffffffffff\r\n`, ' '.repeat(1 << 20)],
  ['endless chunk extensions', 'UNAVAILABLE', `${chunked}1;`, 'x'.repeat(4000)],
  ['endless trailers', 'UNAVAILABLE', `${chunked}1\r\n{\r\n0\r\n`, `X: ${'x'.repeat(4000)}\r\n`],
  ['an unknown status', 'FAILED_PRECONDITION', 'HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n'],
  ['204 No Content', 'FAILED_PRECONDITION', 'HTTP/1.1 204 No Content\r\n\r\n'],
  ['206 Partial Content', 'FAILED_PRECONDITION', 'HTTP/1.1 206 Part\r\nContent-Length: 0\r\n\r\n'],
];

describe('a registry that sends', () => {
  for (const [what, code, first, again] of badResponses) {
    test(`${what}: fails with a clear error`, async () => {
      bed.fake.misbehave = sendsBytes(first, again);
      const before = residentBytes();
      await bed.withSession(async (session) => void (await failure(session.fetchManifest('1'), code)), { deps });
      assert.ok(residentBytes() - before < 100 << 20);
    });
  }
});

describe('a registry that redirects', () => {
  const to =
    (location: string | undefined, status = 307) =>
    (request: IncomingMessage, response: ServerResponse) => {
      if (request.url?.startsWith('/loop') === true) response.writeHead(302, { location: '/loop' }).end();
      else response.writeHead(status, location === undefined ? {} : { location }).end();
      return true;
    };
  const cases: readonly (readonly [string | undefined, RegExp])[] = [
    [undefined, /status 307/],
    ['/loop', /more than 10 redirects/],
    ['', /more than 10 redirects|status 307/],
    ['http://[', /not an http URL/],
    ['http://', /not an http URL/],
    ['gopher://x/', /not an http URL/],
    ['data:application/json,{}', /not an http URL/],
    ['http+unix://%2Frun%2Fberth.sock/x', /not an http URL/],
    ['/run/../../etc/passwd#x', /more than 10 redirects/],
  ];
  for (const [location, message] of cases) {
    test(`to ${location}: fails with a clear error`, async () => {
      bed.fake.misbehave = to(location);
      await bed.withSession(
        async (session) => {
          assert.match(await failure(session.fetchManifest('1'), 'FAILED_PRECONDITION'), message);
          assert.match(await failure(session.openBlob(layer), 'FAILED_PRECONDITION'), message);
        },
        { deps },
      );
    });
  }

  test('to another address of the node: no credentials are sent there, and its challenge is ignored', async () => {
    bed.fake.misbehave = to(`http://user:word@${bed.other.host}/latest/meta-data/`);
    bed.other.misbehave = (_request, response) =>
      sendError(response, 401, 'DENIED', 'role-credentials', { 'www-authenticate': `Basic realm="${bed.other.host}"` });
    await bed.withSession(
      async (session) => {
        await failure(session.fetchManifest('1'), 'UNAVAILABLE');
        const own = `Basic ${Buffer.from('user:word').toString('base64')}`;
        for (const { headers } of bed.other.requests) assert.ok(headers.authorization === undefined || headers.authorization === own);
        assert.ok(bed.other.requests.length > 0 && bed.other.requests.length <= 5);
      },
      { auth: userAuth, deps },
    );
  });
});

describe('a registry that requires a token', () => {
  const demanding = (realm: string) => (_request: IncomingMessage, response: ServerResponse) =>
    sendError(response, 401, 'UNAUTHORIZED', '', { 'www-authenticate': `Bearer realm="${realm}",service="s"` });

  for (const realm of ['file:///etc/passwd', 'http://user:word@127.0.0.1:1/', '//127.0.0.1/', 'x'.repeat(8000), 'ftp://127.0.0.1/']) {
    test(`from ${realm.slice(0, 40)}: no token is requested`, async () => {
      bed.fake.misbehave = demanding(realm);
      await bed.withSession(async (session) => void (await failure(session.fetchManifest('1'), 'UNAUTHENTICATED')), { auth: userAuth, deps });
      assert.ok(bed.fake.requests.every(({ headers }) => headers.authorization === undefined));
    });
  }

  test('and accepts none: the number of requests is limited', async () => {
    bed.other.misbehave = (_request, response) => {
      response.end(JSON.stringify({ token: `t${bed.other.requests.length}` }));
      return true;
    };
    bed.fake.misbehave = demanding(`http://${bed.other.host}/token`);
    await bed.withSession(async (session) => void (await failure(session.fetchManifest('1'), 'UNAUTHENTICATED')), { deps });
    assert.ok(bed.other.requests.length <= 3 && bed.fake.requests.length <= 4);
  });

  test('of 1 GB, of the wrong type, or from a service that redirects endlessly: fails with a clear error', async () => {
    bed.fake.misbehave = demanding(`http://${bed.other.host}/token`);
    const before = residentBytes();
    let sent = 0;
    const answers: readonly (readonly [(request: IncomingMessage, response: ServerResponse) => boolean, RegExp])[] = [
      [
        (_request, response) => {
          const piece = Buffer.alloc(64 << 10, ' ');
          response.on('error', () => undefined);
          const more = (): void => {
            sent += piece.length;
            if (!response.destroyed) response.write(piece, () => setImmediate(more));
          };
          more();
          return true;
        },
        /exceeds 262144 bytes/,
      ],
      [(_request, response) => void response.end('[]') === undefined, /no token in the response/],
      [(_request, response) => void response.end(`${'['.repeat(50_000)}${']'.repeat(50_000)}`) === undefined, /no token in the response/],
      [(_request, response) => void response.end('{"token":"a\\r\\nX-Evil: 1"}') === undefined, /no token in the response/],
      [(_request, response) => void response.writeHead(302, { location: '/token' }).end() === undefined, /more than 10 redirects/],
      [(_request, response) => void response.writeHead(302, { location: 'file:///etc/passwd' }).end() === undefined, /not an http URL/],
    ];
    for (const [answer, message] of answers) {
      bed.other.misbehave = answer;
      await bed.withSession(async (session) => assert.match(await failure(session.fetchManifest('1'), 'FAILED_PRECONDITION'), message), { deps });
    }
    assert.ok(sent < 32 << 20, `${sent} bytes were taken`);
    assert.ok(residentBytes() - before < 100 << 20);
  });

  test('from a service that redirects: the password is not sent to the other host', async () => {
    bed.other.misbehave = (_request, response) =>
      void response.writeHead(302, { location: `http://localhost:${bed.fake.port}/elsewhere` }).end() === undefined;
    bed.fake.misbehave = (request, response, body) => {
      if (request.url?.startsWith('/elsewhere') !== true) return demanding(`http://${bed.other.host}/token`)(request, response) && body === '';
      response.end('{}');
      return true;
    };
    await bed.withSession(async (session) => void (await failure(session.fetchManifest('1'), 'FAILED_PRECONDITION')), { auth: userAuth, deps });
    const elsewhere = bed.fake.requests.filter(({ url }) => url.startsWith('/elsewhere'));
    assert.ok(elsewhere.length > 0 && elsewhere.every(({ headers }) => headers.authorization === undefined));
  });
});

test('a blob with a wrong content range is rejected, and a slow one can be cancelled', async () => {
  for (const range of ['bytes 0-9/10', 'bytes 5000-4999/1', 'items 5000-9/10', 'bytes */300000']) {
    bed.fake.misbehave = (_request, response) => void response.writeHead(206, { 'content-range': range }).end('x') === undefined;
    await bed.withSession(async (session) => void (await failure(session.openBlob(layer, { offset: 1234 }), 'FAILED_PRECONDITION')), { deps });
  }
  bed.fake.misbehave = sendsBytes(`${ok}Content-Length: ${layer.sizeBytes}\r\n\r\n`, 'x');
  const controller = new AbortController();
  await bed.withSession(
    async (session) => {
      const { stream } = await session.openBlob(layer);
      setTimeout(() => controller.abort(), 600);
      await failure(readAll(stream), 'CANCELLED');
    },
    { deps, signal: controller.signal },
  );
});
