/** The monitor executes plans: order, failures, absent registers, exec, reaping, rejected plans. */
import assert from 'node:assert/strict';
import { closeSync, existsSync, openSync, readdirSync, readFileSync, readlinkSync, readSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { startExec, startMonitor } from '../../src/engine/monitor/monitor.ts';
import { AT, CLONE, KEYCTL, MNT, MOUNT_ATTR, MOVE_MOUNT, O, OPEN_TREE, PR, RESOLVE } from '../../src/engine/plan/abi.ts';
import { encodePlan, type Op, type Plan } from '../../src/engine/plan/plan.ts';
import { BerthError } from '../../src/lib/errors.ts';
import { close, memfd, pidfdOpen, pidfdSendSignal, pipe, programPipe } from '../../src/sys/call/syscalls.ts';
import { processStartTime, whenReadable } from '../../src/sys/process/processes.ts';
import { spawnProcess } from '../../src/sys/process/spawn.ts';
import { until } from '../support/in-cgroup.ts';
import { barePlan, ended, execve, monitorDeps, ownProc, runContainer, scratch, shell, startContainer, stdio } from './support/monitor.ts';

/** Runs an exec plan and returns its standard output. */
async function output(t: TestContext, plan: Plan, fds: readonly number[] = []): Promise<{ text: string; exitCode: number; signal: number }> {
  const deps = await monitorDeps(t);
  const [reader, writer] = pipe();
  const child = [stdio('out', 1), ...plan.child];
  const exec = await startExec(deps, { plan: { ...plan, fds: [...plan.fds, 'out'], child }, fds: [...fds, writer], name: 'test' });
  close(writer);
  const exit = await exec.exited;
  const bytes = Buffer.alloc(65536);
  const length = readSync(reader, bytes);
  close(reader);
  return { text: bytes.toString('latin1', 0, length), ...exit };
}

const script = (text: string): Plan => barePlan([execve(shell)], { process: { argv: ['sh', '-c', text], env: ['PATH=/usr/bin:/bin'] } });

test('the process gets the arguments and the environment of the plan, and nothing else', async (t) => {
  const plan = barePlan([execve('/usr/bin/busybox')], { process: { argv: ['env'], env: ['A=1', Buffer.from('B=\xff', 'latin1')] } });
  assert.deepEqual(await output(t, plan), { text: 'A=1\nB=\xff\n', exitCode: 0, signal: 0 });
});

test('the process inherits no fd and no blocked or ignored signal', async (t) => {
  const fd = openSync('/', 'r');
  t.after(() => closeSync(fd));
  const busybox = (...argv: string[]): Plan => barePlan([execve(shell)], { fds: ['spare'], process: { argv, env: [] } });
  assert.equal((await output(t, busybox('ls', '/proc/self/fd'), [fd])).text, '0\n1\n2\n3\n', '3 is the directory that ls reads');
  const { text } = await output(t, busybox('grep', '-E', 'Sig(Blk|Ign)', '/proc/self/status'), [fd]);
  assert.equal(text, 'SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n');
});

test('a working directory outside of the root, or one that was removed, fails the start', async (t) => {
  const [root, removed] = [scratch(t), scratch(t)];
  writeFileSync(join(root, 'sh'), readFileSync(shell), { mode: 0o755 });
  const leave = (path: string, dir: string): Op[] => [
    { call: 'openat', dir: 'cwd', path, flags: O.PATH | O.DIRECTORY, mode: 0, out: 'outside', note: 'opening a directory' },
    { call: 'mkdirat', dir: 'cwd', path: `${removed}/gone`, mode: 0o700, note: 'making a directory' },
    { call: 'openat', dir: 'cwd', path: `${removed}/gone`, flags: O.PATH | O.DIRECTORY, mode: 0, out: 'gone', note: 'opening it' },
    { call: 'unlinkat', dir: 'cwd', path: `${removed}/gone`, flags: AT.REMOVEDIR, note: 'removing it' },
    { call: 'chroot', path: root, note: 'changing the root' },
    { call: 'fchdir', fd: dir, note: 'changing the working directory' },
  ];
  const check: Op = { call: 'expect_inside', note: 'checking the working directory' };
  const plan = (child: readonly Op[]): Plan => barePlan([...child, execve('/sh')], { process: { argv: ['ls', '-d', 'usr'], env: [] } });
  assert.equal((await output(t, plan(leave('/', 'outside')))).text, 'usr\n', 'the kernel allows it');
  await assert.rejects(output(t, plan([...leave('/', 'outside'), check])), /checking the working directory: .*EXDEV/);
  await assert.rejects(output(t, plan([...leave('/', 'gone'), check])), /checking the working directory: .*ENOENT/);
  assert.equal((await output(t, plan([...leave(root, 'outside'), check]))).exitCode, 1, 'inside, without usr');
});

test('exec reports the exit code and the signal', async (t) => {
  assert.equal((await output(t, script('echo; exit 42'))).exitCode, 42);
  const killed = await output(t, script('echo; kill -9 $$'));
  assert.deepEqual([killed.exitCode, killed.signal], [137, 9]);
});

test('a plan creates a root file system: tmpfs, files, devices, pivot_root', async (t) => {
  const dir = openSync('/', 'r');
  t.after(() => closeSync(dir));
  const put = (path: string, bytes: Buffer, mode: number): Op[] => [
    { call: 'openat', dir: 'root', path, flags: O.WRONLY | O.CREAT | O.CLOEXEC, mode, out: path, note: `making ${path}` },
    { call: 'write', fd: path, bytes, note: `writing ${path}` },
    { call: 'close', fd: path, note: `closing ${path}` },
  ];
  const child: Op[] = [
    ...ownProc,
    { call: 'fsopen', type: 'tmpfs', flags: 1, out: 'fs', note: 'making a tmpfs' },
    { call: 'fsconfig_string', fs: 'fs', key: 'size', value: '8m', note: 'sizing the tmpfs' },
    { call: 'fsconfig_create', fs: 'fs', note: 'creating the tmpfs' },
    { call: 'fsmount', fs: 'fs', flags: 1, attributes: MOUNT_ATTR.NOSUID, out: 'root', note: 'taking the tmpfs' },
    { call: 'move_mount', from: 'root', fromPath: '', to: 'cwd', toPath: '/mnt', flags: MOVE_MOUNT.F_EMPTY_PATH, note: 'mounting the tmpfs' },
    ...put('sh', readFileSync(shell), 0o755),
    ...put('hostname', Buffer.from('pod\n'), 0o644),
    { call: 'mknodat', dir: 'root', path: 'null', mode: 0o20666, dev: 0x103, note: 'making null' },
    { call: 'symlinkat', target: 'hostname', dir: 'root', path: 'link', note: 'making link' },
    { call: 'open_tree', dir: 'cwd', path: '/etc', flags: OPEN_TREE.CLONE | AT.RECURSIVE, out: 'etc', note: 'taking /etc' },
    { call: 'mount_setattr', dir: 'etc', path: '', flags: AT.EMPTY_PATH | AT.RECURSIVE, attr: { set: MOUNT_ATTR.RDONLY }, note: 'sealing /etc' },
    { call: 'mkdirat', dir: 'root', path: 'etc', mode: 0o755, note: 'making /etc' },
    { call: 'openat2', dir: 'root', path: 'etc', how: { flags: O.PATH, resolve: RESOLVE.IN_ROOT }, out: 'at', note: 'opening /etc' },
    {
      call: 'move_mount',
      from: 'etc',
      fromPath: '',
      to: 'at',
      toPath: '',
      flags: MOVE_MOUNT.F_EMPTY_PATH | MOVE_MOUNT.T_EMPTY_PATH,
      note: 'mounting /etc',
    },
    { call: 'keyctl', operation: KEYCTL.JOIN_SESSION_KEYRING, name: 'test', tolerate: ['ENOSYS', 'EDQUOT'], note: 'making a keyring' },
    { call: 'fchdir', fd: 'root', note: 'entering the root' },
    { call: 'pivot_root', newRoot: '.', putOld: '.', note: 'changing the root' },
    { call: 'umount2', target: '.', flags: MNT.DETACH, note: 'leaving the old root' },
    { call: 'sethostname', name: Buffer.from('inside'), note: 'setting the hostname' },
    { call: 'prlimit64', resource: 7, limit: { soft: 77n, hard: 99n }, note: 'limiting files' },
    { call: 'prctl', option: PR.SET_NO_NEW_PRIVS, a: 1, b: 0, c: 0, d: 0, note: 'forbidding new privileges' },
    { call: 'setgroups', groups: [5, 7], note: 'setting groups' },
    { call: 'setresgid', real: 10, effective: 10, saved: 10, note: 'setting the group' },
    { call: 'setresuid', real: 20, effective: 20, saved: 20, note: 'setting the user' },
    { call: 'capset', capabilities: { effective: 0n, permitted: 0n, inheritable: 0n }, note: 'dropping capabilities' },
    execve('/sh'),
  ];
  const text = 'read h < /link; echo $h; echo *; hostname; id -u; id -G; ulimit -n; echo x > /null; echo $$; (echo > /etc/new) 2>&1';
  const plan = barePlan(child, { clone: { namespaces: CLONE.NEWNS | CLONE.NEWPID | CLONE.NEWUTS }, process: { argv: ['sh', '-c', text], env: [] } });
  const result = await output(t, plan);
  assert.equal(result.text, "pod\netc hostname link null sh\ninside\n20\n10 5 7\n77\n1\nsh: can't create /etc/new: Read-only file system\n");
});

/** Denies mkdir and mkdirat with EPERM: struct sock_filter { code u16, jt u8, jf u8, k u32 }, bpf(2) classic. */
function denyMkdir(): Buffer {
  const [mkdir, mkdirat] = process.arch === 'arm64' ? [1030, 34] : [83, 258];
  const rows = [
    [0x20, 0, 0, 0],
    [0x15, 1, 0, mkdir],
    [0x15, 0, 1, mkdirat],
    [0x06, 0, 0, 0x50001],
    [0x06, 0, 0, 0x7fff0000],
  ] as const;
  const filter = Buffer.alloc(8 * rows.length);
  rows.forEach(([code, jt, jf, k], i) => {
    filter.writeUInt16LE(code, 8 * i);
    filter.writeUInt8(jt, 8 * i + 2);
    filter.writeUInt8(jf, 8 * i + 3);
    filter.writeUInt32LE(k as number, 8 * i + 4);
  });
  return filter;
}

test('a seccomp filter is active when the process starts, and an invalid one fails the start', async (t) => {
  const dir = scratch(t);
  const filter = (bytes: Buffer): Op => ({ call: 'seccomp', flags: 0, filter: bytes, note: 'setting the seccomp filter' });
  const denied = await output(t, {
    ...script(`mkdir ${dir}/made 2>&1; grep Seccomp: /proc/self/status`),
    child: [filter(denyMkdir()), execve(shell)],
  });
  assert.match(denied.text, /Operation not permitted\nSeccomp:\t2\n$/);
  for (const bytes of [Buffer.alloc(0), Buffer.alloc(7), Buffer.alloc(8)]) {
    await assert.rejects(
      startExec(await monitorDeps(t), { plan: barePlan([filter(bytes), execve(shell)]), fds: [], name: 'test' }),
      /seccomp filter: .*EINVAL/,
    );
  }
});

test('a process starts in the cgroup of the plan', async (t) => {
  const [mountPoint, name] = [scratch(t), `berth-monitor-test-${process.pid}`];
  const mounting: Op = { call: 'mount', source: 'cgroup2', target: mountPoint, type: 'cgroup2', flags: 0, data: '', note: 'mounting the cgroups' };
  const parent: Op[] = [
    { call: 'unshare', namespaces: CLONE.NEWNS, note: 'leaving the mounts' },
    ...ownProc.slice(0, 1),
    mounting,
    { call: 'mkdirat', dir: 'cwd', path: `${mountPoint}/${name}`, mode: 0o755, note: 'making a cgroup' },
    { call: 'openat', dir: 'cwd', path: `${mountPoint}/${name}`, flags: O.PATH | O.CLOEXEC, mode: 0, out: 'cgroup', note: 'opening the cgroup' },
  ];
  const { text } = await output(t, { ...script('grep ^0: /proc/self/cgroup'), parent, clone: { namespaces: 0, cgroup: 'cgroup' } });
  const remove: Op = { call: 'unlinkat', dir: 'cwd', path: `${mountPoint}/${name}`, flags: AT.REMOVEDIR, note: 'removing the cgroup' };
  await output(t, { ...script('echo'), parent: [...parent.slice(0, 3), remove] });
  assert.ok(text.endsWith(`/${name}\n`), text);
});

const impossible: Op = { call: 'mkdirat', dir: 'cwd', path: '/proc/no', mode: 0o755, note: 'making /proc/no' };

test('a failed operation is reported with its note and errno, in parent and child', async (t) => {
  const deps = await monitorDeps(t);
  // FAILED_PRECONDITION: the path is in the container, so the caller can fix it.
  const failure = { code: 'FAILED_PRECONDITION', message: 'making /proc/no: no such file or directory (ENOENT)' };
  const start = (plan: Plan) => startExec(deps, { plan, fds: [], name: 'test' });
  await assert.rejects(start({ ...script(''), parent: [impossible] }), failure);
  await assert.rejects(start(barePlan([impossible, execve(shell)])), failure);
  await assert.rejects(start(barePlan([execve('/no/such')])), {
    code: 'FAILED_PRECONDITION',
    message: 'starting "/no/such": no such file or directory (ENOENT)',
  });
});

test('a log that cannot be opened fails the start before the child is created', async (t) => {
  const deps = await monitorDeps(t);
  const dir = scratch(t);
  await assert.rejects(startContainer(deps, dir, { script: 'touch ran', logDir: '/proc' }), /open the log: .*ENOENT/);
  assert.deepEqual(readdirSync(dir), ['control']);
});

test('a monitor that cannot be started, or exits without a report, is an error', async (t) => {
  const deps = await monitorDeps(t);
  const start = (path: string) => startExec({ monitor: { ...deps.monitor, path } }, { plan: script(''), fds: [], name: 'pod-1' });
  await assert.rejects(start('/no/monitor'), { message: /^start the monitor of pod-1: .*ENOENT/ });
  await assert.rejects(start('/usr/bin/true'), { code: 'INTERNAL', message: 'start pod-1: the monitor exited without a report' });
});

test('exec fails if its monitor is killed before the process exits', async (t) => {
  const deps = await monitorDeps(t);
  const { pid, monitorPid, exited } = await startExec(deps, { plan: script('exec sleep 1000'), fds: [], name: 'pod-1' });
  deps.killAfter(pid);
  process.kill(monitorPid, 'SIGKILL');
  await assert.rejects(exited, { code: 'INTERNAL', message: 'wait for pod-1: the monitor exited before the process' });
  assert.doesNotThrow(() => process.kill(pid, 0), 'the process keeps running');
});

test('a tolerated failure leaves its register absent, and operations that use it are skipped', async (t) => {
  const dir = scratch(t);
  const child: Op[] = [
    {
      call: 'openat',
      dir: 'cwd',
      path: `${dir}/absent`,
      flags: O.PATH,
      mode: 0,
      out: 'absent',
      tolerate: ['EACCES', 'ENOENT'],
      note: 'opening absent',
    },
    { call: 'mkdirat', dir: 'absent', path: `${dir}/skipped`, mode: 0o755, note: 'making skipped' },
    { call: 'openat', dir: 'absent', path: dir, flags: O.PATH, mode: 0, out: 'second', note: 'opening from absent' },
    { call: 'mkdirat', dir: 'second', path: `${dir}/skippedToo`, mode: 0o755, note: 'making skippedToo' },
    { call: 'mkdirat', dir: 'cwd', path: `${dir}/made`, mode: 0o755, note: 'making made' },
  ];
  await output(t, { ...script('echo'), child: [...child, execve(shell)] });
  assert.deepEqual(readdirSync(dir), ['made']);
});

test('a run reports start time and outcome of each operation up to the failed one', async (t) => {
  const { monitor } = await monitorDeps(t);
  const open = (path: string, more: Partial<Op> = {}): Op =>
    ({ call: 'openat', dir: 'cwd', path, flags: O.RDONLY | O.CLOEXEC, mode: 0, note: `opening ${path}`, ...more }) as Op;
  const parent = [open('/no/such', { out: 'absent', tolerate: ['ENOENT'] }), { call: 'fchdir', fd: 'absent', note: 'entering' } satisfies Op];
  const runs: string[][] = [];
  const run = (child: readonly Op[]) =>
    startExec(
      { monitor },
      {
        plan: barePlan(child, { parent }),
        fds: [],
        name: 'test',
        ran: ({ run }) => void runs.push(run.map(({ us, outcome }) => `${us === undefined ? 'untimed' : us > 0} ${outcome}`)),
      },
    );
  const setsid: Op = { call: 'setsid', note: 'making a session' };
  const umask: Op = { call: 'umask', mask: 0o22, note: 'setting the umask' };
  const filter: Op = { call: 'seccomp', flags: 0, filter: denyMkdir(), note: 'setting the seccomp filter' };
  await (await run([setsid, filter, umask, execve('/no/such', ['ENOENT']), execve(shell)])).exited;
  await assert.rejects(run([setsid, open('/no/such'), execve(shell)]), /opening \/no\/such/);
  assert.deepEqual(runs, [
    ['true ENOENT', 'true skipped', 'true done', 'true done', 'true done', 'untimed done', 'untimed ENOENT', 'untimed unfinished'],
    ['true ENOENT', 'true skipped', 'true done', 'true done', 'true unfinished'],
  ]);
});

test('an errno that is not listed is not tolerated', async (t) => {
  const deps = await monitorDeps(t);
  const plan = barePlan([{ ...impossible, tolerate: ['EEXIST', 'EPERM'] }, execve(shell)]);
  await assert.rejects(startExec(deps, { plan, fds: [], name: 'test' }), /ENOENT/);
});

test('consecutive execve operations search a PATH, and EACCES takes precedence over a later ENOENT', async (t) => {
  const deps = await monitorDeps(t);
  const dir = scratch(t);
  writeFileSync(join(dir, 'tool'), '', { mode: 0o644 });
  const search = ['ENOENT', 'ENOTDIR', 'EACCES'] as const;
  assert.equal(
    (await output(t, { ...script('echo found'), child: [execve('/no/sh', search), execve(join(dir, 'tool'), search), execve(shell)] })).text,
    'found\n',
  );
  const denied = barePlan([execve(join(dir, 'tool'), search), execve('/no/tool')]);
  await assert.rejects(startExec(deps, { plan: denied, fds: [], name: 'test' }), /EACCES/);
});

test('exec joins the namespaces of a running container by its pidfd', async (t) => {
  const deps = await monitorDeps(t);
  const dir = scratch(t);
  const { monitorPid, pid } = await startContainer(deps, dir, { script: 'exec sleep 1000' });
  const pidfd = pidfdOpen(pid);
  const join: Op = { call: 'setns', fd: 'target', namespaces: CLONE.NEWPID | CLONE.NEWNS, note: 'joining the container' };
  const plan: Plan = { ...script('readlink /proc/1/ns/pid; readlink /proc/self/ns/pid; cat /proc/1/cmdline'), fds: ['target'], parent: [join] };
  const { text } = await output(t, plan, [pidfd]);
  const namespace = readlinkSync(`/proc/${pid}/ns/pid`);
  pidfdSendSignal(pidfd, 9);
  close(pidfd);
  await ended(monitorPid);
  assert.equal(text, `${namespace}\n${namespace}\nsleep\x001000\0`);
});

test('a start is aborted after its timeout, and neither monitor nor process remains', async (t) => {
  const deps = await monitorDeps(t);
  const [reader, writer] = pipe();
  // Opening a FIFO blocks until its other end is opened.
  const dir = scratch(t);
  const child: Op[] = [
    { call: 'mknodat', dir: 'cwd', path: `${dir}/fifo`, mode: 0o10644, dev: 0, note: 'making a FIFO' },
    { call: 'openat', dir: 'cwd', path: `${dir}/fifo`, flags: O.WRONLY, mode: 0, out: 'fifo', note: 'opening a FIFO' },
    execve(shell),
  ];
  const plan = barePlan(child, { fds: ['held'] });
  await assert.rejects(startExec(deps, { plan, fds: [writer], name: 'test', timeoutMs: 200 }), { code: 'DEADLINE_EXCEEDED' });
  close(writer);
  // EOF: all processes with the other end have exited.
  await whenReadable(reader);
  assert.equal(readSync(reader, Buffer.alloc(1)), 0);
  close(reader);
});

test('a held plan waits for its byte, and the daemon gets the pid of the process', async (t) => {
  const [reader, writer] = programPipe();
  const plan = { ...script('exit 7'), fds: ['go'] };
  const child: Op[] = [{ call: 'hold', from: 'go', note: 'waiting' }, ...plan.child];
  const namespaces: string[] = [];
  const held = async (pid: number) => {
    // The monitor reports the pid before it waits.
    await until('the process is waiting', async () => /^State:\tS/m.test(readFileSync(`/proc/${pid}/status`, 'utf8')));
    namespaces.push(readlinkSync(`/proc/${pid}/ns/pid`));
    writeSync(writer, '.');
  };
  const { pid, exited } = await startExec(await monitorDeps(t), { plan: { ...plan, child }, fds: [reader], name: 'test', held });
  assert.deepEqual([namespaces, await exited], [[readlinkSync('/proc/self/ns/pid')], { exitCode: 7, signal: 0 }]);
  assert.ok(pid > 0);
  for (const fd of [reader, writer]) close(fd);
});

test('a held plan does not continue without its byte: neither when the pipe is closed nor when the daemon aborts it', async (t) => {
  const deps = await monitorDeps(t);
  const [reader, writer] = programPipe();
  const plan = { ...script('exit 7'), fds: ['go', 'kept'] };
  const child: Op[] = [{ call: 'hold', from: 'go', note: 'waiting for hooks' }, ...plan.child];
  const [alive, held] = pipe();
  const refused = () => Promise.reject(new BerthError('FAILED_PRECONDITION', 'a hook failed'));
  await assert.rejects(startExec(deps, { plan: { ...plan, child }, fds: [reader, held], name: 'test', held: refused }), { message: 'a hook failed' });
  close(writer);
  const closed = async () => {};
  const ended = { code: 'INTERNAL', message: 'waiting for hooks: broken pipe (EPIPE)' };
  await assert.rejects(startExec(deps, { plan: { ...plan, child }, fds: [reader, held], name: 'test', held: closed }), ended);
  close(held);
  // EOF: all processes with the other end have exited.
  await whenReadable(alive);
  assert.equal(readSync(alive, Buffer.alloc(1)), 0);
  for (const fd of [reader, alive]) close(fd);
});

test('a process that is killed before its execve has not started', async (t) => {
  const [reader, writer] = programPipe();
  const plan = { ...script('exit 7'), fds: ['go'] };
  const child: Op[] = [{ call: 'hold', from: 'go', note: 'waiting' }, ...plan.child];
  const held = async (pid: number) => {
    process.kill(pid, 'SIGKILL');
  };
  const message = 'set up the process, which was killed: no such process (ESRCH)';
  await assert.rejects(startExec(await monitorDeps(t), { plan: { ...plan, child }, fds: [reader], name: 'test', held }), {
    code: 'INTERNAL',
    message,
  });
  for (const fd of [reader, writer]) close(fd);
});

test('reap becomes a pid 1 that waits for orphans until SIGTERM', async (t) => {
  const deps = await monitorDeps(t);
  const plan: Plan = barePlan([{ call: 'setsid', note: 'making a session' }, ...ownProc, { call: 'reap', note: 'reaping' }], {
    clone: { namespaces: CLONE.NEWPID | CLONE.NEWNS },
    process: { argv: [], env: [] },
    supervise: { mode: 'none' },
  });
  const { pid, monitorPid } = await startMonitor(deps, { plan, fds: [], name: 'pod' });
  assert.equal(processStartTime(monitorPid), null, 'the monitor has exited');
  const pidfd = pidfdOpen(pid);
  assert.deepEqual(readdirSync(`/proc/${pid}/fd`), ['0', '1', '2']);
  const join: Op = { call: 'setns', fd: 'target', namespaces: CLONE.NEWPID | CLONE.NEWNS, note: 'joining' };
  // The orphan exits after its parent. When no other process is listed, it has been reaped.
  const orphan =
    '(sleep 0.05 &) ; echo $$; while ls -d /proc/[0-9]* | grep -qvE "^/proc/(1|$$)$" && [ $((n+=1)) -lt 200 ]; do sleep 0.02; set -- /proc/[0-9]*; [ $# -le 2 ] && break; done; echo $#';
  const { text } = await output(t, { ...script(orphan), fds: ['target'], parent: [join] }, [pidfd]);
  assert.match(text, /^\d+\n2\n$/, 'only pid 1 and the shell remain');
  pidfdSendSignal(pidfd, 15);
  await whenReadable(pidfd);
  close(pidfd);
});

/** Sends an invalid plan to a monitor. @returns its report, or null. */
async function rejectionReport(path: string, bytes: Buffer): Promise<Buffer | null> {
  const plan = memfd('plan');
  const nothing = openSync('/dev/null', 'r+');
  const [reader, writer] = pipe();
  if (bytes.length > 0) writeSync(plan, bytes);
  const pid = spawnProcess({ path, argv: ['berth-monitor'], env: [], fds: [nothing, nothing, 2, plan, writer] });
  for (const fd of [plan, nothing, writer]) closeSync(fd);
  assert.equal((await ended(pid)) & 0x7f, 0, 'no signal');
  const report = Buffer.alloc(32);
  const length = readSync(reader, report);
  close(reader);
  return length === 0 ? null : report.subarray(0, length);
}

test('a truncated plan is rejected before its first operation', async (t) => {
  const { monitor } = await monitorDeps(t);
  const dir = scratch(t);
  const made: Op = { call: 'mkdirat', dir: 'cwd', path: join(dir, 'made'), mode: 0o755, tolerate: ['EEXIST'], note: 'making a directory' };
  const complete = encodePlan(barePlan([execve(shell)], { parent: [made] }));
  for (let length = 0; length < complete.length; length += 1) {
    const cut = Buffer.from(complete.subarray(0, length));
    // Also with a matching length, so that the content must be detected as invalid.
    if (length >= 12) cut.writeUInt32LE(length, 8);
    assert.equal((await rejectionReport(monitor.path, cut))?.readInt32LE(0), 4, `${length} bytes`);
  }
  assert.equal((await rejectionReport(monitor.path, Buffer.concat([complete, Buffer.alloc(8)])))?.readInt32LE(4), 1, 'trailing bytes');
  assert.ok(!existsSync(join(dir, 'made')));
});

test('the monitor binary cannot be modified, and its command line names the container', async (t) => {
  const deps = await monitorDeps(t);
  const program = openSync(deps.monitor.path, 'r+');
  assert.throws(() => writeSync(program, 'x', 0), { code: 'EPERM' });
  closeSync(program);
  const { monitorPid, pid } = await startContainer(deps, scratch(t), { script: 'exec sleep 1000' });
  assert.match(readFileSync(`/proc/${monitorPid}/status`, 'latin1'), /^Name:\tberth-monitor$/m);
  assert.equal(readFileSync(`/proc/${monitorPid}/cmdline`, 'latin1'), 'berth-monitor\0test\0');
  process.kill(pid, 'SIGKILL');
  await ended(monitorPid);
});

test('the exit record contains the number of OOM kills of the cgroup when the process exits', async (t) => {
  const deps = await monitorDeps(t);
  const dir = scratch(t);
  const memoryEvents = join(dir, 'memory.events');
  writeFileSync(memoryEvents, 'low 0\nhigh 0\nmax 9\noom 1\noom_kill 0\noom_group_kill 0\n');
  const script = `printf 'low 0\\nhigh 0\\nmax 99\\noom 12\\noom_kill 12\\noom_group_kill 1\\n' >${memoryEvents}`;
  assert.equal((await runContainer(deps, dir, { script, memoryEvents })).record.oomKills, 12);
});

test('the exit record contains exit code or signal', async (t) => {
  const deps = await monitorDeps(t);
  const dir = scratch(t);
  const before = BigInt(Date.now()) * 1_000_000n;
  const { record, pid } = await runContainer(deps, dir, { script: 'exit 7' });
  assert.ok(record.finishedAtNs >= before && record.finishedAtNs <= BigInt(Date.now() + 1) * 1_000_000n);
  assert.deepEqual({ ...record, finishedAtNs: 0n }, { pid, exitCode: 7, signal: 0, finishedAtNs: 0n, droppedLogBytes: 0, oomKills: null });
  const killed = await runContainer(deps, scratch(t), { script: 'kill -9 $$; exit 3' });
  assert.equal(killed.record.exitCode, 3, 'pid 1 of a namespace ignores its own SIGKILL');
  assert.deepEqual(readdirSync(dir).sort(), ['0.log', 'control', 'exit.json']);
});
