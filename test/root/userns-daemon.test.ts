/**
 * Pods with user namespaces through the daemon: owners of the image's files, what the pod owns, isolation between pods, and refused requests.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { lstatSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { gzipSync } from 'node:zlib';
import type { Message } from '../../scripts/cri-client.ts';
import { digestOf, type Layer } from '../../scripts/image-builder.ts';
import { enterIsolation } from '../support/isolation.ts';
import { staticProgram } from '../support/static-program.ts';
import { type Member, makeTar } from '../support/tar-maker.ts';
import { createWorkspace, type Daemon, isBuilt, startDaemon, type Workspace } from './support/daemon.ts';
import { detailsOf, eventually, exec, logLines, type Pod, pullSample, runContainer, runPod } from './support/pods.ts';

const skip = !isBuilt && 'berth is not built';
if (!skip) enterIsolation();

type Mapping = { readonly host_id: number; readonly container_id: number; readonly length: number };
type Ids = { readonly uids: readonly Mapping[]; readonly gids: readonly Mapping[] };

const range = (host_id: number): Mapping[] => [{ host_id, container_id: 0, length: 65_536 }];
const first: Ids = { uids: range(65_536), gids: range(131_072) };
const second: Ids = { uids: range(4_220_715_008), gids: range(4_220_780_544) };
const optionsOf = (ids: Ids | undefined) => (ids === undefined ? {} : { namespace_options: { userns_options: { mode: 'POD', ...ids } } });

let workspace: Workspace;
let daemon: Daemon;
let image: string;

before(async () => {
  if (skip) return;
  workspace = createWorkspace();
  daemon = await startDaemon(workspace);
  image = await pullSample(daemon.client, buildLayers());
});
after(async () => {
  if (skip) return;
  const { client } = daemon;
  const { items } = await client.call<{ items: readonly { id: string }[] }>('ListPodSandbox', {});
  for (const { id } of items) await client.call('RemovePodSandbox', { pod_sandbox_id: id });
  await daemon.end('SIGTERM');
  await workspace.remove();
});

/** VFS_CAP_REVISION_2 with the effective flag, and CAP_NET_RAW permitted: include/uapi/linux/capability.h. */
const netRawCapability = Buffer.from('0100000200200000000000000000000000000000', 'hex');

/** Two layers with files of many owners. The second replaces a file of the first, and adds to its directories. */
function buildLayers(): Layer[] {
  const content = readFileSync(staticProgram(join(import.meta.dirname, 'userns-probe.c')));
  const lower: Member[] = [
    { path: 'owned/', uid: 33, gid: 33 },
    { path: 'owned/root', content: 'x' },
    { path: 'owned/web', content: 'x', uid: 33, gid: 34 },
    { path: 'owned/user', content: 'x', uid: 1000, gid: 1001, mode: 0o600 },
    { path: 'owned/nobody', content: 'x', uid: 65_534, gid: 65_534 },
    { path: 'owned/replaced', content: 'lower', uid: 1, gid: 1 },
    { path: 'probe/' },
    { path: 'probe/plain', content, mode: 0o755 },
    { path: 'probe/setuid', content, mode: 0o6755, uid: 1000, gid: 1001 },
    { path: 'probe/capable', content, mode: 0o755, pax: { 'SCHILY.xattr.security.capability': netRawCapability } },
  ];
  const upper: Member[] = [
    { path: 'owned/', uid: 33, gid: 33 },
    { path: 'owned/replaced', content: 'upper', uid: 100, gid: 101 },
    { path: 'owned/link', type: '2', link: 'web', uid: 5, gid: 6 },
    { path: 'owned/last', content: 'x', uid: 65_535, gid: 65_535 },
  ];
  return [lower, upper].map((members) => {
    const tar = makeTar(members);
    return { blob: gzipSync(tar), diffId: digestOf(tar) };
  });
}

async function podOf(name: string, ids: Ids | undefined): Promise<Pod> {
  return runPod(daemon.client, name, workspace.directory, { linux: { security_context: optionsOf(ids) } });
}

async function start(pod: Pod, name: string, ids: Ids | undefined, changes: Message = {}, script = 'exec sleep 1000'): Promise<string> {
  const { security = {}, ...others } = changes as { security?: Message };
  return runContainer(daemon.client, pod, image, name, script, { linux: { security_context: { ...optionsOf(ids), ...security } }, ...others });
}

const run = (id: string, script: string) => exec(daemon.client, id, 'sh', '-c', script);

/** All files of the layers on the host, with what a chown or a copy would change. */
function layerFiles(): Record<string, string> {
  const directory = join(workspace.root, 'layers');
  const paths = readdirSync(directory, { recursive: true, encoding: 'utf8' });
  const files = paths.map((path) => {
    const { ino, uid, gid, mode, ctimeNs } = lstatSync(join(directory, path), { bigint: true });
    return [path, `${ino} ${uid}:${gid} ${mode.toString(8)} ${ctimeNs}`];
  });
  return Object.fromEntries(files);
}

const owners = `33:33 owned
5:6 owned/link
0:0 owned/root
33:34 owned/web
1000:1001 owned/user
65534:65534 owned/nobody
100:101 owned/replaced
65535:65535 owned/last
1000:1001 probe/setuid
`;
const statAll = `stat -c '%u:%g %n' ${[...owners.matchAll(/ (\S+)$/gm)].map(([, path]) => path).join(' ')}`;

test('a program of any user can open its standard streams again', { skip }, async () => {
  for (const [name, ids] of Object.entries({ plain: undefined, mapped: first })) {
    const pod = await podOf(`streams-${name}`, ids);
    for (const uid of ['0', '1000']) {
      const security = { run_as_user: { value: uid } };
      const script = 'echo log >/dev/stdout; echo error >/proc/self/fd/2; exec sleep 1000';
      const id = await start(pod, `as${uid}`, ids, { security }, script);
      const file = join(pod.logDirectory, `as${uid}.log`);
      await eventually(`${name} as ${uid} has written its log`, () => readFileSync(file, 'utf8').split('\n').length > 2);
      assert.deepEqual(logLines(file).sort(), ['error', 'log'], `${name} as ${uid}`);
      assert.equal(await run(id, 'echo out >/dev/stdout'), 'out\n');
    }
  }
});

test('layers with files of many owners are shown to pods with different ids and to a plain pod at the same time, and never changed', {
  skip,
}, async () => {
  const layersBefore = layerFiles();
  assert.ok(Object.keys(layersBefore).some((path) => path.endsWith('/owned/web')));
  const started = Object.entries({ plain: undefined, one: first, two: second }).map(async ([name, ids]) => {
    const id = await start(await podOf(`layers-${name}`, ids), 'main', ids);
    return { id, ids };
  });
  for (const { id, ids } of await Promise.all(started)) {
    assert.equal(await run(id, statAll), owners);
    assert.equal(await run(id, 'cat /owned/replaced'), 'upper');
    await run(id, 'echo y >> /owned/web && touch /owned/new && chown 33:44 /owned/new');
    assert.equal(await run(id, 'stat -c %u:%g /owned/web /owned/new'), '33:34\n33:44\n');
    const upper = join(workspace.root, 'containers', id, 'upper/owned');
    const [uid = 0, gid = 0] = [ids?.uids[0]?.host_id, ids?.gids[0]?.host_id];
    const ownerOf = ({ uid, gid }: { uid: number; gid: number }) => [uid, gid];
    assert.deepEqual(ownerOf(statSync(join(upper, 'web'))), [uid + 33, gid + 34], 'copied up');
    assert.deepEqual(ownerOf(statSync(join(upper, 'new'))), [uid + 33, gid + 44]);
    if (ids !== undefined) await assert.rejects(run(id, 'chown 65536 /owned/new'), /Invalid argument/, 'an id that is not mapped');
  }
  assert.deepEqual(layerFiles(), layersBefore);
});

test('set-id programs, file capabilities and groups work with ids of the pod', { skip }, async () => {
  for (const [name, ids] of Object.entries({ plain: undefined, mapped: first })) {
    const pod = await podOf(`ids-${name}`, ids);
    const capabilities = { add_capabilities: ['NET_RAW'] };
    const user = await start(pod, 'user', ids, { security: { run_as_user: { value: '7' }, run_as_group: { value: '8' }, capabilities } });
    assert.equal(await run(user, '/probe/plain ids'), 'uid 7 7 gid 8 8\n');
    assert.equal(await run(user, '/probe/setuid ids'), 'uid 7 1000 gid 8 1001\n');
    assert.match(await run(user, '/probe/plain sockets'), /raw Operation not permitted/);
    assert.match(await run(user, '/probe/capable sockets'), /raw ok/);
    assert.match(await run(user, '/probe/plain sockets'), /ping ok/);
    const strict = await start(pod, 'strict', ids, { security: { run_as_user: { value: '7' }, no_new_privs: true, capabilities } });
    assert.equal(await run(strict, '/probe/setuid ids'), 'uid 7 7 gid 0 0\n');
    assert.match(await run(strict, '/probe/capable sockets'), /raw Operation not permitted/);
  }
  const root = await start(await podOf('groups', first), 'root', first);
  assert.equal(await run(root, '/probe/plain groups'), 'mapped ok\nunmapped Invalid argument\n');
});

test('the pod’s user namespace owns its network, its sysfs and its sysctls', { skip }, async () => {
  const pod = await podOf('network', first);
  // As udev creates it. A node that only the host's root may open is of no use to root of the pod.
  const tun = join(workspace.directory, 'tun');
  execFileSync('mknod', ['-m', '666', tun, 'c', '10', '200']);
  const devices = [{ host_path: tun, container_path: '/dev/net/tun', permissions: 'rw' }];
  const security = { capabilities: { add_capabilities: ['NET_ADMIN'] } };
  const id = await start(pod, 'admin', first, { security, devices });
  assert.equal(await run(id, '/probe/plain netns'), 'own\n');
  assert.equal(await run(id, 'stat -c %u:%g /sys/class/net/eth0/address /sys/class/net/lo/mtu'), '0:0\n0:0\n');
  assert.equal(await run(id, 'cat /sys/class/net/eth0/operstate'), 'up\n');
  await run(id, 'ip link set eth0 mtu 1400 && ip addr add 10.9.9.9/32 dev lo');
  // The kubelet's /proc/sys is read-only unless the container is privileged.
  await run(id, 'echo 0 > /proc/sys/net/ipv4/ip_unprivileged_port_start');
  assert.equal(await run(id, '/probe/plain tun'), 'tun ok\n');
  assert.match(await run(id, 'cat /proc/sys/net/ipv4/ping_group_range'), /^0\s+65535$/m);
  const plain = await start(pod, 'plain', first);
  await assert.rejects(run(plain, 'ip link set eth0 mtu 1300'), /not permitted/);
  await assert.rejects(run(plain, 'cat /dev/net/tun'), /No such file/);
});

test('a privileged container may change its network through sysfs, and nothing of the host', { skip }, async () => {
  const security = { privileged: true, ...optionsOf(first) };
  const pod = await runPod(daemon.client, 'privileged', workspace.directory, { linux: { security_context: security } });
  const id = await start(pod, 'main', first, { security: { privileged: true } });
  await run(id, 'echo 1450 > /sys/class/net/eth0/mtu && grep -qx 1450 /sys/class/net/eth0/mtu');
  await run(id, 'echo 1 > /proc/sys/net/ipv4/ip_forward');
  // Opened only: nothing is written to the host should it succeed.
  for (const path of ['/sys/kernel/profiling', '/proc/sys/kernel/core_pattern', '/proc/sys/kernel/panic', '/proc/sys/vm/swappiness']) {
    await assert.rejects(run(id, `: >> ${path}`), /Permission denied/, path);
  }
  await assert.rejects(run(id, 'mknod /tmp/null c 1 3'), /not permitted/);
});

test('two pods cannot read each other’s files, even in a shared volume or through the host’s file system', { skip }, async () => {
  const shared = join(workspace.directory, 'shared');
  mkdirSync(shared, { mode: 0o777 });
  execFileSync('chmod', ['777', shared]);
  // Without mappings, the owners of files are the ids of each pod.
  const mounts = [{ host_path: shared, container_path: '/shared' }];
  const one = await start(await podOf('reads-one', first), 'main', first, { mounts });
  const two = await start(await podOf('reads-two', second), 'main', second, { mounts });
  await run(one, 'umask 077; echo secret > /shared/secret; mkdir /shared/private; echo secret > /shared/private/file');
  assert.equal(await run(two, 'stat -c %u:%g /shared/secret'), '65534:65534\n');
  for (const command of ['cat /shared/secret', 'cat /shared/private/file', 'chown 0 /shared/secret', 'ls /shared/private']) {
    await assert.rejects(run(two, command), /Permission denied|not permitted/, command);
  }
  const upper = statSync(join(workspace.root, 'containers', one, 'upper'));
  assert.deepEqual([upper.uid, upper.gid], [65_536, 131_072]);
  assert.equal(lstatSync(join(workspace.root, 'containers')).mode & 0o777, 0o700, 'no user of the host enters the writable directories');
});

test('a volume on a file system without ID-mapped mounts is refused by name; without mappings it is mounted', { skip }, async () => {
  const places = Object.fromEntries(['lower', 'upper', 'work', 'overlay', 'fuse'].map((name) => [name, join(workspace.directory, `odd-${name}`)]));
  for (const path of Object.values(places)) mkdirSync(path);
  const { lower, upper, work, overlay = '', fuse = '' } = places;
  execFileSync('mount', ['-t', 'overlay', '-o', `lowerdir=${lower},upperdir=${upper},workdir=${work}`, 'overlay', overlay]);
  execFileSync('fuse-overlayfs', ['-o', `lowerdir=${lower}:${overlay}`, fuse]);
  try {
    const pod = await podOf('odd', first);
    for (const place of [overlay, fuse]) {
      const mount = { host_path: place, container_path: '/odd', uidMappings: first.uids, gidMappings: first.gids };
      await assert.rejects(start(pod, 'mapped', first, { mounts: [mount] }), (error: Error & { code: number; details: string }) => {
        assert.equal(error.code, 9, error.details);
        assert.match(error.details, new RegExp(`mount ${place} on /odd: the file system of ${place}.*does not support ID-mapped mounts`));
        return true;
      });
      const id = await start(pod, `plain-${place === fuse}`, first, { mounts: [{ host_path: place, container_path: '/odd' }] });
      assert.equal(await run(id, 'stat -c %u /odd'), '65534\n');
    }
    await daemon.client.call('RemovePodSandbox', { pod_sandbox_id: pod.id });
  } finally {
    for (const place of [fuse, overlay]) execFileSync('umount', ['-l', place]);
  }
});

test('mounts made later are propagated in both directions on request, without mapped ids', { skip }, async () => {
  const [volume = '', source = ''] = ['propagated', 'later'].map((name) => join(workspace.directory, name));
  for (const path of [volume, join(volume, 'host'), join(volume, 'pod'), source]) mkdirSync(path);
  execFileSync('mount', ['--bind', volume, volume]);
  execFileSync('mount', ['--make-shared', volume]);
  try {
    const pod = await podOf('propagation', first);
    const mounts = (propagation: string) => [
      { host_path: volume, container_path: '/v', propagation, uidMappings: first.uids, gidMappings: first.gids },
    ];
    const security = { capabilities: { add_capabilities: ['SYS_ADMIN'] } };
    const slave = await start(pod, 'slave', first, { security, mounts: mounts('PROPAGATION_HOST_TO_CONTAINER') });
    const shared = await start(pod, 'shared', first, { security, mounts: mounts('PROPAGATION_BIDIRECTIONAL') });
    writeFileSync(join(source, 'file'), '');
    execFileSync('mount', ['--bind', source, join(volume, 'host')]);
    for (const id of [slave, shared]) assert.equal(await run(id, 'stat -c %u:%g /v /v/host/file'), '0:0\n65534:65534\n');
    await run(slave, 'mount -t tmpfs tmpfs /v/pod && touch /v/pod/slave');
    assert.deepEqual(readdirSync(join(volume, 'pod')), []);
    await run(shared, 'mount -t tmpfs tmpfs /v/pod && touch /v/pod/shared');
    assert.deepEqual(readdirSync(join(volume, 'pod')), ['shared']);
    assert.equal(statSync(join(volume, 'pod/shared')).uid, 65_536);
    await daemon.client.call('RemovePodSandbox', { pod_sandbox_id: pod.id });
  } finally {
    execFileSync('umount', ['-R', '-l', volume]);
  }
});

test('a pod keeps its user namespace when the daemon is killed, and its statistics are those of its containers', { skip }, async () => {
  const pod = await podOf('kept', first);
  const id = await start(pod, 'main', first);
  const namespaceOf = async () => statSync(`/proc/${(await detailsOf(daemon.client, id)).pid}/ns/user`).ino;
  const inode = await namespaceOf();
  await daemon.end('SIGKILL');
  daemon = await startDaemon(workspace);
  assert.equal(await namespaceOf(), inode);
  assert.equal(await run(id, statAll), owners);
  const later = await start(pod, 'later', first);
  assert.equal(await run(later, 'readlink /proc/self/ns/user'), await run(id, 'readlink /proc/self/ns/user'));
  const { status } = await daemon.client.call<{ status: { linux: { namespaces: { options: { userns_options: Ids } } } } }>('PodSandboxStatus', {
    pod_sandbox_id: pod.id,
  });
  assert.deepEqual(status.linux.namespaces.options.userns_options, { mode: 'POD', ...first });
  const { stats } = await daemon.client.call<{ stats: { memory: { usage_bytes: { value: string } } } }>('ContainerStats', { container_id: id });
  assert.ok(Number(stats.memory.usage_bytes.value) > 0);
});

test('invalid mappings are refused with a sentence', { skip }, async () => {
  const [mapping] = first.uids as [Mapping];
  const cases: readonly (readonly [Partial<Ids>, RegExp])[] = [
    [{ uids: [] }, /userns_options\.uids: must have exactly one mapping, not 0/],
    [{ gids: [mapping, { ...mapping, container_id: 65_536 }] }, /userns_options\.gids: must have exactly one mapping, not 2/],
    [{ uids: [{ ...mapping, container_id: 1 }] }, /userns_options\.uids: the mapping must start at container_id 0, and its length must not be 0/],
    [{ uids: [{ ...mapping, length: 0 }] }, /userns_options\.uids: the mapping must start at container_id 0, and its length must not be 0/],
    [{ gids: [{ ...mapping, host_id: 4_294_967_000 }] }, /userns_options\.gids: 65536 ids from host_id 4294967000 exceed the largest id/],
    [{ uids: range(0) }, /userns_options\.uids: id 0 of the host must not be mapped/],
    [{ gids: range(0) }, /userns_options\.gids: id 0 of the host must not be mapped/],
  ];
  for (const [change, message] of cases) {
    await assert.rejects(podOf('refused', { ...first, ...change }), (error: Error & { code: number; details: string }) => {
      assert.equal(error.code, 3, error.details);
      assert.match(error.details, message);
      return true;
    });
  }
  const pod = await podOf('differs', first);
  await assert.rejects(
    start(pod, 'main', second),
    /userns_options: the container requests uids 65536 from 4220715008.*, but the sandbox has uids 65536 from 65536/,
  );
});
