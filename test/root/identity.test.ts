/**
 * User, groups and home directory of containers of a real daemon, with hostile images and requests: nothing changes outside its field, and berth writes
 * neither /etc/passwd nor /etc/group. The payloads are harmless.
 */
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import type { Message } from '../../scripts/cri-client.ts';
import { buildImage, buildLayer, type Entry, type Layer, type RunConfig } from '../../scripts/image-builder.ts';
import { buildSampleLayer } from '../../scripts/sample-image.ts';
import { enterIsolation } from '../support/isolation.ts';
import { createWorkspace, type Daemon, isBuilt, startDaemon } from './support/daemon.ts';
import { detailsOf, exec, type Pod, pullImage, runContainer, runPod } from './support/pods.ts';

const skip = !isBuilt && 'berth is not built';
if (!skip) enterIsolation();

const workspace = createWorkspace();
let daemon: Daemon;
let pod: Pod;
let base: Layer;
let count = 0;

before(async () => {
  if (skip) return;
  base = await buildSampleLayer();
  daemon = await startDaemon(workspace);
  pod = await runPod(daemon.client, 'identity', workspace.directory);
});

after(async () => {
  if (pod !== undefined) await daemon.client.call('RemovePodSandbox', { pod_sandbox_id: pod.id });
  if (daemon !== undefined) await daemon.end('SIGTERM');
  await workspace.remove();
});

async function imageWith(entries: readonly Entry[], config: RunConfig = {}): Promise<string> {
  return pullImage(
    daemon.client,
    `berth/identity${++count}:1`,
    buildImage([base, await buildLayer(entries)], { Env: ['PATH=/bin'], ...config }, undefined, process.arch === 'x64' ? 'amd64' : process.arch),
  );
}

const start = (image: string, security_context: Message = {}, changes: Message = {}) =>
  runContainer(daemon.client, pod, image, `c${++count}`, 'exec sleep 1000', { linux: { security_context }, ...changes });

/** The message starts with the number and the name of the gRPC code, and no internal text reaches the caller. */
async function assertRefused(attempt: Promise<string>, code: string, message: RegExp, what: string): Promise<void> {
  await assert.rejects(attempt, (error) => {
    assert.match((error as Error).message, new RegExp(`^\\d+ ${code}: .*(${message.source})`), what);
    assert.doesNotMatch((error as Error).message, /register|assert|\n\s+at /i, what);
    return true;
  });
}

/** Returns `uid:gid groups home`, read in the container. */
async function identityOf(id: string): Promise<string> {
  const script = 'echo $(id -u):$(id -g) $(grep ^Groups: /proc/self/status | cut -f2) $HOME';
  return (await exec(daemon.client, id, 'sh', '-c', script)).trim();
}

const file = (path: string, data: Buffer | string): Entry => ({ kind: 'file', path, data });
const link = (path: string, target: string): Entry => ({ kind: 'symlink', path, target });

test('CVE-2026-15809: a line break in HOME, another variable or a user name adds no line to /etc/passwd, and changes no other variable', {
  skip,
}, async () => {
  const line = 'intruder::0:0::/:/bin/sh';
  const passwd = 'root:x:0:0:root:/:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n';
  const value = `/shared\n${line}\r\n${line}\nLD_PRELOAD=/shared/x`;
  const image = await imageWith([file('etc/passwd', passwd)], { Env: ['PATH=/bin', `FROM_IMAGE=${value}`], Labels: { line } });
  for (const run_as_user of ['0', '1000', '4321']) {
    const envs = ['HOME', 'FROM_REQUEST'].map((key) => ({ key, value: Buffer.from(value) }));
    const id = await start(image, { run_as_user: { value: run_as_user } }, { envs, command: ['sleep', '1000'] });
    assert.equal(await exec(daemon.client, id, 'cat', '/etc/passwd'), passwd);
    assert.equal(await exec(daemon.client, id, 'cat', '/etc/group'), 'root:x:0:\n');
    const { pid } = await detailsOf(daemon.client, id);
    for (const text of [readFileSync(`/proc/${pid}/environ`, 'utf8'), await exec(daemon.client, id, 'cat', '/proc/self/environ')]) {
      const variables = text.split('\0').slice(0, -1).sort();
      const given = ['FROM_IMAGE', 'FROM_REQUEST', 'HOME'].map((name) => `${name}=${value}`);
      assert.deepEqual(variables, [...given, 'HOSTNAME=identity', 'PATH=/bin']);
    }
  }
  for (const name of [`user\n${line}`, 'user\n', 'root:x:0', 'user\r', 'ro\0ot', '\x7f'])
    await assertRefused(start(image, { run_as_username: name }), 'INVALID_ARGUMENT', /run_as_username|not found/, JSON.stringify(name));
  for (const name of ['HOME', 'X']) {
    const nul = start(image, {}, { envs: [{ key: name, value: Buffer.from('a\0HOME=/shared') }] });
    await assertRefused(nul, 'INVALID_ARGUMENT', /contains NUL/, `NUL in ${name}`);
    const key = start(image, {}, { envs: [{ key: `${name}\0X`, value: Buffer.from('a') }] });
    await assertRefused(key, 'INVALID_ARGUMENT', /NUL/, `NUL in the name ${name}`);
  }
});

test('a line break or NUL in the config of an image is refused, or stays in its field', { skip }, async () => {
  const refused: [RunConfig, RegExp][] = [
    [{ User: '0\n' }, /user/],
    [{ User: 'root\n' }, /user/],
    [{ User: 'root\0' }, /user|NUL/],
    [{ User: '0:0\n0' }, /group/],
    [{ User: 'root:root\nx' }, /group/],
    [{ Env: ['A=b\0HOME=/x'] }, /NUL/],
    [{ Env: ['A\0HOME=/x'] }, /NUL/],
    [{ WorkingDir: '/a\0b' }, /NUL/],
    [{ StopSignal: 'TERM\n9' }, /signal/],
  ];
  for (const [config, message] of refused) {
    const image = imageWith([], config).then((name) => start(name));
    await assertRefused(image, 'INVALID_ARGUMENT|FAILED_PRECONDITION', message, JSON.stringify(config));
  }
  const id = await start(await imageWith([], { WorkingDir: '/a\nHOME=/b', Env: ['PATH=/bin', 'HOME=/c\nPATH=/d'] }));
  assert.equal(await exec(daemon.client, id, 'pwd'), '/a\nHOME=/b\n');
  assert.equal(await exec(daemon.client, id, 'sh', '-c', 'echo "$HOME $PATH"'), '/c\nPATH=/d /bin\n');
});

test('passwd and group files that are links are read inside the image only', { skip }, async () => {
  const outside = join(workspace.directory, 'accounts');
  writeFileSync(outside, 'stranger:x:4242:4242::/stranger:\n');
  const self = readFileSync('/proc/self/stat', 'utf8').split(' ')[0];
  const targets = [outside, `../../../../../..${outside}`, '/etc/shadow', `/proc/self/root${outside}`, `/proc/${self}/root${outside}`, `/proc/1/cwd`];
  for (const target of [...targets, '/proc/self/environ', '/proc/self/fd/0', '/dev/stdin', 'passwd', '/etc', 'x'.repeat(4000)]) {
    const image = await imageWith([{ kind: 'directory', path: 'proc' }, link('etc/passwd', target), link('etc/group', target)]);
    const absent = /user "stranger" not found in|not a regular file/;
    await assertRefused(start(image, { run_as_username: 'stranger' }), 'INVALID_ARGUMENT|FAILED_PRECONDITION', absent, target.slice(0, 99));
    if (target === '/etc') continue;
    assert.equal(await identityOf(await start(image, { run_as_user: { value: '4242' } })), '4242:0 0 /', target.slice(0, 99));
  }
  const inside = await imageWith([
    file('accounts', 'insider:x:7:8::/in:\n'),
    link('etc/passwd', '../../../accounts'),
    link('etc/group', '/accounts'),
  ]);
  assert.equal(await identityOf(await start(inside, { run_as_username: 'insider' })), '7:8 8 /in');
});

test('a passwd or group file that is no regular file, or is too large, is refused at once', { skip }, async () => {
  const large = Buffer.alloc((1 << 20) + 1, 'root:x:0:0::/:\n');
  const kinds: [string, (path: string) => Entry, RegExp][] = [
    ['FIFO', (path) => ({ kind: 'fifo', path }), /not a regular file/],
    ['directory', (path) => ({ kind: 'directory', path }), /not a regular file/],
    ['endless device', (path) => ({ kind: 'device', path, major: 1, minor: 5 }), /not a regular file/],
    ['terminal', (path) => ({ kind: 'device', path, major: 5, minor: 0 }), /not a regular file/],
    ['large file', (path) => file(path, large), /1048577 bytes exceed the limit of 1048576/],
  ];
  for (const [kind, entry, message] of kinds) {
    for (const path of ['etc/passwd', 'etc/group']) {
      const attempt = start(await imageWith([entry(path)]), { run_as_user: { value: '1' } });
      await assertRefused(attempt, 'FAILED_PRECONDITION', new RegExp(`read /${path} of the image: ${message.source}`), `${kind} ${path}`);
    }
  }
});

test('lines of a megabyte, without ids, with ids that do not fit, and repeated ones give nobody another id', { skip }, async () => {
  const megabyte = 1 << 20;
  const end = 'user:x:1000:2000::/home/user:/bin/sh\n';
  const filled = (line: string) => `${line}\n`.repeat(Math.floor((megabyte - end.length) / (line.length + 1))) + end;
  for (const line of [
    `x${'a'.repeat(megabyte - 100)}`,
    `x:${':'.repeat(megabyte - 100)}`,
    'a:',
    '::::::',
    'a::0:0',
    `user:${'x'.repeat(megabyte - 100)}`,
  ]) {
    const image = await imageWith([file('etc/passwd', filled(line)), file('etc/group', filled(line))]);
    assert.equal(await identityOf(await start(image, { run_as_username: 'user' })), '1000:2000 2000 /home/user', line.slice(0, 10));
  }
  const members = `group:x:3000:${'user,'.repeat(megabyte / 5 - 10)}\n`;
  const many = await imageWith([file('etc/passwd', end), file('etc/group', members)]);
  assert.equal(await identityOf(await start(many, { run_as_username: 'user' })), '1000:2000 2000 3000 /home/user');

  // Where other parsers read 0, the user must not become root.
  const ids = ['-1', '4294967295', '4294967296', '18446744073709551616', '', 'x', '0x0', '1e1', '+5', '5 5', '٥', '1\t'];
  const lines = ids.flatMap((id, i) => [`uid${i}:x:${id}:5::/u:`, `gid${i}:x:5:${id}::/g:`]);
  const wrong = await imageWith([file('etc/passwd', `${lines.join('\n')}\nonly\nonly:x\nonly:x:0\n`), file('etc/group', lines.join('\n'))]);
  for (const name of [...ids.flatMap((_, i) => [`uid${i}`, `gid${i}`]), 'only'])
    await assertRefused(start(wrong, { run_as_username: name }), 'INVALID_ARGUMENT', /not found in \/etc\/passwd of the image/, name);

  const repeated = await imageWith([file('etc/passwd', `${end}user:x:0:0::/root:\nroot2:x:1000:0::/root:\n`)]);
  for (const user of [{ run_as_username: 'user' }, { run_as_user: { value: '1000' } }])
    assert.equal(await identityOf(await start(repeated, user)), '1000:2000 2000 /home/user');
});

test('supplemental groups: Merge adds those of the image once, Strict adds none, and those that do not fit are ignored', { skip }, async () => {
  const passwd = 'user:x:1000:2000::/home/user:\nother:x:1001:2000::/:\n';
  const groups = ['a:x:3000:user', 'b:x:3000:other, user ,user', 'c:x:3001:users,xuser,user2', 'd:x:-1:user', 'e:x:4294967295:user', 'f:x::user'];
  const more = ['g:x:4294967294:other,user', 'h:x:2000:user', 'i:x:4294967296:user', 'j:x:zero:user', ':x:3002:user', 'k:x:3003', 'l:x:3004:us\0er'];
  const image = await imageWith([file('etc/passwd', passwd), file('etc/group', [...groups, ...more].join('\n'))]);
  const as = (policy: string | undefined, user: Message, supplemental_groups: readonly string[] = ['5000', '3000', '5000']) =>
    start(image, { ...user, supplemental_groups, ...(policy ? { supplemental_groups_policy: policy } : {}) }).then(identityOf);
  const user = { run_as_user: { value: '1000' } };
  // The kernel sorts them.
  for (const policy of [undefined, 'Merge']) assert.equal(await as(policy, user), '1000:2000 2000 3000 5000 4294967294 /home/user');
  assert.equal(await as('Strict', user), '1000:2000 2000 3000 5000 /home/user');
  assert.equal(await as('Strict', user, []), '1000:2000 2000 /home/user');
  assert.equal(await as('Strict', { ...user, run_as_group: { value: '7' } }, []), '1000:7 7 /home/user');
  assert.equal(await as('Merge', { ...user, run_as_group: { value: '7' } }, []), '1000:7 7 2000 3000 4294967294 /home/user');
  await assertRefused(start(image, { ...user, supplemental_groups_policy: 2 }), 'INVALID_ARGUMENT', /unknown policy 2/, 'policy');
});
