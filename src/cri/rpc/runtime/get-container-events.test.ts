import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { type Client, type ClientReadableStream, status as Codes, credentials, loadPackageDefinition, type ServiceError } from '@grpc/grpc-js';
import { containerView, fakeDeps, fakeLog, sandboxView } from '../../../../test/support/cri-fakes.ts';
import { createEvents, type EventKind, type LifeEvent } from '../../../engine/state/events.ts';
import { loadContract } from '../../contract.ts';
import { listen } from '../../server.ts';
import { createItemBytes } from '../../to-response/item-bytes.ts';
import type { ContainerEventResponse } from '../../wire/messages.ts';

const contract = loadContract();
const directory = mkdtempSync(join(tmpdir(), 'berth-cri-'));
after(() => rmSync(directory, { recursive: true }));

type Stream = ClientReadableStream<ContainerEventResponse>;

/** Serves events that the test emits. `subscribe` returns when the subscription is active. */
async function serve(t: { after: (end: () => Promise<void>) => void }, name: string) {
  const events = createEvents();
  const { engine, ...others } = fakeDeps();
  let listeners = 0;
  const follow = (signal: AbortSignal) => {
    listeners += 1;
    return events.listen(signal);
  };
  const deps = { ...others, engine: { ...engine, events: follow }, items: createItemBytes(contract.encoders), log: fakeLog() };
  const path = join(directory, `${name}.sock`);
  const server = await listen(contract, path, deps);
  const { Service } = loadPackageDefinition({ Service: contract.runtime }) as unknown as {
    Service: new (path: string, creds: unknown, options: object) => Client;
  };
  const clients: Client[] = [];
  t.after(async () => {
    for (const client of clients) client.close();
    events.close();
    await server.close(1000);
  });
  const subscribe = async (): Promise<Stream> => {
    const method = contract.runtime['GetContainerEvents'];
    assert.ok(method);
    // A connection of its own, because a shared connection has a shared window.
    const client = new Service(`unix://${path}`, credentials.createInsecure(), { 'grpc.use_local_subchannel_pool': 1 });
    clients.push(client);
    const before = listeners;
    const stream = client.makeServerStreamRequest(method.path, method.requestSerialize, method.responseDeserialize, {}) as Stream;
    await until(() => listeners > before);
    return stream;
  };
  return { events, server, subscribe };
}

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 5));
}

const sandbox = sandboxView('s1');
const event = (kind: EventKind, id: string, change: Partial<LifeEvent> = {}): LifeEvent => ({
  kind,
  id,
  atNs: '1795246692080405238',
  sandbox,
  containers: [],
  ...change,
});

/** The code that a stream ends with. */
const codeOf = (stream: Stream): Promise<number> =>
  new Promise((resolve) => {
    stream.once('end', () => resolve(Codes.OK));
    stream.once('error', (error: ServiceError) => resolve(error.code));
  });

test('GetContainerEvents sends each event with the status of the pod at that time', async (t) => {
  const { events, subscribe } = await serve(t, 'messages');
  const stream = await subscribe();
  const messages: ContainerEventResponse[] = [];
  stream.on('data', (message: ContainerEventResponse) => messages.push(message));
  events.emit(event('stopped', 'c1', { containers: [containerView('c1', {}, { startedAtNs: '4', finishedAtNs: '5', exitCode: 3 })] }));
  events.emit(event('deleted', 's1'));
  await until(() => messages.length === 2);
  const [stopped, deleted] = messages;
  assert.deepEqual(
    [stopped?.container_id, stopped?.container_event_type, stopped?.created_at],
    ['c1', 'CONTAINER_STOPPED_EVENT', '1795246692080405238'],
  );
  assert.equal(stopped?.pod_sandbox_status?.metadata?.uid, 'u1');
  assert.deepEqual(
    stopped?.containers_statuses?.map(({ id, state, exit_code }) => [id, state, exit_code]),
    [['c1', 'CONTAINER_EXITED', 3]],
  );
  assert.deepEqual([deleted?.container_id, deleted?.container_event_type], ['s1', 'CONTAINER_DELETED_EVENT']);
  stream.on('error', () => {});
  stream.cancel();
});

test('GetContainerEvents ends when the caller disconnects', async (t) => {
  const { events, subscribe } = await serve(t, 'gone');
  const stream = await subscribe();
  const code = codeOf(stream);
  stream.cancel();
  assert.equal(await code, Codes.CANCELLED);
  await until(() => !events.hasListeners());
});

test('a caller that does not read gets RESOURCE_EXHAUSTED and does not delay others', async (t) => {
  const { events, subscribe } = await serve(t, 'slow');
  const slow = await subscribe();
  // Pause after the first event: a client that never reads would buffer all of them itself.
  slow.once('data', () => slow.pause());
  const quick = await subscribe();
  let taken = 0;
  quick.on('data', () => {
    taken += 1;
  });
  quick.on('error', () => {});
  const annotations = { large: 'x'.repeat(4096) };
  const large = sandboxView('s1', { spec: { ...sandbox.record.spec, annotations } });
  const count = 6000;
  for (let n = 0; n < count; n += 1) {
    events.emit(event('created', `c${n}`, { sandbox: large }));
    // Emit no faster than the fast client reads.
    if (n % 500 === 499) await until(() => taken >= n - 1000);
  }
  await until(() => taken === count);
  slow.resume();
  assert.equal(await codeOf(slow), Codes.RESOURCE_EXHAUSTED);
  quick.cancel();
});

test('closing the events ends the calls, so that shutdown does not wait for them', async (t) => {
  const { events, subscribe, server } = await serve(t, 'close');
  const stream = await subscribe();
  stream.resume();
  const code = codeOf(stream);
  events.close();
  assert.equal(await code, Codes.OK);
  await server.close(60_000);
});
