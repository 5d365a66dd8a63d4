import assert from 'node:assert/strict';
import { test } from 'node:test';
import { BerthError } from '../../lib/errors.ts';
import { type CapabilityRequest, capabilityNames, capabilityNumber, resolveCapabilities, unavailableCapabilities } from './capabilities.ts';

const everything = (1n << 41n) - 1n;
const withoutResource = everything & ~(1n << 24n);
const nothingRequested: CapabilityRequest = { add: [], drop: [], addAmbient: [], isPrivileged: false };

function names(set: bigint): string {
  return capabilityNames.filter((_, number) => (set >> BigInt(number)) & 1n).join(' ');
}

function permitted(request: Partial<CapabilityRequest>, held = everything): string {
  return names(resolveCapabilities({ ...nothingRequested, ...request }, held).permitted);
}

const defaults = 'CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP NET_BIND_SERVICE NET_RAW SYS_CHROOT MKNOD AUDIT_WRITE SETFCAP';

test('capabilityNames has the 41 names of capability.h, each at its number', () => {
  assert.equal(capabilityNames.length, 41);
  const some = {
    CHOWN: 0,
    KILL: 5,
    SETPCAP: 8,
    NET_ADMIN: 12,
    SYS_ADMIN: 21,
    SYS_RESOURCE: 24,
    MKNOD: 27,
    SETFCAP: 31,
    SYSLOG: 34,
    AUDIT_READ: 37,
    BPF: 39,
  };
  for (const [name, number] of Object.entries(some)) assert.equal(capabilityNumber(name), number, name);
  assert.equal(capabilityNumber('checkpoint_restore'), 40);
  assert.equal(capabilityNumber('CAP_CAP_CHOWN'), undefined);
});

const cases: [Partial<CapabilityRequest>, string][] = [
  [{}, defaults],
  [{ add: ['NET_ADMIN'], drop: ['ALL'] }, 'NET_ADMIN'],
  [{ add: ['ALL'], drop: ['CHOWN'] }, names(everything & ~1n)],
  [{ add: ['ALL'], drop: ['ALL'] }, ''],
  [{ add: ['ALL', 'SYS_TIME'], drop: ['ALL'] }, 'SYS_TIME'],
  [{ add: ['SYS_TIME'], drop: ['SYS_TIME'] }, defaults],
  [{ drop: ['ALL'] }, ''],
  [{ drop: ['ALL', 'CHOWN'], add: ['CHOWN', 'KILL'] }, 'KILL'],
  [{ drop: ['CAP_MKNOD', 'cap_net_raw', 'Setfcap'] }, defaults.replace(/ (MKNOD|NET_RAW|SETFCAP)/g, '')],
  [{ drop: ['cap_all'], add: ['cap_sys_ptrace'] }, 'SYS_PTRACE'],
  [{ isPrivileged: true, drop: ['ALL'] }, names(everything)],
];

for (const [request, expected] of cases) {
  test(`resolveCapabilities() of ${JSON.stringify(request)}`, () => assert.equal(permitted(request), expected));
}

test('resolveCapabilities() returns equal bounding, permitted and effective sets, and empty inheritable and ambient sets', () => {
  const sets = resolveCapabilities(nothingRequested, everything);
  assert.deepEqual([sets.bounding, sets.effective], [sets.permitted, sets.permitted]);
  assert.deepEqual([sets.inheritable, sets.ambient], [0n, 0n]);
});

test('resolveCapabilities() puts an ambient capability into all five sets, even with drop ALL', () => {
  const sets = resolveCapabilities({ ...nothingRequested, drop: ['ALL'], addAmbient: ['NET_BIND_SERVICE'] }, everything);
  assert.deepEqual(new Set(Object.values(sets)), new Set([1n << 10n]));
});

test('resolveCapabilities() drops a capability by name even if it is requested as ambient', () => {
  const sets = resolveCapabilities({ ...nothingRequested, drop: ['CHOWN'], addAmbient: ['CHOWN', 'KILL'] }, everything);
  assert.equal(names(sets.ambient), 'KILL');
  assert.equal(sets.bounding & 1n, 0n);
});

test('resolveCapabilities() keeps the ambient set within the permitted set of a privileged container', () => {
  const sets = resolveCapabilities({ ...nothingRequested, isPrivileged: true, addAmbient: ['ALL'] }, withoutResource);
  assert.equal(sets.ambient, withoutResource);
  assert.equal(sets.permitted, withoutResource);
});

test('resolveCapabilities() limits ALL, privileged and the default set to what the daemon holds', () => {
  assert.equal(permitted({ add: ['ALL'] }, withoutResource), names(withoutResource));
  assert.equal(permitted({ isPrivileged: true }, withoutResource), names(withoutResource));
  assert.equal(permitted({}, everything & ~(1n << 27n)), defaults.replace(' MKNOD', ''));
  assert.equal(permitted({ isPrivileged: true }, (1n << 64n) - 1n), names(everything));
});

test('resolveCapabilities() leaves out a named capability that the daemon lacks, and unavailableCapabilities() names it', () => {
  const unavailable = (request: Partial<CapabilityRequest>) => unavailableCapabilities({ ...nothingRequested, ...request }, withoutResource);
  for (const list of ['add', 'addAmbient']) {
    const request = { [list]: ['SYS_RESOURCE', 'CHOWN'] };
    assert.equal(permitted(request, withoutResource), defaults);
    assert.deepEqual(unavailable(request), ['SYS_RESOURCE']);
    const { ambient, inheritable } = resolveCapabilities({ ...nothingRequested, ...request }, withoutResource);
    assert.deepEqual([names(ambient), names(inheritable)], Array(2).fill(list === 'add' ? '' : 'CHOWN'));
  }
  assert.deepEqual(unavailable({ add: ['SYS_RESOURCE'], drop: ['SYS_RESOURCE'] }), []);
});

test('resolveCapabilities() ignores the drop of an unknown name', () => {
  assert.equal(permitted({ drop: ['NET_ADMINS', 'KILL'] }), defaults.replace(' KILL', ''));
});

test('resolveCapabilities() rejects unknown names that are added', () => {
  const unknown = (error: unknown) => error instanceof BerthError && error.code === 'INVALID_ARGUMENT' && /"NET_ADMINS"/.test(error.message);
  for (const list of ['add', 'addAmbient']) assert.throws(() => permitted({ [list]: ['NET_ADMINS'] }), unknown);
  assert.throws(() => permitted({ add: ['NET_ADMINS'], isPrivileged: true }), unknown);
  assert.throws(() => permitted({ add: [''] }), BerthError);
});
