/**
 * Attacks from inside containers on the processes that start them, through a daemon's socket: first process, exec, and the reaper of a pod.
 *
 * The attacks are those of known vulnerabilities of container runtimes; the payloads are our own, and harmless.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { chmodSync, copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { release } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import type { Message } from '../../scripts/cri-client.ts';
import { enterIsolation } from '../support/isolation.ts';
import { staticProgram } from '../support/static-program.ts';
import { createWorkspace, type Daemon, isBuilt, startDaemon, type Workspace } from './support/daemon.ts';
import { detailsOf, eventually, exec, execInTerminal, logLines, type Pod, pullSample, runContainer, runPod } from './support/pods.ts';

const skip = isBuilt ? false : 'berth is not built';
if (!skip) enterIsolation();

/** F_SEAL_EXEC of Linux 6.3, with which the kernel also sets F_SEAL_FUTURE_WRITE: mm/memfd.c. */
const [major = 0, minor = 0] = release().split('.').map(Number);
const knowsExecSeal = major > 6 || (major === 6 && minor >= 3);

type Bed = { readonly workspace: Workspace; readonly daemon: Daemon; readonly image: string; readonly pod: Pod; readonly shared: string };
let bed: Bed;

const unconfined = { seccomp: { profile_type: 'Unconfined' } };

before(async () => {
  if (skip) return;
  const workspace = createWorkspace();
  const shared = join(workspace.directory, 'shared');
  mkdirSync(shared);
  const probe = join(shared, 'probe');
  copyFileSync(staticProgram(join(import.meta.dirname, 'exec-probe.c')), probe);
  // The kernel runs the monitor's program instead of the script: /proc/self/exe is the program that calls execve(2).
  writeFileSync(join(shared, 'script'), '#!/proc/self/exe\n');
  chmodSync(join(shared, 'script'), 0o755);
  const daemon = await startDaemon(workspace, {}, [probe, 'key-run', 'of-daemon']);
  const image = await pullSample(daemon.client);
  bed = { workspace, daemon, image, pod: await runPod(daemon.client, 'safety', workspace.directory), shared };
});

after(async () => {
  if (skip) return;
  const { daemon, pod, workspace } = bed;
  for (const method of ['StopPodSandbox', 'RemovePodSandbox']) await daemon.client.call(method, { pod_sandbox_id: pod.id });
  await daemon.end('SIGTERM');
  await workspace.remove();
});

/** Runs a container with the probe and the test's shared directory in `/shared`. */
function run(name: string, script: string, changes: Message = {}, pod = bed.pod): Promise<string> {
  const mounts = [{ host_path: bed.shared, container_path: '/shared' }];
  return runContainer(bed.daemon.client, pod, bed.image, name, script, { mounts, linux: { security_context: unconfined }, ...changes });
}

const probe = async (id: string, ...args: string[]) => parse(await exec(bed.daemon.client, id, '/shared/probe', ...args));
const parse = (text: string) =>
  Object.fromEntries(text.split('\n').flatMap((line) => (line === '' ? [] : [/^(\S+)\s+(.*)$/.exec(line)?.slice(1) ?? [line, '']])));

/** Returns what a container's first process has printed, when it has printed the name `last`. */
async function printed(name: string, last: string, pod = bed.pod): Promise<Record<string, string>> {
  const file = join(pod.logDirectory, `${name}.log`);
  await eventually(`${name} prints ${last}`, () => last in parse(logLines(file).join('\n')));
  return parse(logLines(file).join('\n'));
}

const [EACCES, ENOKEY] = ['-13', '-126'];

test('the processes of a container share one session keyring, which no other container and not even its number leads to, and which has no key of the daemon', {
  skip,
}, async () => {
  const victim = await run('victim', '/shared/probe key-add of-first; exec sleep 1000');
  const thief = await run('thief', '/shared/probe key-find of-daemon; exec sleep 1000');
  const { ring = '' } = await printed('victim', 'ring');
  assert.deepEqual(await printed('thief', 'key'), { key: ENOKEY }, 'the first process has a key of the daemon');
  for (const id of [victim, thief]) assert.deepEqual(await probe(id, 'key-find', 'of-daemon'), { key: ENOKEY }, 'an exec has a key of the daemon');
  assert.equal((await probe(victim, 'key-add', 'of-exec')).ring, ring, 'an exec has another keyring than its container');
  for (const name of ['of-first', 'of-exec']) {
    assert.notEqual((await probe(victim, 'key-find', name)).key, ENOKEY);
    assert.deepEqual(await probe(thief, 'key-find', name), { key: ENOKEY });
  }
  const refused = { describe: EACCES, read: EACCES, setperm: EACCES, link: EACCES };
  const { search, ...stolen } = await probe(thief, 'key-steal', ring, 'of-first');
  assert.deepEqual(stolen, refused);
  assert.ok(search === EACCES || search === ENOKEY, `search by number: ${search}`);
});

/** A CDI device whose hook, a program of the host in the container's namespaces, writes what it has to a file. @returns the file. */
function writeHook(): string {
  const file = join(bed.shared, 'of-hook');
  const probe = join(bed.shared, 'probe');
  const script = `${probe} self > ${file}; ${probe} key-find of-daemon >> ${file}`;
  const hooks = [{ hookName: 'createContainer', path: '/bin/sh', args: ['sh', '-c', script] }];
  mkdirSync('/run/cdi', { recursive: true });
  writeFileSync(
    '/run/cdi/safety.json',
    JSON.stringify({ cdiVersion: '0.6.0', kind: 'berth.test/safety', devices: [{ name: 'hook', containerEdits: { hooks } }] }),
  );
  return file;
}

test('an exec, also with a terminal, has what the first process has; neither they nor a hook inherit an fd, a key or a signal of the host', {
  skip,
}, async () => {
  const limits = { no_new_privs: true, seccomp: { profile_type: 'RuntimeDefault' }, capabilities: { drop_capabilities: ['NET_RAW'] } };
  const user = { run_as_user: { value: '1000' }, run_as_group: { value: '100' }, supplemental_groups: ['7'] };
  const linux = { security_context: { ...limits, ...user }, resources: { oom_score_adj: '321' } };
  const hookFile = writeHook();
  const changes = { linux, command: ['/shared/probe', 'self', 'wait'], CDI_devices: [{ name: 'berth.test/safety=hook' }] };
  const id = await run('equal', '', changes);
  const split = ({ fd0, fd1, fd2, ...rest }: Record<string, string>) => ({ fds: [fd0, fd1, fd2], rest });
  const first = split(await printed('equal', 'oom'));
  const second = split(await probe(id, 'self'));
  const third = split(parse((await execInTerminal(bed.daemon.client, id, ['/shared/probe', 'self'])).replaceAll('\r', '')));
  const hook = split(parse(readFileSync(hookFile, 'utf8')));
  assert.deepEqual(
    [first.fds, second.fds],
    [
      ['/dev/null', 'pipe', 'pipe'],
      ['/dev/null', 'pipe', 'pipe'],
    ],
  );
  assert.deepEqual(
    [third.fds, hook.fds],
    [
      ['/dev/pts/0', '/dev/pts/0', '/dev/pts/0'],
      ['/memfd', hookFile, 'pipe'],
    ],
  );
  assert.deepEqual([second.rest, third.rest], [first.rest, first.rest]);
  const isFd = (name: string) => name.startsWith('fd');
  assert.deepEqual([...Object.keys(first.rest), ...Object.keys(hook.rest)].filter(isFd), [], 'fds of the host');
  const { cwd, oom, NoNewPrivs, dumpable, session } = first.rest;
  assert.deepEqual({ cwd, oom, NoNewPrivs, dumpable, session }, { cwd: '/', oom: '321', NoNewPrivs: '1', dumpable: '1', session: '1' });
  for (const name of ['umask', 'dumpable', 'deathsig', 'SigIgn', 'SigBlk', 'oom']) assert.equal(hook.rest[name], first.rest[name], name);
  assert.equal(hook.rest['key'], ENOKEY, 'a hook has a key of the daemon');
});

test('CVE-2024-21626: a working directory that leads out through an fd of the runtime is refused, at the start and after the container has replaced it', {
  skip,
}, async () => {
  for (let fd = 3; fd < 10; fd += 1) {
    const start = run(`magic${fd}`, 'true', { working_dir: `/proc/self/fd/${fd}` });
    await assert.rejects(start, /proc\/self\/fd/, `fd ${fd}`);
  }
  const links = 'while :; do for fd in 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do ln -sn /proc/self/fd/$fd /next; mv -T /next /place; done; done';
  const id = await run('linked', `cd /; rmdir /place; ${links}`, { working_dir: '/place' });
  await assert.rejects(exec(bed.daemon.client, id, 'true'), /place/);
  // The link leads to another fd each time.
  for (let tries = 0; tries < 40; tries += 1)
    await assert.rejects(exec(bed.daemon.client, id, 'ls', '-a'), /open \/place: (too many levels|no such file)/);
});

test('CVE-2019-5736: a container cannot write to the program that starts its processes, nor open anything of a process that enters it', {
  skip,
}, async () => {
  const end = join(bed.shared, 'end');
  const attack = '/shared/probe watch /shared/watched; /shared/probe overwrite /shared/end /shared/held; echo done';
  const id = await run('attacked', attack);
  for (let i = 0; i < 30; i += 1) await exec(bed.daemon.client, id, 'true');
  writeFileSync(join(bed.shared, 'watched'), '');
  // Not at the same time: while the kernel executes the script, the container's own copy of the program has the name of the monitor.
  for (let i = 0; i < 300 && !existsSync(join(bed.shared, 'held')); i += 1) {
    await exec(bed.daemon.client, id, '/shared/script').then(
      () => assert.fail('the script must fail'),
      () => {},
    );
  }
  await run('scripted', '', { command: ['/shared/script'] });
  writeFileSync(end, '');
  const { seen, held, writable, written, done, ...opened } = await printed('attacked', 'done');
  rmSync(end);
  assert.equal(written, '0');
  assert.deepEqual([...new Set(Object.values(opened))], ['0'], JSON.stringify(opened));
  assert.ok(Number(seen) > 0, 'the attack saw no process that enters the container');
  // The kernel refuses to open a program for writing while a process runs it (ETXTBSY), and a monitor always does: `writable` may be 0.
  assert.ok(Number(held) > 0 && Number(writable) >= 0, 'the attack held no program of the monitor');
  await run('afterwards', 'exec sleep 1000');
});

test('CVE-2019-5736: even a privileged container that sees the processes of the host cannot change the program of a monitor', { skip }, async () => {
  const { workspace } = bed;
  const { client } = bed.daemon;
  const security_context = { privileged: true, namespace_options: { pid: 'NODE' } };
  const pod = await runPod(client, 'host-pid', workspace.directory, { linux: { security_context } });
  const id = await run('host-pid', 'exec sleep 1000', { linux: { security_context } }, pod);
  const { monitorPid } = await detailsOf(client, id);
  const { seals, ...attempts } = await probe(id, 'change', String(monitorPid));
  // EPERM. ETXTBSY: a process runs it.
  assert.deepEqual(attempts, { open: '0', write: '-26', truncate: '-26', 'make-writable': '-1', seal: '-1', changed: '0' });
  assert.equal(Number(seals), knowsExecSeal ? 0x3f : 0xf);
  await exec(client, id, 'true');
  for (const method of ['StopPodSandbox', 'RemovePodSandbox']) await client.call(method, { pod_sandbox_id: pod.id });
});

test('where the node makes memory files not executable, the monitor still is; where it forbids programs there, the daemon says so', {
  skip: skip || (!knowsExecSeal && 'Linux 6.3 is needed'),
}, async () => {
  const workspaces = [createWorkspace(), createWorkspace()];
  const limited = (value: number) => {
    const script = `echo ${value} > /proc/sys/vm/memfd_noexec && exec "$@"`;
    const wrapper = ['unshare', '--pid', '--fork', '--kill-child', '--mount-proc', 'sh', '-c', script, 'sh'];
    return startDaemon(workspaces[value - 1] as Workspace, {}, wrapper);
  };
  try {
    const daemon = await limited(1);
    const pod = await runPod(daemon.client, 'noexec', workspaces[0]?.directory ?? '');
    const id = await runContainer(daemon.client, pod, await pullSample(daemon.client), 'noexec', 'exec sleep 1000');
    assert.equal(await exec(daemon.client, id, 'echo', 'ran'), 'ran\n');
    await daemon.client.call('RemovePodSandbox', { pod_sandbox_id: pod.id });
    await daemon.end('SIGKILL');
    await assert.rejects(limited(2), /vm\.memfd_noexec is 2, which forbids programs there/);
  } finally {
    for (const workspace of workspaces) await workspace.remove();
  }
});

test('a container that may trace processes sees nothing of the host through pid 1 of its pod', { skip }, async () => {
  const pidMode = { namespace_options: { pid: 'POD' } };
  const pod = await runPod(bed.daemon.client, 'shared-pid', bed.workspace.directory, { linux: { security_context: pidMode } });
  const security_context = { ...unconfined, ...pidMode, capabilities: { add_capabilities: ['SYS_PTRACE', 'SYS_ADMIN'] } };
  const id = await run('tracer', 'exec sleep 1000', { linux: { security_context } }, pod);
  const look = (command: string) => exec(bed.daemon.client, id, 'sh', '-c', `${command} 2>&1 || true`);
  assert.equal(await look('cat /proc/1/comm'), 'berth-reaper\n');
  assert.equal(await look('ls -A /proc/1/root/'), '');
  assert.equal(await look('ls -A /proc/1/cwd/'), '');
  assert.equal(await look('wc -l </proc/1/mountinfo'), '1\n');
  assert.equal(await look('ls /proc/1/fd'), '0\n1\n2\n');
  assert.match(await look('grep -E "CapPrm|CapEff|NoNewPrivs" /proc/1/status'), /^CapPrm:\t0+\nCapEff:\t0+\nNoNewPrivs:\t1\n$/);
  for (const method of ['StopPodSandbox', 'RemovePodSandbox']) await bed.daemon.client.call(method, { pod_sandbox_id: pod.id });
});

test('a monitor keeps two capabilities and a filter after the start, of a container, an exec and one with a terminal', { skip }, async () => {
  const { client } = bed.daemon;
  const ids = [await run('plain', 'exec sleep 1000'), await run('terminal', 'exec sleep 1000', { tty: true, stdin: true })];
  const running = exec(client, ids[0] ?? '', 'sleep', '98764').catch(() => 'killed');
  await eventually('the exec runs', () => processesOf('sleep', '98764').length > 0);
  const execMonitor = /^PPid:\t(\d+)$/m.exec(readFileSync(`/proc/${processesOf('sleep', '98764')[0]}/status`, 'utf8'))?.[1];
  const monitors = [execMonitor, ...(await Promise.all(ids.map(async (id) => (await detailsOf(client, id)).monitorPid)))];
  for (const pid of monitors) {
    const { CapPrm, CapEff, NoNewPrivs, Seccomp } = parse(readFileSync(`/proc/${pid}/status`, 'utf8').replaceAll(':\t', ' '));
    assert.deepEqual(
      { CapPrm, CapEff, NoNewPrivs, Seccomp },
      { CapPrm: '0000000000001002', CapEff: '0000000000001002', NoNewPrivs: '1', Seccomp: '2' },
    );
  }
  // It still serves: the log is opened again.
  for (const container_id of ids) await client.call('ReopenContainerLog', { container_id });
  for (const container_id of ids) await client.call('StopContainer', { container_id, timeout: '0' });
  assert.equal(await running, 'killed');
});

test('CVE-2025-64329: clients that attach and disconnect leave no fd in the daemon and in the monitor', { skip }, async () => {
  const { client, pid } = bed.daemon;
  const id = await run('attached', 'exec sleep 1000', { stdin: true });
  const { monitorPid } = await detailsOf(client, id);
  const count = () => [pid, monitorPid].map((each) => readdirSync(`/proc/${each}/fd`).length);
  const attach = async (waits: boolean) => {
    const { url } = await client.call<{ url: string }>('Attach', { container_id: id, stdin: true, stdout: true, stderr: true });
    await dropAttach(new URL(url), waits);
  };
  await attach(true);
  await eventually('the first client is gone', () => count()[1] !== undefined);
  let before = count();
  await eventually('the number of fds is stable', () => {
    const last = before;
    before = count();
    return String(last) === String(before);
  });
  for (let i = 0; i < 100; i += 1) await Promise.all([attach(i % 2 === 0), attach(false)]);
  const grown = () => count().map((each, i) => each - (before[i] ?? 0));
  await eventually('all clients are gone', () => grown().every((each) => each <= 1)).catch(() =>
    assert.fail(`fds of daemon and monitor: +${grown()}`),
  );
});

/** Starts an attach over WebSocket, and disconnects: after the server's answer, or right after the request. */
function dropAttach({ hostname, port, pathname, search }: URL, waits: boolean): Promise<void> {
  return new Promise((settle) => {
    const socket = connect(Number(port), hostname);
    socket.once('close', () => settle());
    socket.once('error', () => {});
    const headers = ['Connection: Upgrade', 'Upgrade: websocket', 'Sec-WebSocket-Version: 13', 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=='];
    const request = [`GET ${pathname}${search} HTTP/1.1`, `Host: ${hostname}`, ...headers, 'Sec-WebSocket-Protocol: v5.channel.k8s.io', '', ''];
    socket.write(request.join('\r\n'), () => {
      if (!waits) socket.destroy();
    });
    socket.once('data', () => socket.destroy());
  });
}

test('a container whose cgroup files are covered by mounts is entered, measured, killed and removed', { skip }, async () => {
  const { client } = bed.daemon;
  const id = await run('covered', 'trap "" TERM; while :; do sleep 1; done');
  const { cgroupPath, pid } = await detailsOf(client, id);
  const directories = hierarchies().flatMap((mountPoint) => (existsSync(mountPoint + cgroupPath) ? [mountPoint + cgroupPath] : []));
  assert.ok(directories.length > 0);
  const cover = join(bed.workspace.directory, 'cover');
  writeFileSync(cover, '7\n');
  for (const directory of directories) {
    for (const file of covered) if (existsSync(join(directory, file))) execFileSync('mount', ['--bind', cover, join(directory, file)]);
  }
  // One hierarchy as a whole, with what looks like an empty cgroup.
  const [whole = ''] = directories.filter((directory) => directory.includes('/pids/') || directories.length === 1);
  execFileSync('mount', ['-t', 'tmpfs', 'cover', whole]);
  writeFileSync(join(whole, 'cgroup.procs'), '');
  const cgroupOf = (name: string | number) => readFileSync(`/proc/${name}/cgroup`, 'utf8');
  const command = ['sleep', '98765'];
  const running = exec(client, id, ...command).catch(() => 'killed');
  await eventually('the exec runs', () => processesOf(...command).length > 0);
  assert.equal(cgroupOf(processesOf(...command)[0] ?? ''), cgroupOf(pid), 'an exec runs in another cgroup');
  const { stats } = await client.call<{ stats: Stats }>('ContainerStats', { container_id: id });
  assert.ok(Number(stats.memory.usage_bytes.value) > 4096, `memory: ${stats.memory.usage_bytes.value}`);
  await client.call('StopContainer', { container_id: id, timeout: '0' });
  assert.equal(await running, 'killed');
  await client.call('RemoveContainer', { container_id: id });
  assert.equal(readFileSync(cover, 'utf8'), '7\n', 'the daemon wrote to a file that is not of a cgroup');
  assert.deepEqual(
    directories.filter((directory) => existsSync(directory)),
    [],
    'cgroups are left',
  );
});

type Stats = { readonly memory: { readonly usage_bytes: { readonly value: string } } };

const covered = [
  'cgroup.procs',
  'tasks',
  'cgroup.kill',
  'cgroup.freeze',
  'freezer.state',
  'memory.usage_in_bytes',
  'memory.current',
  'cpuacct.usage',
];

/** Returns the mount points of the cgroup hierarchies. */
function hierarchies(): string[] {
  const lines = readFileSync('/proc/self/mountinfo', 'utf8').split('\n');
  return lines.flatMap((line) => (/ - cgroup2? /.test(line) ? [line.split(' ')[4] ?? ''] : []));
}

/** Returns the pids of the processes with this command line. */
function processesOf(...command: string[]): string[] {
  const commandOf = (pid: string) => {
    try {
      return readFileSync(`/proc/${pid}/cmdline`, 'utf8');
    } catch {
      return '';
    }
  };
  return readdirSync('/proc').filter((name) => /^\d+$/.test(name) && commandOf(name) === `${command.join('\0')}\0`);
}
