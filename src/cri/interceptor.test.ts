import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { Client, status as Codes, credentials, Server, ServerCredentials, type ServiceError } from '@grpc/grpc-js';
import { fakeLog } from '../../test/support/cri-fakes.ts';
import { BerthError, notFound } from '../lib/errors.ts';
import { guardStreaming, guardUnary, type StreamingWork, type UnaryWork } from './interceptor.ts';

const directory = mkdtempSync(join(tmpdir(), 'berth-edge-'));
after(() => rmSync(directory, { recursive: true }));

const encode = (value: unknown) => Buffer.from(JSON.stringify(value));
const decode = (bytes: Buffer): unknown => JSON.parse(bytes.toString());

/** Serves one unary and one streaming method over a real connection. */
async function serve(
  t: { after: (end: () => void) => void },
  name: string,
  works: { unary?: UnaryWork; streaming?: StreamingWork; isQuiet?: boolean },
) {
  const log = fakeLog();
  const observed: [string, string][] = [];
  const deps = { log, observe: (rpc: string, code: string) => void observed.push([rpc, code]) };
  const { unary = async () => null, streaming = () => [], isQuiet = false } = works;
  const shape = {
    requestStream: false,
    requestSerialize: encode,
    requestDeserialize: decode,
    responseSerialize: encode,
    responseDeserialize: decode,
  };
  const server = new Server();
  server.addService(
    { One: { ...shape, path: '/t/One', responseStream: false }, Many: { ...shape, path: '/t/Many', responseStream: true } },
    {
      One: guardUnary(deps, { rpc: 'One', path: '/t/One', isQuiet }, unary),
      Many: guardStreaming(deps, { rpc: 'Many', path: '/t/Many', isQuiet }, streaming),
    },
  );
  const target = `unix://${join(directory, name)}`;
  await new Promise<void>((resolve, reject) =>
    server.bindAsync(target, ServerCredentials.createInsecure(), (error) => (error ? reject(error) : resolve())),
  );
  const client = new Client(target, credentials.createInsecure());
  t.after(() => {
    client.close();
    server.forceShutdown();
  });
  const one = (request: unknown = {}, deadline = Number.POSITIVE_INFINITY) => {
    const answer = Promise.withResolvers<{ error: ServiceError | null; response: unknown }>();
    const call = client.makeUnaryRequest('/t/One', encode, decode, request, { deadline }, (error, response) => answer.resolve({ error, response }));
    return { call, answer: answer.promise };
  };
  return { one, client, log, observed };
}

test('a rejection becomes a status with the code of the error and its message in one line', async (t) => {
  const failures: unknown[] = [
    notFound('container c1 not found'),
    new Error('disk\n  on fire'),
    'text',
    new BerthError('INTERNAL', `broken ${'\ud800'}`),
  ];
  const { one } = await serve(t, 'reject', { unary: async () => Promise.reject(failures.shift()) });
  const texts = [];
  for (let left = 4; left > 0; left -= 1) {
    const { error } = await one().answer;
    texts.push([error?.code, error?.details]);
  }
  assert.deepEqual(texts, [
    [Codes.NOT_FOUND, 'container c1 not found'],
    [Codes.INTERNAL, 'disk on fire'],
    [Codes.INTERNAL, 'text'],
    [Codes.INTERNAL, 'broken \ufffd'],
  ]);
});

test('a synchronous exception of a handler is answered like a rejection', async (t) => {
  const { one } = await serve(t, 'throw', {
    unary: () => {
      throw notFound('at once');
    },
  });
  assert.equal((await one().answer).error?.details, 'at once');
});

test("a cancellation by the caller aborts the handler's signal with the reason", async (t) => {
  const { promise: entered, resolve: enter } = Promise.withResolvers<AbortSignal>();
  const { promise: aborted, resolve: abort } = Promise.withResolvers<unknown>();
  const unary: UnaryWork = async (_, signal) => {
    signal.addEventListener('abort', () => abort(signal.reason));
    enter(signal);
    return aborted;
  };
  const { one } = await serve(t, 'cancel', { unary });
  const { call, answer } = one();
  await entered;
  call.cancel();
  const reason = await aborted;
  assert.ok(reason instanceof BerthError && reason.code === 'CANCELLED', String(reason));
  assert.equal((await answer).error?.code, Codes.CANCELLED);
});

test("the caller's deadline aborts the handler with DEADLINE_EXCEEDED, even if Node throws a plain AbortError", async (t) => {
  const { promise: aborted, resolve: abort } = Promise.withResolvers<unknown>();
  const unary: UnaryWork = async (_, signal) => {
    signal.addEventListener('abort', () => abort(signal.reason));
    await aborted;
    throw Object.assign(new Error('The operation was aborted'), { name: 'AbortError' });
  };
  const { one, observed } = await serve(t, 'deadline', { unary });
  assert.equal((await one({}, Date.now() + 30).answer).error?.code, Codes.DEADLINE_EXCEEDED);
  const reason = await aborted;
  assert.ok(reason instanceof BerthError && reason.code === 'DEADLINE_EXCEEDED', String(reason));
  await new Promise((resolve) => setImmediate(resolve));
  assert.deepEqual(observed, [['One', 'DEADLINE_EXCEEDED']]);
});

test('the signal of a completed call is not aborted', async (t) => {
  const signals: AbortSignal[] = [];
  const { one } = await serve(t, 'ended', { unary: async (_, signal) => signals.push(signal) });
  await one().answer;
  await one().answer;
  assert.deepEqual(
    signals.map((signal) => signal.aborted),
    [false, false],
  );
});

test('a change is logged once; a poll only at debug level, unless it fails unexpectedly', async (t) => {
  const works = [async () => ({ container_id: 'c1' }), async () => Promise.reject(notFound('gone')), async () => Promise.reject(new Error('bug'))];
  const levels = async (isQuiet: boolean) => {
    let next = 0;
    const { one, log, observed } = await serve(t, `log-${isQuiet}`, { isQuiet, unary: () => (works[next++] ?? assert.fail)() });
    for (const _ of works) await one().answer;
    assert.deepEqual(observed, [
      ['One', 'OK'],
      ['One', 'NOT_FOUND'],
      ['One', 'INTERNAL'],
    ]);
    assert.equal(log.lines[0]?.fields['id'], 'c1');
    assert.equal(log.lines[2]?.fields['error'], 'bug');
    return log.lines.map(({ level }) => level);
  };
  assert.deepEqual(await levels(false), ['info', 'warn', 'warn']);
  assert.deepEqual(await levels(true), ['debug', 'debug', 'warn']);
});

test('a stream returns all messages in order, then its end or its error', async (t) => {
  const page = 'x'.repeat(60_000);
  const streaming: StreamingWork = async function* (request) {
    for (let n = 0; n < 50; n += 1) yield { n, page };
    if (request === 'fail') throw notFound('the rest');
  };
  const { client } = await serve(t, 'stream', { streaming });
  const read = async (request: string) => {
    const numbers: number[] = [];
    const stream = client.makeServerStreamRequest('/t/Many', encode, decode, request);
    try {
      for await (const { n } of stream as AsyncIterable<{ n: number }>) numbers.push(n);
      return { numbers, code: Codes.OK };
    } catch (error) {
      return { numbers, code: (error as ServiceError).code };
    }
  };
  const all = Array.from({ length: 50 }, (_, n) => n);
  assert.deepEqual(await read('all'), { numbers: all, code: Codes.OK });
  assert.deepEqual(await read('fail'), { numbers: all, code: Codes.NOT_FOUND });
});

test('a stream stops producing when its reader cancels', async (t) => {
  const { promise: finished, resolve: finish } = Promise.withResolvers<number>();
  const streaming: StreamingWork = async function* () {
    let made = 0;
    try {
      for (;;) {
        made += 1;
        yield 'x'.repeat(60_000);
      }
    } finally {
      finish(made);
    }
  };
  const { client } = await serve(t, 'reader-gone', { streaming });
  const stream = client.makeServerStreamRequest('/t/Many', encode, decode, {});
  stream.on('error', () => {});
  stream.once('data', () => stream.cancel());
  assert.ok((await finished) > 0);
});
