import assert from 'node:assert/strict';
import { test } from 'node:test';
import { sandboxSysctls } from './sysctls-from-request.ts';

const own = { network: 'pod', ipc: 'pod', pid: 'pod' } as const;
const hosts = { network: 'node', ipc: 'node', pid: 'pod' } as const;
const check = (name: string, value = '1', namespaces: typeof own | typeof hosts = own) => sandboxSysctls({ [name]: value }, namespaces);

const ofNetwork = ['net.ipv4.ip_forward', 'net.ipv4.conf.eth0/100.forwarding', 'net/ipv4/conf/eth0.100/forwarding', 'net.core.somaxconn'];
const ofIpc = ['kernel.shm_rmid_forced', 'kernel.shmmax', 'kernel.msgmax', 'kernel.sem', 'fs.mqueue.msg_max', 'kernel/shmall'];

test("sandboxSysctls() accepts sysctls of the sandbox's own namespaces, unchanged", () => {
  for (const name of [...ofNetwork, ...ofIpc, 'kernel.domainname']) assert.deepEqual(check(name), { [name]: '1' });
  const user = { uids: { hostId: 65536, length: 65536 }, gids: { hostId: 65536, length: 65536 } };
  const name = 'user.max_user_namespaces';
  assert.deepEqual(sandboxSysctls({ [name]: '0' }, { ...own, user }), { [name]: '0' });
});

test("sandboxSysctls() refuses them if the sandbox uses the host's namespace", () => {
  for (const name of ofNetwork) assert.throws(() => check(name, '1', hosts), { code: 'INVALID_ARGUMENT', message: /host's network/ }, name);
  for (const name of ofIpc) assert.throws(() => check(name, '1', hosts), { code: 'INVALID_ARGUMENT', message: /host's ipc/ }, name);
  assert.throws(() => check('kernel.domainname', 'x', hosts), { code: 'INVALID_ARGUMENT', message: /host's uts/ });
  assert.throws(() => check('user.max_user_namespaces', '0'), { code: 'INVALID_ARGUMENT', message: /host's user/ });
});

test('sandboxSysctls() refuses sysctls that are not namespaced', () => {
  for (const name of [
    'kernel.panic',
    'vm.swappiness',
    'kernel.hostname',
    'kernel.semaphore',
    'fs.file-max',
    'kernel.shm/../panic',
    'netfilter.x',
    'fs.mqueue.a.b',
  ]) {
    assert.throws(() => check(name), { code: 'INVALID_ARGUMENT' }, name);
  }
});

test('sandboxSysctls() refuses path traversal and second sysctls in names and values (CVE-2022-0811)', () => {
  for (const name of [
    '',
    '/net/ipv4/x',
    'net/../kernel/panic',
    'net..x',
    'net/',
    'net/./x',
    '../net',
    'net.ipv4.conf.a b',
    'net.x=1',
    'net.x+kernel.core_pattern',
  ]) {
    assert.throws(() => check(name), { code: 'INVALID_ARGUMENT' }, name);
  }
  assert.throws(() => check('net.core.somaxconn', '1\n2'), { message: /^linux.sysctls: net.core.somaxconn: / });
});
