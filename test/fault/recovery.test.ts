/**
 * What the next daemon makes of worse than a dead one: records that cannot be read, a node that was started anew, and disks that are full.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, rmSync, truncateSync, unlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, type TestContext, test } from 'node:test';
import { recover } from '../../src/engine/recover.ts';
import { containerState, sandboxState } from '../../src/engine/state/records.ts';
import { BerthError } from '../../src/lib/errors.ts';
import { processes } from '../../src/sys/cgroup/cgroup-processes.ts';
import { removeCgroup } from '../support/cgroups.ts';
import { enterIsolation } from '../support/isolation.ts';
import { prepareDoomed } from './support/doomed-run.ts';
import { type Node, openNode, steps } from './support/life.ts';
import { strangers, tracesAtEnd, tracesIn } from './support/traces.ts';

enterIsolation();

const cgroup = `berth-recovery-${process.pid}-${Date.now().toString(36)}`;
const compileCache = mkdtempSync('/var/tmp/berth-recovery-cache-');

after(async () => {
  await removeCgroup(cgroup);
  rmSync(compileCache, { recursive: true });
});

function scratch(t: TestContext): string {
  const directory = mkdtempSync('/var/tmp/berth-recovery-');
  t.after(() => {
    for (const mount of mountsBelow(directory)) execFileSync('umount', ['--lazy', mount]);
    rmSync(directory, { recursive: true, force: true });
  });
  return directory;
}

/** A directory in which a pod runs, and the daemon is dead. */
async function abandoned(t: TestContext): Promise<string> {
  const directory = scratch(t);
  const said = await prepareDoomed(compileCache).run(directory, `/${cgroup}`, 'shared', 0, 'StartContainer');
  assert.match(said, /^step StartContainer$/m);
  assert.equal(strangers().length > 1, true, 'the pod runs');
  return directory;
}

async function recovered(t: TestContext, directory: string): Promise<Node> {
  const node = await openNode(directory, `/${cgroup}`);
  t.after(node.end);
  await recover(node.deps);
  return node;
}

const damages = [
  ['torn', 'sandboxes/*/record.json', (file: string) => truncateSync(file, 100)],
  ['torn', 'sandboxes/*/status.json', (file: string) => truncateSync(file, 1)],
  ['torn', 'containers/*/record.json', (file: string) => truncateSync(file, 100)],
  ['missing', 'containers/*/status.json', unlinkSync],
  ['of a later version', 'containers/*/record.json', (file: string) => writeFileSync(file, '{"version":99}')],
] as const;

for (const [how, pattern, damage] of damages) {
  test(`an object whose ${pattern.split('/*/').join(' ')} is ${how} is shown as nothing that runs, and can be removed with all that is its own`, async (t) => {
    const before = tracesIn('/nowhere', cgroup);
    const directory = await abandoned(t);
    const [kind = '', , file = ''] = pattern.split('/');
    const [id = ''] = readdirSync(join(directory, 'state', kind));
    damage(join(directory, 'state', kind, id, file));
    const { engine, deps } = await recovered(t, directory);
    const [sandbox] = engine.sandboxes();
    const [container] = engine.containers();
    assert.ok(sandbox && container, 'both are shown');
    assert.equal(sandboxState(sandbox.status), kind === 'sandboxes' ? 'not-ready' : 'ready');
    assert.equal(containerState(container.status), kind === 'containers' ? 'unknown' : 'running');
    await assert.rejects(engine.createContainer(kind === 'sandboxes' ? id : 'none', container.record.spec, container.record.image), BerthError);
    await engine.stopContainer(container.record.id, 0);
    assert.deepEqual(await processes(deps.cgroups, `/${cgroup}/${container.record.id}`), []);
    await engine.removeContainer(container.record.id);
    await engine.stopSandbox(sandbox.record.id);
    await engine.removeSandbox(sandbox.record.id);
    assert.deepEqual(await tracesAtEnd(directory, cgroup), before);
  });
}

test('after a restart of the node nothing of its pods is left, on disk or with the plugins', async (t) => {
  const before = tracesIn('/nowhere', cgroup);
  const directory = await abandoned(t);
  for (const pid of strangers()) process.kill(pid, 'SIGKILL');
  await tracesAtEnd(directory, cgroup);
  await removeCgroup(cgroup);
  for (const path of ['state', 'netns']) {
    for (const mount of mountsBelow(join(directory, path))) execFileSync('umount', ['--lazy', mount]);
    rmSync(join(directory, path), { recursive: true });
  }
  assert.deepEqual([readdirSync(join(directory, 'root/containers')).length, readdirSync(join(directory, 'leases')).length], [1, 1]);
  const { engine } = await recovered(t, directory);
  assert.deepEqual([engine.sandboxes(), engine.containers()], [[], []]);
  assert.deepEqual(await tracesAtEnd(directory, cgroup), before);
});

function mountsBelow(path: string): string[] {
  return execFileSync('findmnt', ['--list', '--noheadings', '--output', 'TARGET'], { encoding: 'utf8' })
    .split('\n')
    .filter((mount) => mount.startsWith(`${path}/`));
}

/** What is taken away of a file system but for `left`: blocks by one file, inodes by many. */
const scarcities = [
  ['state', 'blocks', 'size=1m'],
  ['state', 'inodes', 'nr_inodes=400'],
  ['root', 'inodes', 'nr_inodes=400'],
] as const;

for (const [place, what, option] of scarcities) {
  test(`with few ${what} left for its ${place} the engine says what is full, leaks nothing, and works when there is room again`, async (t) => {
    const directory = scratch(t);
    const full = join(directory, place);
    mkdirSync(full);
    execFileSync('mount', ['-t', 'tmpfs', '-o', option, 'tmpfs', full]);
    const node = await recovered(t, directory);
    const before = tracesIn(directory, cgroup);
    let refusals = 0;
    for (let left = 0; ; left += 1) {
      const makeRoom = what === 'blocks' ? takeBlocks(full, left) : takeInodes(full, left);
      const failure = await live(node).catch((error: unknown) => error);
      // With the disk as full as it was.
      for (const { record } of node.engine.sandboxes()) await node.engine.removeSandbox(record.id);
      assert.deepEqual(await tracesAtEnd(directory, cgroup), before, `${left} left: ${failure}`);
      makeRoom();
      if (failure === undefined) break;
      refusals += 1;
      assert.ok(failure instanceof BerthError && failure.code === 'RESOURCE_EXHAUSTED' && /ENOSPC/.test(failure.message), `${left} left: ${failure}`);
      assert.ok(left < 100, 'enough is enough');
    }
    t.diagnostic(`${refusals} refusals`);
    assert.ok(refusals > 2);
    await live(node);
    assert.deepEqual(await tracesAtEnd(directory, cgroup), before);
  });
}

async function live(node: Node): Promise<undefined> {
  for (const step of steps) await step.take(node, 'plain');
}

const blockBytes = 4096;

function takeBlocks(directory: string, left: number): () => void {
  const file = join(directory, 'ballast');
  for (let bytes = 1 << 20; ; bytes -= blockBytes) {
    try {
      writeFileSync(file, Buffer.alloc(bytes));
      truncateSync(file, bytes - left * blockBytes);
      return () => unlinkSync(file);
    } catch {
      rmSync(file, { force: true });
    }
  }
}

function takeInodes(directory: string, left: number): () => void {
  const files: string[] = [];
  try {
    for (;;) {
      const file = join(directory, `ballast-${files.length}`);
      writeFileSync(file, '');
      files.push(file);
    }
  } catch {
    for (let count = 0; count < left; count += 1) rmSync(files.pop() ?? '', { force: true });
  }
  return () => {
    for (const file of files) unlinkSync(file);
  };
}
