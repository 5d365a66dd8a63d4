/** 1 GiB in each direction through exec arrives intact, and the server's memory does not grow. */
import assert from 'node:assert/strict';
import { fork } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { join } from 'node:path';
import { after } from 'node:test';
import { chunkAt, digestOfGenerated } from '../support/streaming-backend.ts';
import { clientTest, raiseLoopback, startGoClient } from '../support/streaming-bed.ts';
import type { HostAnswer, HostRequest } from '../support/streaming-host.ts';

raiseLoopback();

const bytesTotal = 1_073_741_824;
/** The allowed growth. */
const growthBytesMax = 20_000_000;
/** Enough for the young generation of the garbage collector to reach its full size. */
const warmUpBytes = 268_435_456;
const chunkBytes = 65_536;

/** With the memory settings of bin/berth. */
const host = fork(join(import.meta.dirname, '../support/streaming-host.ts'), {
  execArgv: ['--max-semi-space-size=1'],
  env: { ...process.env, MALLOC_ARENA_MAX: '2' },
});
after(() => host.disconnect());

async function ask(request: HostRequest): Promise<HostAnswer> {
  const answer = once(host, 'message');
  host.send(request);
  return (await answer)[0] as HostAnswer;
}

async function exec(transport: string, argv: readonly string[]): Promise<ReturnType<typeof startGoClient>> {
  const { url = '' } = await ask({ argv });
  const protocol = transport === 'spdy' ? 'v4.channel.k8s.io' : 'v5.channel.k8s.io';
  return startGoClient(['exec', '-transport', transport, '-protocol', protocol, '-url', url, '-stdin', '-stdout']);
}

async function download(transport: string, total: number): Promise<void> {
  const client = await exec(transport, ['generate', String(total)]);
  const hash = createHash('sha256');
  client.stdout?.on('data', (chunk) => hash.update(chunk));
  assert.deepEqual(await once(client, 'close'), [0, null]);
  assert.equal(hash.digest('hex'), digestOfGenerated(total));
}

async function upload(transport: string, total: number): Promise<void> {
  const client = await exec(transport, ['hash']);
  let digest = '';
  client.stdout?.on('data', (chunk) => {
    digest += chunk;
  });
  const closed = once(client, 'close');
  for (let at = 0; at < total; at += chunkBytes) {
    if (!client.stdin?.write(chunkAt(at, chunkBytes))) await once(client.stdin as NodeJS.WritableStream, 'drain');
  }
  client.stdin?.end();
  assert.deepEqual(await closed, [0, null]);
  assert.equal(digest, digestOfGenerated(total));
}

for (const transport of ['spdy', 'websocket']) {
  clientTest(`${transport}: 1 GiB in each direction arrives intact without memory growth`, async () => {
    await download(transport, warmUpBytes);
    await upload(transport, warmUpBytes);
    const before = await ask({ measure: true });
    await download(transport, bytesTotal);
    await upload(transport, bytesTotal);
    const { rssBytesMax } = await ask({ measure: true });
    const growthBytes = rssBytesMax - Math.max(before.rssBytesMax, before.rssBytes);
    assert.ok(growthBytes < growthBytesMax, `${growthBytes} more than ${before.rssBytesMax}`);
  });
}
