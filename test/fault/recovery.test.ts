/**
 * Recovery from more than a killed daemon: unreadable records, a reboot of the node, and full disks.
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
import { findLeftovers, findLeftoversAfterExit, otherProcesses, signalProcesses } from './support/leftovers.ts';
import { spawnLifecycleProcess } from './support/lifecycle-process.ts';
import { type Node, openNode, steps } from './support/pod-lifecycle.ts';

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

/** Starts a pod and kills the daemon. @returns the daemon's directory. */
async function killDaemonOfRunningPod(t: TestContext): Promise<string> {
  const directory = scratch(t);
  const output = await spawnLifecycleProcess(compileCache).run(directory, `/${cgroup}`, 'shared', 0, 'StartContainer');
  assert.match(output, /^step StartContainer$/m);
  assert.equal(otherProcesses().length > 1, true, 'the pod is running');
  return directory;
}

/** Opens a new engine on the directory and runs recovery. */
async function recoverNode(t: TestContext, directory: string): Promise<Node> {
  const node = await openNode(directory, `/${cgroup}`);
  t.after(node.end);
  await recover(node.deps);
  return node;
}

const damages = [
  ['truncated', 'sandboxes/*/record.json', (file: string) => truncateSync(file, 100)],
  ['truncated', 'sandboxes/*/status.json', (file: string) => truncateSync(file, 1)],
  ['truncated', 'containers/*/record.json', (file: string) => truncateSync(file, 100)],
  ['missing', 'containers/*/status.json', unlinkSync],
  ['of a newer version', 'containers/*/record.json', (file: string) => writeFileSync(file, '{"version":99}')],
] as const;

for (const [condition, pattern, damage] of damages) {
  test(`an object is listed as not running and can be removed if its ${pattern.split('/*/').join(' ')} is ${condition}`, async (t) => {
    const before = findLeftovers('/nonexistent', cgroup);
    const directory = await killDaemonOfRunningPod(t);
    const [kind = '', , file = ''] = pattern.split('/');
    const [id = ''] = readdirSync(join(directory, 'state', kind));
    damage(join(directory, 'state', kind, id, file));
    const { engine, deps } = await recoverNode(t, directory);
    const [sandbox] = engine.sandboxes();
    const [container] = engine.containers();
    assert.ok(sandbox && container, 'both are listed');
    assert.equal(sandboxState(sandbox.status), kind === 'sandboxes' ? 'not-ready' : 'ready');
    assert.equal(containerState(container.status), kind === 'containers' ? 'unknown' : 'running');
    await assert.rejects(engine.createContainer(kind === 'sandboxes' ? id : 'none', container.record.spec, container.record.image), BerthError);
    await engine.stopContainer(container.record.id, 0);
    assert.deepEqual(await processes(deps.cgroups, `/${cgroup}/${container.record.id}`), []);
    await engine.removeContainer(container.record.id);
    await engine.stopSandbox(sandbox.record.id);
    await engine.removeSandbox(sandbox.record.id);
    assert.deepEqual(await findLeftoversAfterExit(directory, cgroup), before);
  });
}

test('after a reboot of the node, recovery removes the files and network attachments of its pods', async (t) => {
  const before = findLeftovers('/nonexistent', cgroup);
  const directory = await killDaemonOfRunningPod(t);
  signalProcesses('SIGKILL');
  await findLeftoversAfterExit(directory, cgroup);
  await removeCgroup(cgroup);
  for (const path of ['state', 'netns']) {
    for (const mount of mountsBelow(join(directory, path))) execFileSync('umount', ['--lazy', mount]);
    rmSync(join(directory, path), { recursive: true });
  }
  assert.deepEqual([readdirSync(join(directory, 'root/containers')).length, readdirSync(join(directory, 'leases')).length], [1, 1]);
  const { engine } = await recoverNode(t, directory);
  assert.deepEqual([engine.sandboxes(), engine.containers()], [[], []]);
  assert.deepEqual(await findLeftoversAfterExit(directory, cgroup), before);
});

function mountsBelow(path: string): string[] {
  return execFileSync('findmnt', ['--list', '--noheadings', '--output', 'TARGET'], { encoding: 'utf8' })
    .split('\n')
    .filter((mount) => mount.startsWith(`${path}/`));
}

/** The file systems that are filled up to a few blocks or inodes, with their mount options. */
const fullDisks = [
  ['state', 'blocks', 'size=1m'],
  ['state', 'inodes', 'nr_inodes=400'],
  ['root', 'inodes', 'nr_inodes=400'],
] as const;

for (const [subdirectory, resource, option] of fullDisks) {
  test(`with few ${resource} left in its ${subdirectory} directory, the engine reports ENOSPC, leaks nothing, and works again after a cleanup`, async (t) => {
    const directory = scratch(t);
    const full = join(directory, subdirectory);
    mkdirSync(full);
    execFileSync('mount', ['-t', 'tmpfs', '-o', option, 'tmpfs', full]);
    const node = await recoverNode(t, directory);
    const before = findLeftovers(directory, cgroup);
    let failures = 0;
    for (let left = 0; ; left += 1) {
      const freeSpace = resource === 'blocks' ? fillBlocks(full, left) : fillInodes(full, left);
      const failure = await runLifecycle(node).catch((error: unknown) => error);
      // Removal must work while the disk is still full.
      for (const { record } of node.engine.sandboxes()) await node.engine.removeSandbox(record.id);
      assert.deepEqual(await findLeftoversAfterExit(directory, cgroup), before, `${left} left: ${failure}`);
      freeSpace();
      if (failure === undefined) break;
      failures += 1;
      assert.ok(failure instanceof BerthError && failure.code === 'RESOURCE_EXHAUSTED' && /ENOSPC/.test(failure.message), `${left} left: ${failure}`);
      assert.ok(left < 100, `still failing with ${left} ${resource} left`);
    }
    t.diagnostic(`${failures} failures`);
    assert.ok(failures > 2);
    await runLifecycle(node);
    assert.deepEqual(await findLeftoversAfterExit(directory, cgroup), before);
  });
}

async function runLifecycle(node: Node): Promise<undefined> {
  for (const step of steps) await step.run(node, 'plain');
}

const blockBytes = 4096;

/** Fills the file system except for `left` blocks. @returns a function that frees them again. */
function fillBlocks(directory: string, left: number): () => void {
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

/** Uses all inodes of the file system except `left`. @returns a function that frees them again. */
function fillInodes(directory: string, left: number): () => void {
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
