/**
 * Sends 1 GiB through `cat` in a container. Prints as JSON the received bytes, whether they are intact, and how much this process's memory grew.
 */
import { createHash, randomBytes } from 'node:crypto';
import { Readable, Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { containerSpec, sandboxSpec, startEngine, type TestEngine } from './engine.ts';

const host = await startEngine();
try {
  const id = await host.engine.createContainer(await host.engine.runSandbox(sandboxSpec()), containerSpec(['sleep', '1000']), host.image);
  await host.engine.startContainer(id);
  // Warm up: code is compiled and the heap grows once, which takes some 300 MiB. How much garbage is in flight depends on the load: a peak is compared.
  const warm = await echo(host, id, 400);
  const { bytes, isIntact, rssMax } = await echo(host, id, 1024);
  process.stdout.write(`${JSON.stringify({ bytes, isIntact, growthBytes: rssMax - warm.rssMax })}\n`);
} finally {
  await host.end();
}

async function echo({ engine }: TestEngine, id: string, blocks: number): Promise<{ bytes: number; isIntact: boolean; rssMax: number }> {
  const session = await engine.exec(id, { argv: ['cat'], tty: false, stdin: true, stdout: true, stderr: false });
  const block = randomBytes(1024 * 1024);
  const [sent, received] = [createHash('sha1'), createHash('sha1')];
  let blocksSent = 0;
  let bytes = 0;
  let rssMax = 0;
  const source = new Readable({
    read() {
      if (blocksSent < blocks) sent.update(block);
      this.push(blocksSent++ < blocks ? block : null);
    },
  });
  const target = new Writable({
    write(chunk: Buffer, _, done) {
      received.update(chunk);
      bytes += chunk.length;
      rssMax = Math.max(rssMax, process.memoryUsage.rss());
      done();
    },
  });
  await Promise.all([pipeline(source, session.stdin as Writable), pipeline(session.stdout as Readable, target)]);
  await session.exited;
  return { bytes, isIntact: received.digest('hex') === sent.digest('hex'), rssMax };
}
