/** Block I/O classes, from a pod's annotation to the kernel's limits. */
import assert from 'node:assert/strict';
import { readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { parseBlockioClasses } from '../../src/engine/cgroup/blockio.ts';
import { createEngine, type Engine } from '../../src/engine/engine.ts';
import { controllerDirectory } from '../../src/sys/cgroup/cgroup-facts.ts';
import { attachDisk, detachDisk } from '../support/loop-disk.ts';
import { containerSpec, sandboxSpec, startEngine, type TestEngine } from './support/engine.ts';

const annotation = 'blockio.resources.beta.kubernetes.io/pod';
let host: TestEngine;
let engine: Engine;
let disk: string;

before(async () => {
  host = await startEngine();
  disk = attachDisk(join(host.directory, 'disk'), 1 << 20);
  const text = JSON.stringify({
    Classes: { slow: [{ Devices: [disk, '/dev/no-such-disk*', '/dev/null'], ThrottleReadBps: '10M', ThrottleWriteIOPS: '1k' }] },
  });
  engine = createEngine({ ...host.deps, blockio: parseBlockioClasses(text) });
});
after(async () => {
  detachDisk(disk);
  await host.end();
});

async function create(of: Engine, className: string, unified = {}): Promise<string> {
  const sandboxId = await of.runSandbox(sandboxSpec({ annotations: { [annotation]: className } }));
  return of.createContainer(sandboxId, containerSpec(['sleep', '1000'], { resources: { unified } }), host.image);
}

/** Returns the kernel's limit for reads of the disk. */
function readRate(id: string): string | undefined {
  const { cgroups } = host.deps;
  const { rdev } = statSync(disk);
  const number = `${rdev >> 8}:${rdev & 0xff}`;
  const [controller, file] = cgroups.version === 2 ? ['io', 'io.max'] : ['blkio', 'blkio.throttle.read_bps_device'];
  const text = readFileSync(`${controllerDirectory(cgroups, host.engine.container(id).record.cgroupPath, controller)}/${file}`, 'utf8');
  const line = text.split('\n').find((each) => each.startsWith(`${number} `));
  return /rbps=(\d+)|:\d+ (\d+)/
    .exec(line ?? '')
    ?.slice(1)
    .find(Boolean);
}

test("a pod's class limits its containers on existing disks, and survives an update", async () => {
  const id = await create(engine, 'slow');
  assert.equal(readRate(id), '10000000');
  await engine.updateResources(id, { cpuShares: 512 });
  assert.equal(readRate(id), '10000000');
});

test('an unknown class is rejected by name', async () => {
  await assert.rejects(create(engine, 'fast'), /unknown block I\/O class "fast"; the classes of this node are slow/);
});

test('the annotation is ignored if the node has no classes', async () => {
  assert.equal(readRate(await create(host.engine, 'fast')), undefined);
});
