/** Containers through the engine's functions: root file system, namespaces, user and limits of a process, and leftovers after its removal. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmdirSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import type { ContainerImage } from '../../src/engine/lifecycle/container.ts';
import type { ContainerSpec, SandboxSpec } from '../../src/engine/state/spec.ts';
import { isAlive } from '../../src/sys/process/processes.ts';
import { containerSpec, sandboxSpec, security, startEngine, type TestEngine } from './support/engine.ts';

const never = new AbortController().signal;
let host: TestEngine;
let leftoversBefore: string[];

before(async () => {
  leftoversBefore = findLeftovers();
  host = await startEngine();
});
after(async () => {
  await host.end();
  assert.deepEqual(findLeftovers(), leftoversBefore, 'nothing is left');
});

/** Returns mounts, cgroups and open files of this process, to detect leaks. */
function findLeftovers(): string[] {
  const mounts = readFileSync('/proc/self/mounts', 'utf8').split('\n');
  const cgroups = readdirSync(existsSync('/sys/fs/cgroup/pids') ? '/sys/fs/cgroup/pids' : '/sys/fs/cgroup').filter(
    (name) => name === `berth-test-${process.pid}`,
  );
  return [...mounts, ...cgroups];
}

async function start(spec: ContainerSpec, sandbox: Partial<SandboxSpec> = {}): Promise<{ id: string; sandboxId: string }> {
  const sandboxId = await host.engine.runSandbox(sandboxSpec(sandbox));
  const id = await host.engine.createContainer(sandboxId, spec, host.image);
  await host.engine.startContainer(id);
  return { id, sandboxId };
}

const idle = (changes: Partial<ContainerSpec> = {}): ContainerSpec => containerSpec(['sleep', '1000'], changes);

async function run(id: string, script: string): Promise<string> {
  const { stdout, stderr, exitCode } = await host.engine.execSync(id, ['sh', '-c', script], 20_000, never);
  assert.equal(exitCode, 0, `${script}: ${stdout}${stderr}`);
  return stdout.toString();
}

/** Runs a container until it exits. @returns its output. */
async function output(spec: ContainerSpec, sandbox: Partial<SandboxSpec> = {}): Promise<string> {
  const logPath = join(host.directory, 'logs', `${Math.random()}`, '0.log');
  const { id } = await start({ ...spec, logPath }, sandbox);
  await host.deps.watches.of(id)?.exited;
  return readFileSync(logPath, 'utf8').replace(/^\S+ \S+ [FP] /gm, '');
}

test('startContainer() creates pid, mount, net, ipc and uts namespaces', async () => {
  const { id } = await start(idle());
  const inside = await run(id, 'ls -l /proc/self/ns');
  for (const kind of ['pid', 'mnt', 'net', 'ipc', 'uts']) {
    const [, own] = /\[(\d+)\]/.exec(readlinkSync(`/proc/self/ns/${kind}`)) ?? [];
    const [, theirs] = new RegExp(`${kind}:\\[(\\d+)\\]`).exec(inside) ?? [];
    assert.ok(theirs !== undefined && theirs !== own, `${kind}: ${theirs}`);
  }
  assert.match(await run(id, 'ps'), /^ +1 root +sleep 1000$/m);
  assert.equal(await run(id, 'hostname'), 'pod\n');
});

test('containers of a sandbox share net, ipc and uts, and /dev/shm', async () => {
  const { id, sandboxId } = await start(idle());
  const other = await host.engine.createContainer(sandboxId, idle({ metadata: { name: 'other', attempt: 0 } }), host.image);
  await host.engine.startContainer(other);
  const namespaces = (container: string) => run(container, 'stat -L -c %i /proc/self/ns/net /proc/self/ns/ipc /proc/self/ns/uts');
  assert.equal(await namespaces(id), await namespaces(other));
  await run(id, 'echo shared > /dev/shm/file');
  assert.equal(await run(other, 'cat /dev/shm/file'), 'shared\n');
});

test('a shared pid namespace has a reaper as pid 1, and ends with the sandbox', async () => {
  const namespaces = { network: 'pod', ipc: 'pod', pid: 'pod' } as const;
  const { id, sandboxId } = await start(idle({ security: { ...security, namespaces } }), { namespaces });
  const list = await run(id, 'ps');
  assert.match(list, /^ +1 root +.*(berth|monitor)/m);
  assert.match(list, /sleep 1000/);
  await run(id, 'sh -c "sleep 0.1 & " ; sleep 0.5; ps | grep -c "\\[sleep\\]" || true').then((zombies) => assert.equal(zombies.trim(), '0'));
  const reaper = host.engine.sandbox(sandboxId).status.reaper;
  assert.ok(reaper && isAlive(reaper.pid, reaper.startTime));
  await host.engine.stopSandbox(sandboxId);
  assert.equal(isAlive(reaper.pid, reaper.startTime), false);
});

test('the pid modes node and target join the respective namespace', async () => {
  const { id, sandboxId } = await start(idle());
  const node = { ...security, namespaces: { ...security.namespaces, pid: 'node' } } as const;
  const target = { ...security, namespaces: { ...security.namespaces, pid: 'target', targetId: id } } as const;
  const add = async (name: string, spec: typeof node | typeof target): Promise<string> => {
    const other = await host.engine.createContainer(sandboxId, idle({ metadata: { name, attempt: 0 }, security: spec }), host.image);
    await host.engine.startContainer(other);
    return run(other, 'stat -L -c %i /proc/self/ns/pid');
  };
  assert.equal(await add('debug', target), await run(id, 'stat -L -c %i /proc/self/ns/pid'));
  assert.equal(await add('host', node), `${statSync('/proc/self/ns/pid').ino}\n`);
});

test('user, groups and home come from the image, and drop ALL clears the bounding capabilities', async () => {
  const user = { username: 'web', supplementalGroups: [3000], groupsPolicy: 'merge' } as const;
  const text = await output(
    containerSpec(['sh', '-c', 'id; echo $HOME; grep CapBnd /proc/self/status'], { security: { ...security, user, dropCapabilities: ['ALL'] } }),
  );
  assert.match(text, /uid=1000\(web\) gid=1001\(web\) groups=1001\(web\),2000\(extra\),3000/);
  assert.match(text, /\/home\/web/);
  assert.match(text, /CapBnd:\t0000000000000000/);
});

test('ambient capabilities apply to a program of a non-root user', async () => {
  const user = { uid: 1000, supplementalGroups: [], groupsPolicy: 'merge' } as const;
  const spec = { ...security, user, addAmbientCapabilities: ['NET_BIND_SERVICE'] };
  assert.match(await output(containerSpec(['grep', 'CapEff', '/proc/self/status'], { security: spec })), /CapEff:\t0000000000000400/);
});

test('no_new_privs, seccomp and privileged mode are applied', async () => {
  const status = (changes: Partial<typeof security>) =>
    output(containerSpec(['grep', '-E', 'NoNewPrivs|Seccomp:', '/proc/self/status'], { security: { ...security, ...changes } }), {
      isPrivileged: true,
    });
  assert.equal(await status({ noNewPrivs: true, seccomp: { kind: 'runtime-default' } }), 'NoNewPrivs:\t1\nSeccomp:\t2\n');
  assert.equal(await status({}), 'NoNewPrivs:\t0\nSeccomp:\t0\n');
  assert.equal(await status({ isPrivileged: true, seccomp: { kind: 'runtime-default' } }), 'NoNewPrivs:\t0\nSeccomp:\t0\n');
});

test('a read-only root cannot be written; volumes, declared volumes and /dev/shm can', async () => {
  const volume = join(host.directory, 'volume');
  mkdirSync(volume);
  const mount = {
    hostPath: volume,
    containerPath: '/data',
    isReadonly: false,
    isRecursiveReadonly: false,
    propagation: 'private',
    wantsSelinuxRelabel: false,
    options: [],
  } as const;
  const image = { ...host.image, config: { ...host.image.config, volumes: ['/declared'] } };
  const sandboxId = await host.engine.runSandbox(sandboxSpec());
  const spec = idle({ mounts: [mount], security: { ...security, hasReadonlyRootfs: true } });
  const id = await host.engine.createContainer(sandboxId, spec, image);
  await host.engine.startContainer(id);
  await run(id, 'touch /data/a /declared/a /dev/shm/a; ! touch /a 2>/dev/null; ! touch /etc/hostname 2>/dev/null');
  assert.ok(existsSync(join(volume, 'a')));
});

test('masked paths are empty, read-only paths cannot be written', async () => {
  const paths = { maskedPaths: ['/masked', '/proc/version', '/etc/passwd', '/not/there'], readonlyPaths: ['/proc/sys', '/tmp'] };
  const { id } = await start(idle({ security: { ...security, ...paths } }));
  assert.equal(await run(id, 'ls /masked; cat /etc/passwd /proc/version'), '');
  await run(id, '! touch /masked/x 2>/dev/null; ! touch /tmp/x 2>/dev/null; ! echo 1 2>/dev/null > /proc/sys/kernel/hostname');
});

test("a symlink in the image cannot redirect a mount outside the container's root", async () => {
  const layer = host.image.layerDirs[0] as string;
  symlinkSync(host.directory, join(layer, 'escape'));
  symlinkSync('/proc/self/root', join(layer, 'magic'));
  const volume = join(host.directory, 'inner');
  mkdirSync(volume);
  writeFileSync(join(volume, 'seen'), '');
  const at = (containerPath: string) =>
    ({
      hostPath: volume,
      containerPath,
      isReadonly: false,
      isRecursiveReadonly: false,
      propagation: 'private',
      wantsSelinuxRelabel: false,
      options: [],
    }) as const;
  const sandboxId = await host.engine.runSandbox(sandboxSpec());
  const id = await host.engine.createContainer(sandboxId, idle({ mounts: [at('/escape/target')] }), host.image);
  // The symlink points to a missing directory: it is created in the container, not on the host.
  await host.engine.startContainer(id);
  assert.equal(await run(id, `ls /escape/target ${host.directory}/target`), `/escape/target:\nseen\n\n${host.directory}/target:\nseen\n`);
  assert.equal(existsSync(join(host.directory, 'target')), false);
  const metadata = { name: 'magic', attempt: 0 };
  await assert.rejects(host.engine.createContainer(sandboxId, idle({ metadata, mounts: [at('/magic/target')] }), host.image), {
    code: 'INVALID_ARGUMENT',
    message: /mount on \/magic\/target, which is \/proc\/self\/root\/target in the image: a volume below \/proc/,
  });
});

const volume = (hostPath: string, containerPath: string): ContainerSpec['mounts'][number] => ({
  hostPath,
  containerPath,
  isReadonly: false,
  isRecursiveReadonly: false,
  propagation: 'private',
  wantsSelinuxRelabel: false,
  options: [],
});

/** Returns the test image with an additional layer. */
function imageWith(fill: (layer: string) => void): ContainerImage {
  const layer = mkdtempSync(join(host.directory, 'layer-'));
  fill(layer);
  return { ...host.image, layerDirs: [...host.image.layerDirs, layer] };
}

async function startFrom(image: ContainerImage, changes: Partial<ContainerSpec>): Promise<string> {
  const sandboxId = await host.engine.runSandbox(sandboxSpec());
  const id = await host.engine.createContainer(sandboxId, idle(changes), image);
  await host.engine.startContainer(id);
  return id;
}

test('the missing target of a dangling symlink is created for files of the sandbox, volumes and the working directory', async () => {
  const image = imageWith((layer) => {
    mkdirSync(join(layer, 'etc'));
    mkdirSync(join(layer, 'var'));
    symlinkSync('../run/resolved/stub.conf', join(layer, 'etc/resolv.conf'));
    symlinkSync('/run/gone', join(layer, 'var/gone'));
    symlinkSync('loop', join(layer, 'loop'));
  });
  const source = mkdtempSync(join(host.directory, 'volume-'));
  writeFileSync(join(source, 'seen'), '');
  // Mounted first, because it has fewer path components than the target of the link.
  const runDir = mkdtempSync(join(host.directory, 'run-'));
  const mounts = [volume(source, '/var/gone/v'), volume(runDir, '/run')];
  const id = await startFrom(image, { mounts, workingDir: '/var/gone/w' });
  assert.equal(
    await run(id, 'pwd; ls /run/gone /run/gone/v; test -f /etc/resolv.conf; ! test -L /etc/resolv.conf'),
    '/run/gone/w\n/run/gone:\nv\nw\n\n/run/gone/v:\nseen\n',
  );
  assert.deepEqual(readdirSync(runDir), ['gone'], 'no file of berth is created in a volume');
  const plain = await startFrom(image, {});
  await run(plain, 'test -f /run/resolved/stub.conf');
  await assert.rejects(startFrom(image, { workingDir: '/loop/x' }), /ELOOP/);
});

test('an image whose /proc or /sys is not a directory is rejected', async () => {
  const linked = imageWith((layer) => symlinkSync('/tmp', join(layer, 'proc')));
  await assert.rejects(startFrom(linked, {}), /mount on \/proc: must be a directory in the image, but is a symbolic link/);
  const file = imageWith((layer) => writeFileSync(join(layer, 'sys'), ''));
  await assert.rejects(startFrom(file, {}), /mount on \/sys: must be a directory in the image, but is not/);
});

test('a device path on or below a volume is left to the volume, in which nothing is created or removed', async () => {
  const devices = join(host.directory, 'devices');
  mkdirSync(join(devices, 'net'), { recursive: true });
  for (const [name, minor] of [
    ['full', '7'],
    ['net/tun', '3'],
  ] as const)
    execFileSync('mknod', [join(devices, name), 'c', '1', minor]);
  const before = statSync(join(devices, 'full')).ino;
  const asked = { hostPath: '/dev/zero', containerPath: '/dev/net/zero', permissions: 'rwm' };
  const id = await startFrom(host.image, {
    mounts: [volume('/dev/urandom', '/dev/random'), volume(join(devices, 'full'), '/dev/zero'), volume(join(devices, 'net'), '/dev/net')],
    devices: [{ ...asked, containerPath: '/dev/zero' }, asked],
  });
  assert.equal(await run(id, "stat -c '%t,%T' /dev/random /dev/zero /dev/net/tun /dev/net/zero"), '1,9\n1,7\n1,3\n1,5\n');
  // Privileged: all host devices, but not in a volume that is the host's /dev or a copy of it.
  const privileged = { ...security, isPrivileged: true };
  const all = await startFrom(host.image, { mounts: [volume(devices, '/dev')], security: privileged });
  assert.equal(await run(all, 'ls /dev/net'), 'tun\nzero\n');
  assert.deepEqual([readdirSync(devices).sort(), statSync(join(devices, 'full')).ino], [['full', 'net'], before]);
});

test('a missing volume source is created by CreateContainer, and is an error in StartContainer', async () => {
  const sandboxId = await host.engine.runSandbox(sandboxSpec());
  const source = join(host.directory, 'made');
  const id = await host.engine.createContainer(sandboxId, idle({ mounts: [volume(source, '/v')] }), host.image);
  rmdirSync(source);
  await assert.rejects(host.engine.startContainer(id), /made on \/v: .*ENOENT/);
  assert.equal(existsSync(source), false);
});

test('mounting a file on a directory or a directory on a file is an error', async () => {
  const file = join(host.directory, 'file');
  writeFileSync(file, '');
  await assert.rejects(startFrom(host.image, { mounts: [volume(file, '/tmp')] }), {
    code: 'FAILED_PRECONDITION',
    message: /mount on \/tmp: must be a file in the image, but is a directory/,
  });
});

test('errors name the step and the reason, and are returned by CreateContainer if possible', async () => {
  const sandboxId = await host.engine.runSandbox(sandboxSpec());
  const create = (name: string, changes: Partial<ContainerSpec>, command = ['sleep', '1']) =>
    host.engine.createContainer(sandboxId, containerSpec(command, { metadata: { name, attempt: 0 }, ...changes }), host.image);
  await assert.rejects(
    create('user', { security: { ...security, user: { username: 'nobody-here', supplementalGroups: [], groupsPolicy: 'merge' } } }),
    /nobody-here/,
  );
  await assert.rejects(
    create('device', { devices: [{ hostPath: '/dev/nope', containerPath: '/dev/nope', permissions: 'rwm' }] }),
    /\/dev\/nope: no such file/,
  );
  await assert.rejects(create('seccomp', { security: { ...security, seccomp: { kind: 'localhost', path: '/nope.json' } } }), /\/nope\.json/);
  await assert.rejects(create('capability', { security: { ...security, addCapabilities: ['FLY'] } }), /FLY/);
  assert.deepEqual(
    host.engine.containers().filter(({ record }) => record.sandboxId === sandboxId),
    [],
  );

  const missing = await create('program', {}, ['/missing']);
  await assert.rejects(host.engine.startContainer(missing), /start "\/missing": no such file or directory \(ENOENT\)/);
  const { status } = host.engine.container(missing);
  assert.deepEqual([status.exitCode, status.reason], [128, 'StartError']);
});

test('stopContainer() sends the stop signal, then SIGKILL; the status has the exit code', async () => {
  const trap = (signal: string, code: number) =>
    containerSpec(['sh', '-c', `trap 'exit ${code}' ${signal}; echo ready; while :; do sleep 0.1; done`]);
  const { id } = await start({ ...trap('USR1', 7), stopSignal: 'SIGUSR1', logPath: join(host.directory, 'logs/trap.log') });
  while (readFileSync(join(host.directory, 'logs/trap.log'), 'utf8') === '') await new Promise((resolve) => setTimeout(resolve, 20));
  await host.engine.stopContainer(id, 20_000);
  const { status } = host.engine.container(id);
  assert.deepEqual([status.exitCode, status.reason], [7, 'Error']);
  const deaf = await start(idle());
  await host.engine.stopContainer(deaf.id, 100);
  assert.equal(host.engine.container(deaf.id).status.exitCode, 137);
  await host.engine.stopContainer(deaf.id, 100);
});

test('execSync() returns output and exit code, kills all processes at the timeout, and does not wait for background processes', async () => {
  const { id } = await start(idle());
  const result = await host.engine.execSync(id, ['sh', '-c', 'echo out; echo err >&2; exit 3'], 0, never);
  assert.deepEqual([String(result.stdout), String(result.stderr), result.exitCode], ['out\n', 'err\n', 3]);
  await assert.rejects(host.engine.execSync(id, ['sh', '-c', 'sleep 500 & sleep 600'], 200, never), { code: 'DEADLINE_EXCEEDED' });
  assert.doesNotMatch(await run(id, 'ps'), /sleep [56]00/);
  assert.equal(String((await host.engine.execSync(id, ['sh', '-c', 'sleep 700 & echo done'], 10_000, never)).stdout), 'done\n');
  const large = await host.engine.execSync(id, ['dd', 'if=/dev/zero', 'bs=1M', 'count=20'], 60_000, never);
  assert.equal(large.exitCode, 0);
  assert.ok(large.stdout.length <= 8 * 1024 * 1024 && large.stdout.length > 7 * 1024 * 1024);
});

test('a repeated call returns the same object, during the first call or after it', async () => {
  const spec = sandboxSpec();
  const [first, second] = await Promise.all([host.engine.runSandbox(spec), host.engine.runSandbox(spec)]);
  assert.equal(first, second);
  assert.equal(await host.engine.runSandbox(spec), first);
  const [one, two] = await Promise.all([1, 2].map(() => host.engine.createContainer(first, idle(), host.image)));
  assert.equal(one, two);
});

test('stop and remove are idempotent and succeed for missing objects', async () => {
  const { id, sandboxId } = await start(idle());
  await Promise.all([host.engine.removeContainer(id), host.engine.removeContainer(id)]);
  assert.throws(() => host.engine.container(id), { code: 'NOT_FOUND' });
  await host.engine.stopSandbox(sandboxId);
  await host.engine.stopSandbox(sandboxId);
  await assert.rejects(host.engine.createContainer(sandboxId, idle(), host.image), { code: 'FAILED_PRECONDITION' });
  await Promise.all([host.engine.removeSandbox(sandboxId), host.engine.removeSandbox(sandboxId)]);
  await host.engine.stopContainer('0'.repeat(64), 0);
  await host.engine.removeSandbox('0'.repeat(64));
});

test('sysctls are set in the sandbox, and an invalid one fails without leftovers', async () => {
  const { id } = await start(idle(), { sysctls: { 'kernel.shm_rmid_forced': '1', 'net.ipv4.ip_forward': '1' } });
  assert.equal(await run(id, 'cat /proc/sys/kernel/shm_rmid_forced /proc/sys/net/ipv4/ip_forward'), '1\n1\n');
  const count = host.engine.sandboxes().length;
  await assert.rejects(host.engine.runSandbox(sandboxSpec({ sysctls: { 'net.ipv4.none': '1' } })), /sysctl net\.ipv4\.none/);
  assert.equal(host.engine.sandboxes().length, count);
});

test('a terminal is the container’s stdin, stdout, stderr and console', async () => {
  const text = await output(
    containerSpec(['sh', '-c', 'test -t 0 && test -t 1 && test -t 2 && echo terminal; ls -l /dev/console; exit 0'], { hasTerminal: true }),
  );
  assert.match(text, /^terminal\r$/m);
  assert.match(text, /136,/);
});

test('privileged: host devices, writable /sys, all capabilities of the daemon', async () => {
  const { id } = await start(idle({ security: { ...security, isPrivileged: true } }), { isPrivileged: true });
  const held = /^CapBnd:.*$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[0] as string;
  assert.ok((await run(id, 'cat /proc/1/status')).includes(held));
  if (existsSync('/dev/kmsg')) assert.match(await run(id, 'ls -l /dev/kmsg'), /1, +11/);
  assert.match(await run(id, 'mount'), /^sysfs on \/sys type sysfs \(rw/m);
});

test('an OOM kill is reported as such', async () => {
  const { id } = await start(
    containerSpec(['sh', '-c', 'x=a; while :; do x=$x$x$x; done'], {
      resources: { memoryLimitBytes: 20 * 1024 * 1024, memorySwapLimitBytes: 20 * 1024 * 1024 },
    }),
  );
  await host.deps.watches.of(id)?.exited;
  const { status } = host.engine.container(id);
  assert.deepEqual([status.exitCode, status.reason], [137, 'OOMKilled']);
});

test('updated resources are applied and shown even if they cannot be written to disk', async () => {
  const { id } = await start(idle({ resources: { cpuShares: 512 } }));
  const directory = host.deps.store.containers.directory(id);
  execFileSync('mount', ['--bind', directory, directory]);
  execFileSync('mount', ['-o', 'remount,bind,ro', directory]);
  try {
    await host.engine.updateResources(id, { cpuShares: 300 });
  } finally {
    execFileSync('umount', [directory]);
  }
  assert.equal(host.engine.container(id).status.resources.cpuShares, 300);
  await assert.rejects(host.engine.execSync(id, [''], 20_000, never), /invalid command: argument 0 is missing or empty/);
});

test('CreateContainer rejects an image in which a volume cannot be mounted at its path', async () => {
  const layer = mkdtempSync(join(host.directory, 'faulty-'));
  writeFileSync(join(layer, 'file'), '');
  symlinkSync('circle', join(layer, 'circle'));
  symlinkSync('mounted', join(layer, 'link'));
  mkdirSync(join(layer, 'mounted'));
  writeFileSync(join(layer, 'mounted/sub'), '');
  const image = (volumes: readonly string[]): ContainerImage => {
    const { config, layerDirs } = host.image;
    return { ...host.image, config: { ...config, volumes }, layerDirs: [layer, ...layerDirs] };
  };
  const sandboxId = await host.engine.runSandbox(sandboxSpec());
  const mount = (containerPath: string, hostPath = layer) => ({
    ...{ containerPath, hostPath, isReadonly: false, isRecursiveReadonly: false, propagation: 'private' as const },
    ...{ wantsSelinuxRelabel: false, options: [] },
  });
  const readonly = { security: { ...security, hasReadonlyRootfs: true } };
  const create = (spec: Partial<ContainerSpec>, volumes: readonly string[] = []) =>
    host.engine.createContainer(sandboxId, idle(spec), image(volumes));
  const refused = (message: RegExp) => ({ code: 'FAILED_PRECONDITION', message });
  await assert.rejects(create(readonly, ['/file']), refused(/mount on \/file: must be a directory in the image, but is a file/));
  await assert.rejects(create(readonly, ['/file/below']), refused(/mount on \/file\/below: its parent is a file/));
  await assert.rejects(create({ mounts: [mount('/file')] }), refused(/mount on \/file: must be a directory in the image/));
  await assert.rejects(
    create({ mounts: [mount('/etc', '/etc/hostname')] }),
    refused(/mount on \/etc: must be a file in the image, but is a directory/),
  );
  await assert.rejects(create({ mounts: [mount('/circle/x')] }), refused(/mount on \/circle\/x: too many levels of symbolic links/));
  // A path below another mount, also through a symlink, does not depend on the image.
  const empty = join(host.directory, 'empty-volume');
  mkdirSync(empty);
  const id = await create({ ...readonly, mounts: [mount('/mounted', empty), mount('/link/sub'), mount('/mounted/sub/sub')] }, ['/mounted/sub']);
  await host.engine.startContainer(id);
  assert.equal(await run(id, 'test -d /mounted/sub/sub && echo there'), 'there\n');
  await host.engine.removeSandbox(sandboxId);
});

test('an exit code is not lost to a full disk', async () => {
  const sandboxId = await host.engine.runSandbox(sandboxSpec());
  const id = await host.engine.createContainer(sandboxId, containerSpec(['sh', '-c', 'while [ ! -e /go ]; do sleep 0.05; done; exit 7']), host.image);
  const directory = host.deps.store.containers.directory(id);
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=256k', 'tmpfs', directory]);
  try {
    await host.engine.startContainer(id);
    assert.throws(() => writeFileSync(join(directory, 'filler'), Buffer.alloc(1 << 20)), { code: 'ENOSPC' });
    await run(id, ': > /go');
    await host.deps.watches.of(id)?.exited;
    const { exitCode, reason } = host.engine.container(id).status;
    assert.deepEqual([exitCode, reason], [7, 'Error']);
  } finally {
    execFileSync('umount', [directory]);
  }
});
