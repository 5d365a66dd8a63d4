/**
 * What the daemon keeps from the other users of the node: its directories, sockets and files, from the start, also where an earlier version or an
 * administrator left wider modes.
 */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { chmodSync, chownSync, lstatSync, mkdirSync, readdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { connect, createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { test } from 'node:test';
import { enterIsolation } from '../support/isolation.ts';
import { createWorkspace, type Daemon, isBuilt, runBerth, serveArguments, startDaemon, type Workspace } from './support/daemon.ts';
import { eventually, exec, pullSample, runContainer, runPod } from './support/pods.ts';

const skip = !isBuilt && 'berth is not built';
if (!skip) enterIsolation();

/**
 * Runs a command as a user of the node without any privilege. `env`, because setpriv still has all capabilities when it executes its program.
 *
 * @returns its exit code, and what it printed.
 */
function asNobody(...command: string[]): string {
  const { status, stdout, stderr } = spawnSync('setpriv', ['--reuid=65534', '--regid=65534', '--clear-groups', 'env', ...command], {
    encoding: 'utf8',
  });
  return `${status}: ${stdout}${stderr}`;
}

/** Paths below a directory, without those on other mounts. */
function pathsBelow(directory: string): string[] {
  return readdirSync(directory, { withFileTypes: true }).flatMap((entry) => {
    const path = join(directory, entry.name);
    return entry.isDirectory() ? [path, ...pathsBelow(path)] : [path];
  });
}

const modeOf = (path: string): string => (statSync(path).mode & 0o777).toString(8);

/** The directories that berth makes itself. */
const ownDirectories = ({ root, state }: Workspace): Readonly<Record<string, string>> => ({
  [`${root}/images`]: '700',
  [`${root}/layers`]: '700',
  [`${root}/containers`]: '700',
  [`${root}/cni`]: '700',
  [`${root}/staging`]: '700',
  [`${state}/sandboxes`]: '711',
  [`${state}/containers`]: '711',
});

test('CVE-2024-25621, CVE-2021-41103: no other user reaches files of pods, also below directories that were open before', { skip }, async () => {
  const workspace = createWorkspace();
  const { directory, root, state } = workspace;
  for (const path of [directory, root, state]) chmodSync(path, 0o755);
  for (const path of Object.keys(ownDirectories(workspace))) mkdirSync(path, { mode: 0o755 });
  const umask = process.umask(0);
  let daemon: Daemon = await startDaemon(workspace);
  process.umask(umask);
  try {
    assert.deepEqual(Object.fromEntries(Object.keys(ownDirectories(workspace)).map((path) => [path, modeOf(path)])), ownDirectories(workspace));
    const image = await pullSample(daemon.client);
    const pod = await runPod(daemon.client, 'open', directory, { annotations: { kept: 'from others' } });
    const script = 'cp /bin/busybox /program; chmod 4755 /program; echo kept > /dev/shm/file; exec sleep 1000';
    const id = await runContainer(daemon.client, pod, image, 'c', script, { envs: [{ key: 'A', value: Buffer.from('kept') }] });
    await eventually('the files exist', async () => (await exec(daemon.client, id, 'ls', '/dev/shm')).includes('file'));

    const assertKept = () => {
      const [sandboxFiles, containerFiles] = [`${state}/sandboxes/${pod.id}`, `${state}/containers/${id}`];
      for (const path of [sandboxFiles, containerFiles]) assert.equal(statSync(path).mode & 0o007, 0, path);
      for (const attempt of [
        ['ls', `${state}/containers`],
        ['ls', `${state}/sandboxes`],
        ['ls', `${root}/layers`],
        ['cat', `${sandboxFiles}/shm/file`],
        ['touch', `${sandboxFiles}/shm/mine`],
        ['cat', `${sandboxFiles}/hosts`],
        ['cat', `${containerFiles}/record.json`],
        [`${root}/containers/${id}/upper/program`, 'id'],
      ])
        assert.match(asNobody(...attempt), /^(?:1|2|126|127): .*Permission denied/s, attempt.join(' '));
      const sockets = pathsBelow(state).filter((path) => lstatSync(path).isSocket());
      assert.equal(sockets.length, 2, 'the sockets of the daemon and of the monitor');
      for (const socket of sockets) assert.equal(lstatSync(socket).mode & 0o002, 0, socket);
    };
    assertKept();
    await daemon.end('SIGKILL');
    for (const path of Object.keys(ownDirectories(workspace))) chmodSync(path, 0o755);
    for (const path of [`${state}/sandboxes/${pod.id}`, `${state}/containers/${id}`]) chmodSync(path, 0o755);
    daemon = await startDaemon(workspace);
    assertKept();
    for (const method of ['StopPodSandbox', 'RemovePodSandbox']) await daemon.client.call(method, { pod_sandbox_id: pod.id });
  } finally {
    await daemon.end('SIGTERM');
    await workspace.remove();
  }
});

test('a daemon with the umask 077 gives containers files that their users can read', { skip }, async () => {
  const workspace = createWorkspace();
  const umask = process.umask(0o077);
  const daemon = await startDaemon(workspace);
  process.umask(umask);
  try {
    const image = await pullSample(daemon.client);
    const pod = await runPod(daemon.client, 'mask', workspace.directory);
    const linux = { security_context: { run_as_user: { value: '1000' } } };
    const id = await runContainer(daemon.client, pod, image, 'c', 'sleep 1000', { linux });
    assert.match(await exec(daemon.client, id, 'cat', '/etc/hostname'), /^mask/);
    for (const method of ['StopPodSandbox', 'RemovePodSandbox']) await daemon.client.call(method, { pod_sandbox_id: pod.id });
  } finally {
    await daemon.end('SIGTERM');
    await workspace.remove();
  }
});

test('the socket is never put through a link, on another file, or where others can replace it, and nothing there is removed', { skip }, async () => {
  const workspace = createWorkspace();
  const { directory, socket } = workspace;
  const start = (changes: Readonly<Record<string, string>> = {}) => runBerth(serveArguments(workspace, changes));
  const victim = join(directory, 'victim');
  writeFileSync(victim, 'contents');
  const live = createServer().listen(join(directory, 'live'));
  try {
    for (const target of [victim, join(directory, 'live'), join(directory, 'missing')]) {
      const path = `${socket}-${target.split('/').at(-1)}`;
      symlinkSync(target, path);
      const { code, output } = await start({ socket: path });
      assert.deepEqual([code, output.includes(`listen on ${path}: the path exists and is not a socket`)], [1, true], output);
      assert.ok(lstatSync(path).isSymbolicLink());
    }
    const file = await start({ socket: victim });
    assert.deepEqual([file.code, readFileSync(victim, 'utf8')], [1, 'contents'], file.output);
    const open = join(directory, 'open');
    mkdirSync(open);
    mkdirSync(join(open, 'run'));
    chmodSync(open, 0o777);
    for (const changes of [{ socket: `${open}/run/berth.sock` }, { socket: `${open}/berth.sock` }, { root: open }, { state: `${open}/state` }]) {
      const { code, output } = await start(changes);
      assert.deepEqual([code, /every user can (?:replace|write to) it.*run chmod o-w /.test(output)], [1, true], output);
    }
    const foreign = join(directory, 'foreign');
    mkdirSync(foreign);
    chownSync(foreign, 65534, 65534);
    const { code, output } = await start({ root: foreign });
    assert.deepEqual([code, /belongs to user 65534/.test(output)], [1, true], output);
  } finally {
    live.close();
    await workspace.remove();
  }
});

test('a streaming URL cannot be guessed, works once, is in no log, and connections without one are limited', { skip }, async () => {
  const workspace = createWorkspace();
  const daemon = await startDaemon(workspace, { 'log-level': 'trace' });
  try {
    const image = await pullSample(daemon.client);
    const pod = await runPod(daemon.client, 'urls', workspace.directory);
    const id = await runContainer(daemon.client, pod, image, 'c', 'sleep 1000');
    const prepare = async () => new URL((await daemon.client.call<{ url: string }>('Exec', { container_id: id, cmd: ['true'], stdout: true })).url);
    const urls = [await prepare(), await prepare(), await prepare()];
    const tokens = urls.map((url) => /^\/exec\/([A-Za-z0-9_-]{22,})$/.exec(url.pathname)?.[1] ?? '');
    assert.equal(new Set(tokens).size, 3);
    assert.ok(!tokens.includes(''), '128 bits have at least 22 characters');
    assert.deepEqual(new Set(urls.map(({ hostname }) => hostname)), new Set(['127.0.0.1']));
    const [first, second, third] = urls as [URL, URL, URL];
    // 400: the token is known, and used up.
    assert.deepEqual([await statusFrom(first), await statusFrom(first)], [400, 404]);
    // A prefix, another case, another kind.
    const guesses = [second.href.slice(0, -1), second.href.replace(/.$/, (end) => (end === 'A' ? 'Q' : 'A')), third.href.replace('exec', 'attach')];
    for (const guess of guesses) assert.equal(await statusFrom(new URL(guess)), 404, guess);
    const log = readFileSync(workspace.logFile, 'utf8');
    for (const token of tokens) assert.ok(!log.includes(token));
    const silent = await Promise.all(Array.from({ length: 2100 }, () => connectTo(first)));
    await eventually('connections above the limit are closed', () => silent.filter((socket) => socket.closed).length >= 100);
    for (const socket of silent) socket.destroy();
    assert.equal(await statusFrom(second), 400);
    for (const method of ['StopPodSandbox', 'RemovePodSandbox']) await daemon.client.call(method, { pod_sandbox_id: pod.id });
  } finally {
    await daemon.end('SIGTERM');
    await workspace.remove();
  }
});

async function statusFrom(url: URL): Promise<number> {
  const response = await fetch(url);
  await response.text();
  return response.status;
}

function connectTo({ hostname, port }: URL): Promise<Socket> {
  const socket = connect(Number(port), hostname);
  socket.on('error', () => {});
  socket.resume();
  return new Promise((settle) => socket.once('connect', () => settle(socket)).once('close', () => settle(socket)));
}
