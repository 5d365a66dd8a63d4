/** Tests the network with fake plugins, shell scripts that record their calls and fail on request. Needs a shell and no privileges. */
import assert from 'node:assert/strict';
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { NetworkAttachment } from '../engine/state/spec.ts';
import { type CniNetwork, createNetwork, type NetworkDeps } from './network.ts';

type Node = {
  readonly confDir: string;
  readonly binDir: string;
  readonly cacheDir: string;
  /** Writes a plugin that records each call and runs the shell script of the command. */
  readonly plugin: (name: string, commands?: Readonly<Record<string, string>>) => void;
  readonly conf: (file: string, document: unknown) => void;
  /** `COMMAND plugin`, in the order of the calls, without VERSION. */
  readonly calls: () => readonly string[];
  /** The last stdin of a plugin. */
  readonly stdin: (call: string) => Record<string, unknown>;
  readonly entries: () => readonly string[];
  readonly open: (overrides?: Partial<NetworkDeps>) => Promise<CniNetwork>;
};

const result = '{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.2/24"}]}';
const versions = '{"cniVersion":"1.0.0","supportedVersions":["0.3.1","0.4.0","1.0.0","1.1.0"]}';

function nodeFor(t: TestContext): Node {
  const dir = mkdtempSync(join(tmpdir(), 'berth-cni-'));
  // A plugin that is still running may write a file meanwhile.
  t.after(() => rmSync(dir, { recursive: true, maxRetries: 10 }));
  const [confDir, binDir, cacheDir] = [join(dir, 'net.d'), join(dir, 'bin'), join(dir, 'cache')];
  mkdirSync(confDir);
  mkdirSync(binDir);
  const log = join(dir, 'calls');
  writeFileSync(log, '');
  const plugin: Node['plugin'] = (name, commands = {}) => {
    const cases = Object.entries({ VERSION: `echo '${versions}'`, ADD: `echo '${result}'`, ...commands }).map(
      ([command, text]) => `${command})\n${text}\n;;`,
    );
    const record = `cat > "${dir}/stdin.$CNI_COMMAND ${name}"\n[ $CNI_COMMAND = VERSION ] || echo "$CNI_COMMAND ${name}" >> ${log}\n`;
    const path = join(binDir, name);
    writeFileSync(`${path}.new`, `#!/bin/sh\ndir=${dir}\n${record}case $CNI_COMMAND in\n${cases.join('\n')}\nesac\n`);
    chmodSync(`${path}.new`, 0o755);
    renameSync(`${path}.new`, path);
  };
  return {
    confDir,
    binDir,
    cacheDir,
    plugin,
    conf: (file, document) => writeFileSync(join(confDir, file), typeof document === 'string' ? document : JSON.stringify(document)),
    calls: () => readFileSync(log, 'utf8').split('\n').filter(Boolean),
    stdin: (call) => JSON.parse(readFileSync(join(dir, `stdin.${call}`), 'utf8')),
    entries: () => readdirSync(join(cacheDir, 'results')),
    open: async (overrides) => {
      const network = await createNetwork({
        confDir,
        binDirs: ['/nonexistent', binDir],
        cacheDir,
        addTimeoutMs: 20_000,
        delTimeoutMs: 20_000,
        ...overrides,
      });
      t.after(() => network.close());
      return network;
    },
  };
}

function chain(...types: readonly string[]): object {
  return { cniVersion: '1.0.0', name: 'net', plugins: types.map((type) => ({ type })) };
}

function attachment(sandboxId = 'abc'): NetworkAttachment {
  const metadata = { name: 'pod', namespace: 'ns', uid: 'u', attempt: 0 };
  return { sandboxId, metadata, netnsPath: '/run/netns/none', portMappings: [], annotations: {}, cgroupParent: '' };
}

const never = new AbortController().signal;

/** Returns a node with a list of the plugins `one` and `two`. */
function twoPlugins(t: TestContext, two: Readonly<Record<string, string>> = {}, one: Readonly<Record<string, string>> = {}): Node {
  const node = nodeFor(t);
  node.plugin('one', one);
  node.plugin('two', two);
  node.conf('10-net.conflist', chain('one', 'two'));
  return node;
}

test('add() passes each plugin the previous result, and remove() runs the chain in reverse with the last result', async (t) => {
  const last = '{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.2/24"}],"dns":{"domain":"two"}}';
  const node = twoPlugins(t, { ADD: `echo '${last}'` });
  const network = await node.open();
  const added = await network.add(attachment(), never);
  assert.deepEqual(added.ips, ['10.0.0.2']);
  assert.deepEqual(await network.attachedSandboxIds(), ['abc']);
  await network.remove('abc', never);
  assert.deepEqual(node.calls(), ['ADD one', 'ADD two', 'DEL two', 'DEL one']);
  assert.equal(node.stdin('ADD one').prevResult, undefined);
  assert.deepEqual(node.stdin('ADD two').prevResult, JSON.parse(result));
  assert.deepEqual(node.stdin('DEL two').prevResult, JSON.parse(last));
  assert.deepEqual(node.stdin('DEL one').prevResult, JSON.parse(last));
  assert.deepEqual(node.entries(), []);
});

test('add() stores the attachment before the first plugin runs, and each result before the next plugin', async (t) => {
  const node = twoPlugins(
    t,
    { ADD: 'cp $dir/cache/results/net-abc-eth0 $dir/at-two; exit 1' },
    { ADD: `cp $dir/cache/results/net-abc-eth0 $dir/at-one; echo '${result}'` },
  );
  await assert.rejects((await node.open()).add(attachment(), never));
  const at = (name: string) => JSON.parse(readFileSync(join(node.cacheDir, '..', name), 'utf8'));
  assert.deepEqual([at('at-one').kind, at('at-one').result], ['cniCacheV1', undefined]);
  assert.deepEqual(at('at-two').result, JSON.parse(result));
});

test('a failed add() reports the message of the plugin and runs DEL for the complete chain', async (t) => {
  const node = twoPlugins(t, { ADD: `printf '%s' '{"code":7,"msg":"no range","details":"pool 1\\n is full"}'; exit 1` });
  await assert.rejects((await node.open()).add(attachment(), never), {
    name: 'BerthError',
    code: 'INTERNAL',
    message: 'CNI plugin two (network net): ADD failed: no range (pool 1 is full)',
  });
  assert.deepEqual(node.calls(), ['ADD one', 'ADD two', 'DEL two', 'DEL one']);
  assert.deepEqual(node.stdin('DEL one').prevResult, JSON.parse(result));
  assert.deepEqual(node.entries(), []);
});

test('a failed add() reports its own error if DEL fails too, and keeps the attachment for remove()', async (t) => {
  const node = twoPlugins(t, { ADD: 'exit 1' }, { DEL: '[ -e $dir/heal ] || { echo broken >&2; exit 2; }' });
  const network = await node.open();
  await assert.rejects(network.add(attachment(), never), { message: 'CNI plugin two (network net): ADD failed: exit code 1' });
  assert.deepEqual(node.entries(), ['net-abc-eth0']);
  await assert.rejects(network.remove('abc', never), { message: 'CNI plugin one (network net): DEL failed: exit code 2: broken' });
  writeFileSync(join(node.binDir, '..', 'heal'), '');
  await network.remove('abc', never);
  assert.deepEqual(node.entries(), []);
});

test('add() reports a bounded excerpt of the output of a plugin without an error object', async (t) => {
  const cases: readonly (readonly [string, RegExp])[] = [
    ['echo lost the link >&2; exit 3', /ADD failed: exit code 3: lost the link$/],
    ['echo not json; exit 3', /ADD failed: exit code 3: not json$/],
    ['echo not json', /ADD failed: stdout is not a CNI result: not json$/],
    ['true', /ADD failed: no result on stdout$/],
    ['kill -9 $$', /ADD failed: killed by SIGKILL$/],
    ['head -c 3000000 /dev/zero', /ADD failed: stdout exceeds 1048576 bytes$/],
    ['head -c 3000000 /dev/zero | tr "\\0" x >&2; exit 1', /^.{900,1200}$/],
    ['echo "{}"', /CNI network net: ADD failed: no address on eth0 in the result$/],
  ];
  for (const [text, message] of cases) {
    const node = twoPlugins(t, { ADD: text });
    await assert.rejects((await node.open()).add(attachment(), never), { message }, text);
  }
});

test('add() kills a plugin and its children at the deadline, and runs DEL with a timeout of its own', async (t) => {
  const node = twoPlugins(t, { ADD: 'sleep 1000 & echo $! > $dir/child; wait' });
  const network = await node.open({ addTimeoutMs: 3000 });
  await assert.rejects(network.add(attachment(), never), {
    code: 'DEADLINE_EXCEEDED',
    message: /^CNI plugin two \(network net\): ADD failed: no answer within \d+ ms$/,
  });
  assert.deepEqual(node.calls(), ['ADD one', 'ADD two', 'DEL two', 'DEL one']);
  const child = readFileSync(join(node.binDir, '..', 'child'), 'utf8').trim();
  // It has been killed, but ends only when it gets a CPU.
  for (let waits = 0; waits < 100 && !/^(gone|Z)/.test(stateOf(child)); waits += 1) await sleep(20);
  assert.match(stateOf(child), /^(gone|Z)/);
});

function stateOf(pid: string): string {
  try {
    return readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1] ?? '';
  } catch {
    return 'gone';
  }
}

test('add() runs DEL when the caller cancels', async (t) => {
  const node = twoPlugins(t, { ADD: 'echo > $dir/waiting; sleep 1000' });
  const network = await node.open();
  const caller = new AbortController();
  const added = network.add(attachment(), caller.signal);
  const waiting = setInterval(() => readdirSync(join(node.binDir, '..')).includes('waiting') && caller.abort(), 20);
  await assert.rejects(added, { code: 'CANCELLED' });
  clearInterval(waiting);
  assert.deepEqual(node.calls(), ['ADD one', 'ADD two', 'DEL two', 'DEL one']);
});

test('add() retries a plugin that reports "try again later"', async (t) => {
  const later = `echo x >> $dir/tries; [ $(wc -l < $dir/tries) -ge 3 ] && echo '${result}' || { echo '{"code":11,"msg":"busy"}'; exit 1; }`;
  const node = twoPlugins(t, { ADD: later });
  await (await node.open()).add(attachment(), never);
  assert.deepEqual(node.calls(), ['ADD one', 'ADD two', 'ADD two', 'ADD two']);
});

test('add() fails with UNAVAILABLE when a plugin still reports "try again later" near the deadline', async (t) => {
  const node = twoPlugins(t, { ADD: `echo '{"code":11,"msg":"busy"}'; exit 1` });
  await assert.rejects((await node.open({ addTimeoutMs: 3000 })).add(attachment(), never), { code: 'UNAVAILABLE', message: /two .*: busy$/ });
});

test('add() detaches a sandbox that is already attached', async (t) => {
  const node = twoPlugins(t);
  const network = await node.open();
  await network.add(attachment(), never);
  await network.add(attachment(), never);
  assert.deepEqual(node.calls().slice(2, 4), ['DEL two', 'DEL one']);
});

test('remove() runs every plugin even if one fails, joins the errors, and keeps the attachment until all succeed', async (t) => {
  const node = twoPlugins(t, { DEL: `echo '{"code":100,"msg":"first"}'; exit 1` }, { DEL: '[ -e $dir/heal ] || { echo second >&2; exit 1; }' });
  const network = await node.open();
  await network.add(attachment(), never);
  await assert.rejects(network.remove('abc', never), {
    message: 'CNI plugin two (network net): DEL failed: first; CNI plugin one (network net): DEL failed: exit code 1: second',
  });
  assert.deepEqual(await network.attachedSandboxIds(), ['abc']);
});

test('remove() runs the plugins after one that hangs', async (t) => {
  const node = twoPlugins(t, { DEL: 'sleep 1000' });
  const network = await node.open({ delTimeoutMs: 3000 });
  await network.add(attachment(), never);
  await assert.rejects(network.remove('abc', never), { code: 'DEADLINE_EXCEEDED' });
  assert.deepEqual(node.calls().slice(-2), ['DEL two', 'DEL one']);
});

test('remove() treats "container unknown" as success, as specified', async (t) => {
  const node = twoPlugins(t, { DEL: `echo '{"code":3,"msg":"never heard of it"}'; exit 1` });
  const network = await node.open();
  await network.add(attachment(), never);
  await network.remove('abc', never);
  assert.deepEqual(node.entries(), []);
});

test('remove() succeeds for a sandbox that was never attached, and two calls share one DEL', async (t) => {
  const node = twoPlugins(t);
  const network = await node.open();
  await network.remove('abc', never);
  await network.add(attachment(), never);
  await Promise.all([network.remove('abc', never), network.remove('abc', AbortSignal.abort())]);
  assert.deepEqual(node.calls(), ['ADD one', 'ADD two', 'DEL two', 'DEL one']);
});

test('remove() passes an empty CNI_NETNS when the path is no longer a namespace', async (t) => {
  const node = twoPlugins(t, { DEL: 'echo "netns=$CNI_NETNS" > $dir/netns' });
  const network = await node.open();
  await network.add({ ...attachment(), netnsPath: node.confDir }, never);
  await network.remove('abc', never);
  assert.equal(readFileSync(join(node.binDir, '..', 'netns'), 'utf8'), 'netns=\n');
});

test('remove() uses the configuration of ADD after the directory changes and the daemon restarts', async (t) => {
  const node = twoPlugins(t);
  await (await node.open()).add(attachment(), never);
  node.plugin('three');
  node.conf('10-net.conflist', chain('three'));
  const network = await node.open();
  await network.remove('abc', never);
  assert.deepEqual(node.calls().slice(2), ['DEL two', 'DEL one']);
  await network.add(attachment('def'), never);
  assert.equal(node.calls().at(-1), 'ADD three');
});

test('remove() uses the current list for an unreadable attachment and then deletes the attachment', async (t) => {
  const node = twoPlugins(t);
  const network = await node.open();
  await network.add(attachment(), never);
  writeFileSync(join(node.cacheDir, 'results/net-abc-eth0'), '');
  writeFileSync(join(node.cacheDir, 'results/other-def-eth0'), '');
  assert.deepEqual(await network.attachedSandboxIds(), ['abc', 'def']);
  await network.remove('abc', never);
  await network.remove('def', never);
  assert.deepEqual(node.calls().slice(2), ['DEL two', 'DEL one']);
  assert.deepEqual(node.entries(), []);
});

test('remove() passes no result to plugins older than 0.4.0', async (t) => {
  const node = nodeFor(t);
  node.plugin('one', { ADD: `echo '{"ips":[{"version":"4","address":"10.0.0.2/24"}]}'` });
  node.conf('10-old.conf', { cniVersion: '0.3.1', name: 'old', type: 'one' });
  const network = await node.open();
  await network.add(attachment(), never);
  await network.check('abc', never);
  await network.remove('abc', never);
  assert.deepEqual(node.calls(), ['ADD one', 'DEL one']);
  assert.equal(node.stdin('DEL one').prevResult, undefined);
});

test('check() passes every plugin the result of ADD and reports a failure', async (t) => {
  const node = twoPlugins(t, { CHECK: `echo '{"code":100,"msg":"rule is gone"}'; exit 1` });
  const network = await node.open();
  await assert.rejects(network.check('abc', never), { code: 'NOT_FOUND' });
  await network.add(attachment(), never);
  await assert.rejects(network.check('abc', never), { message: 'CNI plugin two (network net): CHECK failed: rule is gone' });
  assert.deepEqual(node.stdin('CHECK one').prevResult, JSON.parse(result));
});

test('check() runs no plugin if the list disables CHECK', async (t) => {
  const node = twoPlugins(t);
  node.conf('10-net.conflist', { ...chain('one'), disableCheck: true });
  const network = await node.open();
  await network.add(attachment(), never);
  await network.check('abc', never);
  assert.deepEqual(node.calls(), ['ADD one']);
});

test('ADD and DEL use the highest version that the list and all plugins support', async (t) => {
  const node = twoPlugins(t, { VERSION: `echo '{"supportedVersions":["0.3.1","0.4.0"]}'` });
  node.conf('10-net.conflist', { ...chain('one', 'two'), cniVersions: ['1.1.0', '0.4.0'] });
  const network = await node.open();
  await network.add(attachment(), never);
  await network.remove('abc', never);
  assert.equal(node.stdin('ADD one').cniVersion, '0.4.0');
  assert.equal(node.stdin('DEL one').cniVersion, '0.4.0');
});

test('notReadyReason() names the plugin that does not support the version, until it is replaced', async (t) => {
  const node = twoPlugins(t, { VERSION: `echo '{"supportedVersions":["0.3.1"]}'` });
  const network = await node.open();
  assert.match(network.notReadyReason() ?? '', /10-net.conflist: network net: plugin two supports CNI 0.3.1, but not 1.0.0$/);
  await assert.rejects(network.add(attachment(), never), { code: 'FAILED_PRECONDITION' });
  node.plugin('two');
  await until(() => network.notReadyReason() === null);
});

test('plugins beside the list run after its own, and changes of their directory take effect', async (t) => {
  const node = twoPlugins(t);
  const network = await node.open();
  mkdirSync(join(node.confDir, 'net'));
  node.plugin('three');
  node.conf('net/20.conf', { type: 'three' });
  node.conf('net/10.conf', { type: 'two' });
  node.conf('net/README', 'not a plugin');
  const added = async (id: string) => {
    const before = node.calls().length;
    await network.add(attachment(id), never);
    return node.calls().slice(before);
  };
  assert.deepEqual(await added('a'), ['ADD one', 'ADD two', 'ADD two', 'ADD three']);
  rmSync(join(node.confDir, 'net/10.conf'));
  assert.deepEqual(await added('b'), ['ADD one', 'ADD two', 'ADD three']);
  node.conf('net/20.conf', { type: 'one' });
  assert.deepEqual(await added('c'), ['ADD one', 'ADD two', 'ADD one']);
  await network.remove('a', never);
  assert.deepEqual(node.calls().slice(-4), ['DEL three', 'DEL two', 'DEL two', 'DEL one']);
  node.conf('net/20.conf', '{');
  await until(() => network.notReadyReason()?.includes('net/20.conf: not JSON') === true);
});

test('a STATUS that fails for a moment is ignored for the grace period, one that never succeeded is not', async (t) => {
  const node = twoPlugins(t, { STATUS: `[ ! -e $dir/broken ] || { echo '{"code":50,"msg":"agent is restarting"}'; exit 1; }` });
  node.conf('10-net.conflist', { ...chain('one', 'two'), cniVersion: '1.1.0' });
  const broken = join(node.binDir, '..', 'broken');
  const network = await node.open({ statusGraceMs: 700 });
  await until(() => network.notReadyReason() === null);
  writeFileSync(broken, '');
  const failedMs = performance.now();
  while (performance.now() - failedMs < 400) {
    assert.equal(network.notReadyReason(), null);
    await sleep(20);
  }
  await until(() => network.notReadyReason()?.includes('agent is restarting') === true);
  const restarted = await node.open({ statusGraceMs: 60_000 });
  await until(() => restarted.notReadyReason()?.includes('agent is restarting') === true);
  rmSync(broken);
  await until(() => network.notReadyReason() === null && restarted.notReadyReason() === null);
});

test('notReadyReason() names a missing plugin and the directories searched', async (t) => {
  const node = nodeFor(t);
  node.conf('10-net.conflist', { cniVersion: '1.0.0', name: 'net', plugins: [{ type: 'one', ipam: { type: 'lease' } }] });
  const network = await node.open();
  assert.ok(
    network.notReadyReason()?.endsWith(`10-net.conflist: no executable "one" in /nonexistent, ${node.binDir}`),
    network.notReadyReason() ?? '',
  );
  node.plugin('one');
  await until(() => network.notReadyReason()?.includes('"lease"') ?? false);
  node.plugin('lease');
  await until(() => network.notReadyReason() === null);
});

test('notReadyReason() is null only while STATUS of a 1.1.0 list succeeds', async (t) => {
  const node = twoPlugins(t, { STATUS: `[ ! -e $dir/down ] || { echo '{"code":50,"msg":"agent is down"}'; exit 1; }` });
  node.conf('10-net.conflist', { ...chain('one', 'two'), cniVersion: '1.1.0' });
  const network = await node.open();
  assert.equal(network.notReadyReason(), null);
  writeFileSync(join(node.binDir, '..', 'down'), '');
  await until(() => network.notReadyReason()?.endsWith('CNI plugin two (network net): STATUS failed: agent is down') ?? false);
  rmSync(join(node.binDir, '..', 'down'));
  await until(() => network.notReadyReason() === null);
});

test('collectGarbage() passes 1.1.0 plugins the valid attachments, including those with a DEL still due', async (t) => {
  const node = twoPlugins(t, {}, { GC: `echo '{"code":100,"msg":"stuck"}'; exit 1` });
  node.conf('10-net.conflist', { ...chain('one', 'two'), cniVersion: '1.1.0' });
  const network = await node.open();
  await network.add(attachment('left'), never);
  await assert.rejects(network.collectGarbage(['live']), { message: /GC failed: stuck$/ });
  assert.equal(node.calls().at(-1), 'GC two');
  assert.deepEqual(node.stdin('GC two')['cni.dev/valid-attachments'], [
    { containerID: 'live', ifname: 'eth0' },
    { containerID: 'left', ifname: 'eth0' },
  ]);
});

test('collectGarbage() runs no plugin of an older list', async (t) => {
  const node = twoPlugins(t);
  await (await node.open()).collectGarbage([]);
  assert.deepEqual(node.calls(), []);
});

async function until(condition: () => boolean): Promise<void> {
  // The test runner's timeout is the only limit: the events come from the kernel.
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 20));
}

test('status() shows the first valid file in lexical order and why earlier files are invalid', async (t) => {
  const node = nodeFor(t);
  node.plugin('one');
  node.conf('05-broken.conflist', '{');
  node.conf('10-b.conflist', { ...chain('one'), name: 'b' });
  node.conf('10-a.json', { cniVersion: '0.4.0', name: 'a', type: 'one' });
  node.conf('00-ignored.txt', { ...chain('one'), name: 'ignored' });
  const network = await node.open();
  const { file, config, notReadyReason, skipped } = network.status();
  assert.deepEqual([file, config?.name, notReadyReason], [join(node.confDir, '10-a.json'), 'a', null]);
  assert.match(skipped?.join() ?? '', /05-broken.conflist: not JSON/);
});

test('notReadyReason() reports which file is invalid and why, or that there is none', async (t) => {
  const node = nodeFor(t);
  const network = await node.open();
  assert.equal(network.notReadyReason(), `no CNI configuration: ${node.confDir} has no *.conflist, *.conf or *.json`);
  node.conf('10-x.conflist', '{"name":"n"}');
  assert.equal(network.notReadyReason(), `no valid CNI configuration: ${node.confDir}/10-x.conflist: no "plugins"`);
  await assert.rejects(network.add(attachment(), never), { code: 'FAILED_PRECONDITION', message: /^network is not ready: no valid CNI/ });
});

test('add() uses a changed file immediately', async (t) => {
  const node = twoPlugins(t);
  const network = await node.open();
  node.conf('00-first.conflist', chain('two'));
  await network.add(attachment(), never);
  assert.deepEqual(node.calls(), ['ADD two']);
  node.conf('00-first.conflist', chain('one'));
  await network.add(attachment('def'), never);
  assert.deepEqual(node.calls().slice(1), ['ADD one']);
});

test('the watch notices that the directory is created, removed and replaced', async (t) => {
  const node = nodeFor(t);
  node.plugin('one');
  rmSync(node.confDir, { recursive: true });
  const messages: string[] = [];
  const log = { info: (_: object, message: string) => messages.push(message), warn: (_: object, message: string) => messages.push(message) };
  // No method is called meanwhile: only the watch can notice the changes.
  const network = await node.open({ log });
  const logged = async (message: string, count: number) => until(() => messages.filter((each) => each === message).length === count);
  await logged('no CNI configuration', 1);
  mkdirSync(node.confDir);
  node.conf('10-net.conflist', chain('one'));
  await logged('CNI configuration loaded', 1);
  rmSync(node.confDir, { recursive: true });
  await logged('no CNI configuration', 2);
  const other = `${node.confDir}.other`;
  mkdirSync(other);
  writeFileSync(join(other, '10-net.conflist'), JSON.stringify(chain('one')));
  renameSync(other, node.confDir);
  await logged('CNI configuration loaded', 2);
  assert.equal(network.notReadyReason(), null);
});
