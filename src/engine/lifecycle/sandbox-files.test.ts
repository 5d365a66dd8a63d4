import assert from 'node:assert/strict';
import { test } from 'node:test';
import { defaultSysctls, resolvConf, sandboxSysctls } from './sandbox-files.ts';

test("resolvConf() copies the host's file only without a DNS configuration", () => {
  assert.equal(resolvConf(undefined, 'nameserver 1.1.1.1\n'), 'nameserver 1.1.1.1\n');
  assert.equal(resolvConf({ servers: [], searches: [], options: [] }, 'nameserver 1.1.1.1\n'), '');
  assert.equal(
    resolvConf({ servers: ['10.0.0.1', '::1'], searches: ['a', 'b'], options: ['ndots:5'] }, ''),
    'search a b\nnameserver 10.0.0.1\nnameserver ::1\noptions ndots:5\n',
  );
});

test('sandboxSysctls() adds the defaults with its own network, unless the request sets them in either notation', () => {
  const defaults = { 'net.ipv4.ip_unprivileged_port_start': '0' };
  const path = 'net/ipv4/ip_unprivileged_port_start';
  assert.deepEqual(sandboxSysctls({ [path]: '80' }, defaults, true), [{ name: path, path, value: '80' }]);
  assert.deepEqual(sandboxSysctls({ 'kernel.sem': '1' }, defaults, true), [
    { name: 'net.ipv4.ip_unprivileged_port_start', path, value: '0' },
    { name: 'kernel.sem', path: 'kernel/sem', value: '1' },
  ]);
  assert.deepEqual(sandboxSysctls({}, defaults, false), []);
});

test('sandboxSysctls() refuses invalid names, also of defaults, and a sysctl that is set twice', () => {
  const invalid = { 'net.x+kernel.core_pattern': '1' };
  assert.throws(() => sandboxSysctls(invalid, {}, true), { code: 'INVALID_ARGUMENT', message: /invalid name/ });
  assert.throws(() => sandboxSysctls({}, invalid, true), { code: 'INVALID_ARGUMENT', message: /invalid name/ });
  const twice = { 'net.core.somaxconn': '1', 'net/core/somaxconn': '2' };
  assert.throws(() => sandboxSysctls(twice, {}, true), { code: 'INVALID_ARGUMENT', message: /set twice/ });
});

test('defaultSysctls() ends the range of groups that may ping at the last group of the user namespace', () => {
  const defaults = { 'net.ipv4.ping_group_range': '0 2147483647', 'net.ipv4.ip_unprivileged_port_start': '0' };
  const range = { hostId: 65_536, length: 1000 };
  assert.deepEqual(defaultSysctls(defaults, undefined), defaults);
  assert.deepEqual(defaultSysctls(defaults, { uids: range, gids: range }), { ...defaults, 'net.ipv4.ping_group_range': '0 999' });
  assert.deepEqual(defaultSysctls({ 'net/ipv4/ping_group_range': '1 0' }, { uids: range, gids: range }), { 'net/ipv4/ping_group_range': '1 0' });
});
