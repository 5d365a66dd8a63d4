/** Pods with user namespaces: ids and permissions of containers, owners of files on the host, and leftovers. */
import assert from 'node:assert/strict';
import { chownSync, existsSync, mkdirSync, readdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { recover } from '../../src/engine/recover.ts';
import { withShownLayers } from '../../src/engine/rootfs/overlay-rootfs.ts';
import { sandboxPaths } from '../../src/engine/sources/sandbox-paths.ts';
import type { ContainerSpec, IdMap, NamespaceModes, SandboxSpec } from '../../src/engine/state/spec.ts';
import { close } from '../../src/sys/call/syscalls.ts';
import { processes } from '../../src/sys/cgroup/cgroup-processes.ts';
import { attachMount, createDetachedMount, unmount } from '../../src/sys/mount/mounts.ts';
import { containerSpec, sandboxSpec, security, startEngine, type TestEngine } from './support/engine.ts';

const never = new AbortController().signal;
const ids = (hostId: number): IdMap => ({ uids: { hostId, length: 65536 }, gids: { hostId: hostId + 1000, length: 65536 } });
const first = ids(100_000);
/** Above 2^31, like those of the kubelet. */
const second = ids(4_220_715_008);
let host: TestEngine;
let leftoversBefore: string[];

before(async () => {
  leftoversBefore = findLeftovers();
  host = await startEngine();
  assert.equal(host.deps.userNamespaceFailure, null);
  chownSync(join(host.directory, 'layer/tmp'), 1000, 1001);
});
after(async () => {
  await host.end();
  assert.deepEqual(findLeftovers(), leftoversBefore, 'nothing is left');
});

/** Returns mounts, cgroups and processes of this test, to detect leaks. */
function findLeftovers(): string[] {
  const cgroups = readdirSync(existsSync('/sys/fs/cgroup/pids') ? '/sys/fs/cgroup/pids' : '/sys/fs/cgroup');
  return [...readFileSync('/proc/self/mounts', 'utf8').split('\n'), ...cgroups.filter((name) => name === `berth-test-${process.pid}`)];
}

const modes = (user: IdMap, changes: Partial<NamespaceModes> = {}): NamespaceModes => ({
  network: 'pod',
  ipc: 'pod',
  pid: 'container',
  user,
  ...changes,
});

async function runPod(namespaces: NamespaceModes, changes: Partial<SandboxSpec> = {}): Promise<string> {
  return host.engine.runSandbox(sandboxSpec({ namespaces, ...changes }));
}

async function start(sandboxId: string, changes: Partial<ContainerSpec> = {}): Promise<string> {
  const { namespaces } = host.engine.sandbox(sandboxId).record.spec;
  const spec = containerSpec(['sleep', '1000'], { security: { ...security, namespaces }, ...changes });
  const id = await host.engine.createContainer(sandboxId, spec, host.image);
  await host.engine.startContainer(id);
  return id;
}

async function run(id: string, script: string): Promise<string> {
  const { stdout, stderr, exitCode } = await host.engine.execSync(id, ['sh', '-c', script], 20_000, never);
  assert.equal(exitCode, 0, `${script}: ${stdout}${stderr}`);
  return stdout.toString();
}

const upperOf = (id: string) => host.deps.rootfs.upperDir(id);
const owner = (path: string) => [statSync(path).uid, statSync(path).gid];

test('a container has the ids of its pod, and its root is an unprivileged user on the host', async () => {
  const id = await start(await runPod(modes(first)));
  assert.match(await run(id, 'cat /proc/self/uid_map'), /^\s*0\s+100000\s+65536\s*$/);
  assert.match(await run(id, 'cat /proc/1/gid_map'), /^\s*0\s+101000\s+65536\s*$/);
  assert.match(await run(id, 'id'), /^uid=0\(root\) gid=0\(root\)/);
  const pid = host.engine.container(id).status.process?.pid;
  assert.deepEqual(owner(`/proc/${pid}`), [100_000, 101_000]);
  assert.match(await run(id, 'cat /proc/1/stat'), /^1 \(sleep\)/, 'pid 1 of its own pid namespace');
});

test('files of the image have their owners in the container, and new files belong to the mapped ids on the host', async () => {
  const id = await start(await runPod(modes(first)));
  assert.equal(await run(id, 'stat -c %u:%g /bin/busybox /etc/passwd /tmp'), '0:0\n0:0\n1000:1001\n');
  await run(id, 'echo x > /etc/passwd && echo y > /etc/new && touch /tmp/z');
  assert.deepEqual(owner(join(upperOf(id), 'etc/passwd')), [100_000, 101_000], 'copied up');
  assert.deepEqual(owner(join(upperOf(id), 'etc/new')), [100_000, 101_000]);
  assert.deepEqual(owner(join(upperOf(id), 'tmp')), [101_000, 102_001], 'a directory of another user');
  assert.deepEqual(owner(join(host.directory, 'layer/etc/passwd')), [0, 0], 'the layer is not modified');
});

test('two pods with different ids and one without a user namespace share the layers', async () => {
  const pods = [await runPod(modes(first)), await runPod(modes(second)), await host.engine.runSandbox(sandboxSpec())];
  const [one = '', two = '', plain = ''] = await Promise.all(pods.map((pod) => start(pod)));
  for (const id of [one, two, plain]) assert.equal(await run(id, 'stat -c %u /bin/busybox && touch /made && stat -c %u /made'), '0\n0\n');
  assert.deepEqual(
    [one, two, plain].map((id) => statSync(join(upperOf(id), 'made')).uid),
    [100_000, 4_220_715_008, 0],
  );
});

test('on kernels that accept only attached mounts, the layers are mounted temporarily on the staging directory', async () => {
  const { pins } = sandboxPaths(host.deps, host.engine.sandbox(await runPod(modes(first))).record);
  const { shelf } = host.deps.rootfs;
  const layers = ['bin', 'etc'].map((name) => join(host.directory, 'layer', name));
  const staged = () => readFileSync('/proc/self/mounts', 'utf8').split(` ${shelf.staging} `).length - 1;
  const seen = withShownLayers({ ...shelf, takesDetached: false }, layers, pins.user, (shown) => ({
    staged: staged(),
    owners: shown.map((fd) => statSync(`/proc/self/fd/${fd}/.`).uid),
  }));
  assert.deepEqual(seen, { staged: 2, owners: [100_000, 100_000] });
  assert.equal(staged(), 0);
});

test('a user of the image has its mapped id and groups', async () => {
  const user = { username: 'web', supplementalGroups: [77], groupsPolicy: 'merge' } as const;
  const id = await start(await runPod(modes(first)), { security: { ...security, namespaces: modes(first), user } });
  assert.match(await run(id, 'id'), /^uid=1000\(web\) gid=1001\(web\) groups=77,1001\(web\),2000\(extra\)/);
  const status = readFileSync(`/proc/${host.engine.container(id).status.process?.pid}/status`, 'utf8');
  assert.match(status, /^Uid:\t101000/m);
  assert.match(status, /^CapEff:\t0+$/m);
});

test('root of the pod owns its network, hostname and IPC: sysctls are set, and NET_ADMIN works', async () => {
  const sysctls = { 'net.ipv4.ip_forward': '1', 'kernel.shm_rmid_forced': '1', 'fs.mqueue.msg_max': '11' };
  const pod = await runPod(modes(first), { sysctls, hostname: 'mapped' });
  const security_ = { ...security, namespaces: modes(first), addCapabilities: ['NET_ADMIN', 'SYS_ADMIN'] };
  const id = await start(pod, { security: security_ });
  const read = 'cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shm_rmid_forced /proc/sys/fs/mqueue/msg_max; hostname';
  assert.equal(await run(id, read), '1\n1\n11\nmapped\n');
  await run(id, 'echo 0 > /proc/sys/net/ipv4/ip_forward && hostname other && grep -q lo /proc/net/dev');
  assert.equal(readFileSync('/proc/sys/kernel/hostname', 'utf8').trim(), host.deps.facts.hostname);
});

test('a sysctl that cannot be set fails the sandbox without leftovers', async () => {
  const before = findLeftovers();
  const unused = ids(7_000_000);
  await assert.rejects(runPod(modes(unused), { sysctls: { 'net.ipv4.nonsense': '1' } }), /set sysctl net.ipv4.nonsense to 1: /);
  assert.deepEqual(findLeftovers(), before);
  assert.deepEqual(
    host.engine.sandboxes().filter(({ record }) => record.spec.namespaces.user?.uids.hostId === unused.uids.hostId),
    [],
  );
});

test('/dev, /proc, /sys and the files of the sandbox exist and belong to the pod', async () => {
  const id = await start(await runPod(modes(first)));
  await run(id, 'echo x > /dev/null && dd if=/dev/zero of=/dev/shm/z bs=1 count=1 && dd if=/dev/urandom of=/dev/null bs=1 count=1');
  assert.equal(await run(id, 'stat -c %u:%g /dev /dev/shm /dev/pts /dev/mqueue /etc/hosts /etc/resolv.conf'), '0:0\n'.repeat(6));
  await run(id, 'echo 127.0.0.2 other >> /etc/hosts');
  assert.match(await run(id, 'mount'), /sysfs on \/sys type sysfs \(ro,nosuid,nodev,noexec/);
  assert.match(await run(id, 'ls /sys/class/net'), /^lo$/m);
  await assert.rejects(run(id, 'touch /sys/fs/cgroup/x'), /Read-only|Permission/);
  await assert.rejects(run(id, 'mount -t tmpfs none /tmp'), /permission denied|not permitted/i);
});

test('masked and read-only paths, a read-only root and declared volumes work', async () => {
  const { image } = host;
  const pod = await runPod(modes(first));
  const given = {
    ...security,
    namespaces: modes(first),
    hasReadonlyRootfs: true,
    maskedPaths: ['/proc/kcore', '/masked', '/proc/acpi'],
    readonlyPaths: ['/proc/sys'],
  };
  const spec = containerSpec(['sleep', '1000'], { security: given });
  const id = await host.engine.createContainer(pod, spec, { ...image, config: { ...image.config, volumes: ['/cache'] } });
  await host.engine.startContainer(id);
  assert.equal(await run(id, 'ls /masked'), '');
  await run(id, 'touch /cache/x');
  for (const path of ['/x', '/proc/sys/net/ipv4/ip_forward', '/masked/x']) await assert.rejects(run(id, `echo 1 > ${path}`), /Read-only/, path);
});

test('a volume with mappings shows the host’s ids as the pod’s; one without mappings shows nobody', async () => {
  const directory = join(host.directory, 'volume');
  mkdirSync(directory);
  for (const [name, uid] of [
    ['root', 0],
    ['web', 1000],
  ] as const) {
    writeFileSync(join(directory, name), '');
    chownSync(join(directory, name), uid, uid);
  }
  const volume = {
    hostPath: directory,
    isReadonly: false,
    isRecursiveReadonly: false,
    propagation: 'private',
    wantsSelinuxRelabel: false,
    options: [],
  } as const;
  const mounts = [
    { ...volume, containerPath: '/mapped', ids: first },
    { ...volume, containerPath: '/plain' },
    { ...volume, containerPath: '/file', hostPath: join(directory, 'root'), ids: first },
  ];
  const id = await start(await runPod(modes(first)), { mounts });
  assert.equal(await run(id, 'stat -c %u:%g /mapped/root /mapped/web /plain/root'), '0:0\n1000:1000\n65534:65534\n');
  await run(id, 'touch /mapped/made && echo x > /file');
  assert.deepEqual(owner(join(directory, 'made')), [0, 0]);
  assert.equal(readFileSync(join(directory, 'root'), 'utf8'), 'x\n', 'a volume that is a file');
  await assert.rejects(run(id, 'touch /plain/made'), /Permission denied/);
});

test('a tmpfs and mounts inside a volume have the pod’s ids; pods with different ids can share a volume', async () => {
  const directory = join(host.directory, 'memory');
  mkdirSync(directory);
  for (const path of [directory, join(directory, 'below')]) {
    mkdirSync(path, { recursive: true });
    const mount = createDetachedMount('tmpfs', [['mode', '755']]);
    attachMount(mount, path);
    close(mount);
  }
  try {
    const volume = {
      hostPath: directory,
      isReadonly: false,
      isRecursiveReadonly: false,
      propagation: 'private',
      wantsSelinuxRelabel: false,
    } as const;
    for (const user of [first, second]) {
      const id = await start(await runPod(modes(user)), { mounts: [{ ...volume, options: ['noexec'], containerPath: '/mapped', ids: user }] });
      assert.equal(await run(id, 'stat -c %u:%g /mapped /mapped/below && touch /mapped/below/made'), '0:0\n0:0\n');
      assert.deepEqual(owner(join(directory, 'below/made')), [0, 0]);
      assert.match(await run(id, 'mount'), /on \/mapped type tmpfs \(rw,noexec/);
    }
  } finally {
    for (const path of [join(directory, 'below'), directory]) unmount(path);
  }
});

test('a volume on a file system without ID-mapped mounts is rejected by name', async () => {
  const mount = {
    containerPath: '/v',
    hostPath: '/proc/fs',
    isReadonly: true,
    isRecursiveReadonly: false,
    propagation: 'private',
    wantsSelinuxRelabel: false,
    options: [],
    ids: first,
  } as const;
  await assert.rejects(
    start(await runPod(modes(first)), { mounts: [mount] }),
    /mount \/proc\/fs on \/v: the file system of \/proc\/fs.*does not support ID-mapped mounts/,
  );
});

test('a terminal is the container’s console, and belongs to its user', async () => {
  const logPath = join(host.directory, 'tty/0.log');
  const pod = await runPod(modes(first));
  const namespaces = modes(first);
  const spec = containerSpec(['sh', '-c', 'stat -c %u:%g $(readlink /proc/self/fd/0); test -t 0 && echo tty; echo x > /dev/console'], {
    hasTerminal: true,
    logPath,
    security: { ...security, namespaces },
  });
  const id = await host.engine.createContainer(pod, spec, host.image);
  await host.engine.startContainer(id);
  await host.deps.watches.of(id)?.exited;
  assert.match(readFileSync(logPath, 'utf8'), /0:5[\s\S]*tty[\s\S]*x/);
});

test('the terminal of an exec belongs to the pod', async () => {
  const id = await start(await runPod(modes(first)));
  const session = await host.engine.exec(id, {
    argv: ['sh', '-c', 'id; tty; stat -c %u:%g $(tty)'],
    stdin: false,
    stdout: true,
    stderr: false,
    tty: true,
  });
  const chunks: Buffer[] = [];
  for await (const chunk of session.stdout ?? []) chunks.push(chunk as Buffer);
  assert.match(Buffer.concat(chunks).toString(), /uid=0\(root\)[\s\S]*\/dev\/pts\/\d+\s+0:5/);
});

test('a shared pid namespace belongs to the pod, and its reaper is pid 1', async () => {
  const pod = await runPod(modes(first, { pid: 'pod' }));
  const [one = '', two = ''] = [await start(pod), await start(pod, { metadata: { name: 'second', attempt: 0 } })];
  assert.match(await run(one, 'cat /proc/1/comm'), /berth-reaper/);
  assert.equal((await run(two, 'ps')).match(/sleep 1000/g)?.length, 2);
  const reaper = host.engine.sandbox(pod).status.reaper?.pid;
  assert.deepEqual(owner(`/proc/${reaper}/task`), [100_000, 101_000]);
  const target = { ...security, namespaces: { ...modes(first), pid: 'target', targetId: one } as const };
  assert.match(await run(await start(pod, { metadata: { name: 'third', attempt: 0 }, security: target }), 'ps'), /berth-reaper/);
});

test('with the host network, /sys is the host’s and recursively read-only', async () => {
  const id = await start(await runPod(modes(first, { network: 'node' })));
  await assert.rejects(run(id, 'echo 1 > /sys/kernel/profiling'), /Read-only|Permission/);
  assert.match(await run(id, 'mount'), /on \/sys type sysfs \(ro,/);
});

test('with the host’s pid and IPC namespaces, /proc is the host’s', async () => {
  const id = await start(await runPod(modes(first, { pid: 'node', ipc: 'node' })));
  assert.match(await run(id, 'cat /proc/self/uid_map'), /100000/);
  assert.equal(Number((await run(id, 'echo $$')).trim()) > 1, true);
});

test('a privileged container has all capabilities in its user namespace and the host’s devices as bind mounts', async () => {
  const pod = await runPod(modes(first), { isPrivileged: true });
  const id = await start(pod, { security: { ...security, namespaces: modes(first), isPrivileged: true } });
  const effective = /CapEff:\s*(\w+)/.exec(await run(id, 'cat /proc/self/status'))?.[1];
  assert.equal(BigInt(`0x${effective}`), host.deps.facts.capabilities);
  await run(id, 'mount -t tmpfs none /tmp');
  await assert.rejects(run(id, 'mount -t ext4 /dev/vda /tmp'), /denied|not permitted|No such/i);
});

test('a requested device is the host’s node', async () => {
  symlinkSync('/dev/zero', join(host.directory, 'zero'));
  const devices = [{ containerPath: '/dev/my/zero', hostPath: join(host.directory, 'zero'), permissions: 'rwm' }];
  const id = await start(await runPod(modes(first)), { devices });
  assert.match(await run(id, 'stat -c "%F %t %T" /dev/my/zero && dd if=/dev/my/zero of=/dev/null bs=1 count=1'), /^character special file 1 5/);
});

test('a start that fails in the pod’s namespaces names its step and leaves no process', async () => {
  const pod = await runPod(modes(first));
  const spec = containerSpec(['nowhere'], { security: { ...security, namespaces: modes(first) } });
  const id = await host.engine.createContainer(pod, spec, host.image);
  await assert.rejects(host.engine.startContainer(id), {
    code: 'FAILED_PRECONDITION',
    message: /start "\/bin\/nowhere": no such file or directory/,
  });
  assert.deepEqual(await processes(host.deps.cgroups, host.engine.container(id).record.cgroupPath), []);
  const user = { uid: 65536, supplementalGroups: [], groupsPolicy: 'merge' } as const;
  const beyond = containerSpec(['true'], { metadata: { name: 'beyond', attempt: 0 }, security: { ...security, namespaces: modes(first), user } });
  await assert.rejects(host.engine.createContainer(pod, beyond, host.image), /user 65536 is not mapped in the user namespace of the pod/);
});

test('stop and remove work, the exit is recorded, and a restarted daemon keeps a pod with its namespaces', async () => {
  const pod = await runPod(modes(second));
  const id = await start(pod);
  await host.engine.stopContainer(id, 0);
  assert.equal(host.engine.container(id).status.exitCode, 137);
  await recover(host.deps);
  assert.equal(host.engine.sandbox(pod).status.stoppedAtNs, undefined);
  const again = await start(pod, { metadata: { name: 'main', attempt: 1 } });
  assert.match(await run(again, 'cat /proc/self/uid_map'), /4220715008/);
  const { directory } = sandboxPaths(host.deps, host.engine.sandbox(pod).record);
  await host.engine.removeSandbox(pod);
  assert.equal(existsSync(directory), false);
  assert.doesNotMatch(readFileSync('/proc/self/mounts', 'utf8'), new RegExp(pod));
});
