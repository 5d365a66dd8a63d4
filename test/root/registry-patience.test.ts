/**
 * The registry client with fake servers on loopback: retries, broken connections and timeouts.
 *
 * Runs in a separate network namespace; connects only to 127.0.0.1.
 */
import assert from 'node:assert/strict';
import type http from 'node:http';
import { describe, test } from 'node:test';
import { layer, layerBytes, sendError } from '../support/fake-registry.ts';
import { failure, readLayer, timing, useRegistries } from '../support/registry-bed.ts';

const bed = useRegistries();

describe('retries', () => {
  test('429 with Retry-After and 503 are retried', async () => {
    const answers = [
      { status: 429, headers: { 'retry-after': '0' } },
      { status: 503, headers: {} },
    ];
    bed.fake.misbehave = (_request, response) => {
      const next = answers.shift();
      return next !== undefined && sendError(response, next.status, 'TOOMANYREQUESTS', 'slow down', next.headers as Record<string, string>);
    };
    await bed.withSession(async (session) => {
      await session.fetchManifest('1');
      assert.equal(bed.fake.requests.length, 3);
      const messages = bed.logged.slice(-2).join();
      assert.match(messages, new RegExp(`"host":"http://${bed.fake.host}","attempt":0,.*status 429 .*slow down.*"attempt":1,.*status 503`));
    });
  });

  test('a Retry-After above one minute is an error', async () => {
    bed.fake.misbehave = (_request, response) => sendError(response, 429, 'TOOMANYREQUESTS', 'pull rate limit', { 'retry-after': '3600' });
    await bed.withSession(async (session) => {
      assert.match(
        await failure(session.fetchManifest('1'), 'UNAVAILABLE'),
        /^RegistryUnavailable: .*: status 429 .*pull rate limit.* \(retry after 3600 s\)/,
      );
      assert.equal(bed.fake.requests.length, 1);
    });
  });

  test('there are at most five attempts', async () => {
    bed.fake.misbehave = (_request, response) => sendError(response, 500, 'UNKNOWN', '');
    await bed.withSession(async (session) => {
      await failure(session.fetchManifest('1'), 'UNAVAILABLE');
      assert.equal(bed.fake.requests.length, 5);
    });
  });

  for (const knowsRanges of [true, false]) {
    test(`a blob is resumed after broken connections, from a registry ${knowsRanges ? 'with' : 'without'} range requests`, async () => {
      let breaks = 2;
      bed.fake.misbehave = (request, response) => {
        if (!knowsRanges) delete request.headers.range;
        if (breaks === 0) return false;
        breaks -= 1;
        const offset = Number(/[0-9]+/.exec(request.headers.range ?? '')?.[0] ?? 0);
        const total = layerBytes.length;
        if (offset === 0) response.writeHead(200, { 'content-length': total });
        else response.writeHead(206, { 'content-length': total - offset, 'content-range': `bytes ${offset}-${total - 1}/${total}` });
        response.write(layerBytes.subarray(offset, 100_000 * (2 - breaks)), () => response.destroy());
        return true;
      };
      await bed.withSession(async (session) => {
        await readLayer(session);
        assert.equal(bed.fake.requests.length, 3);
        assert.match(bed.fake.requests[1]?.headers.range ?? (knowsRanges ? '' : 'bytes=1-'), /^bytes=[1-9][0-9]*-$/);
      });
    });
  }

  test('a blob without Content-Length that ends early is resumed', async () => {
    bed.fake.misbehave = (request, response) => {
      if (request.headers.range !== undefined) return false;
      response.write(layerBytes.subarray(0, 12_345));
      response.end();
      return true;
    };
    await bed.withSession(async (session) => {
      await readLayer(session);
      assert.equal(bed.fake.requests[1]?.headers.range, 'bytes=12345-');
    });
  });

  test('a stalled blob is resumed over a new connection, and fails if it always stalls', async () => {
    const stall = (_request: http.IncomingMessage, response: http.ServerResponse): boolean => {
      response.writeHead(200, { 'content-length': layerBytes.length });
      response.write(layerBytes.subarray(0, 1000));
      return true;
    };
    bed.fake.misbehave = (request, response) => request.headers.range === undefined && stall(request, response);
    await bed.withSession(async (session) => {
      await readLayer(session);
      assert.equal(bed.fake.requests.length, 2);
      bed.fake.misbehave = (request, response) => {
        delete request.headers.range;
        return stall(request, response);
      };
      assert.match(await failure(readLayer(session), 'UNAVAILABLE'), /^RegistryUnavailable: .*no data received for 0.3 s/);
    });
  });

  test('a slow reader does not count as a stall', async () => {
    const bytes = Buffer.alloc(4 << 20, 'x');
    bed.fake.misbehave = (_request, response) => {
      response.writeHead(200, { 'content-length': bytes.length });
      response.end(bytes);
      return true;
    };
    await bed.withSession(async (session) => {
      const { stream } = await session.openBlob({ ...layer, sizeBytes: bytes.length });
      const first: Buffer[] = [];
      for await (const chunk of stream) {
        if (first.length === 0) await new Promise((resolve) => setTimeout(resolve, timing.stallTimeoutMs * 3));
        first.push(chunk);
      }
      assert.equal(Buffer.concat(first).length, bytes.length);
      assert.equal(bed.fake.requests.length, 1);
    });
  });

  test('no response is RegistryUnavailable', async () => {
    bed.fake.misbehave = () => true;
    await bed.withSession(async (session) => assert.match(await failure(session.fetchManifest('1'), 'UNAVAILABLE'), /no response within 0.05 s/), {
      deps: { timing: { ...timing, responseTimeoutMs: 50 } },
    });
  });

  test('destroying a stream closes its connection', async () => {
    await bed.withSession(async (session) => {
      bed.fake.misbehave = (_request, response) => {
        response.writeHead(200, { 'content-length': layerBytes.length });
        response.write(layerBytes.subarray(0, 1000));
        return true;
      };
      const unread = await session.openBlob(layer);
      const begun = await session.openBlob(layer);
      await begun.stream[Symbol.asyncIterator]().next();
      const gone = new Promise<void>((resolve) => {
        const look = () => bed.fake.server.getConnections((_error, count) => (count === 0 ? resolve() : setTimeout(look, 10)));
        look();
      });
      unread.stream.destroy();
      begun.stream.destroy();
      await gone;
    });
  });
});
