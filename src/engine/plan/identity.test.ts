import assert from 'node:assert/strict';
import { test } from 'node:test';
import { BerthError } from '../../lib/errors.ts';
import type { UserSpec } from '../state/spec.ts';
import { type IdentityFiles, resolveIdentity } from './identity.ts';

const files: IdentityFiles = {
  passwd: Buffer.from(
    [
      'root:x:0:0:root:/root:/bin/sh',
      'www:x:33:133:www:/var/www:/bin/sh',
      'app:x:1000:1001::/home/app:',
      '2000:x:0:0::/evil:',
      'www:x:0:0::/second:',
    ].join('\n'),
  ),
  group: Buffer.from(['root:x:0:', 'web:x:133:', 'shared:x:500:app,www', 'extra:x:501: www ,nobody', '77:x:5:', 'shared:x:9:'].join('\n')),
};

/** Returns `uid:gid groups home`. */
function identify(user: Partial<UserSpec>, imageUser = '', from: IdentityFiles = files): string {
  const userSpec: UserSpec = { supplementalGroups: [], groupsPolicy: 'merge', ...user };
  const { uid, gid, additionalGids, home } = resolveIdentity({ userSpec, imageUser }, from);
  return `${uid}:${gid} ${additionalGids.join(',')} ${home}`;
}

const cases: [Partial<UserSpec>, string, string][] = [
  [{}, '', '0:0 0 /root'],
  [{}, '33', '33:133 133,500,501 /var/www'],
  [{}, '33:44', '33:44 44,500,501 /var/www'],
  [{}, 'www', '33:133 133,500,501 /var/www'],
  [{}, 'app:web', '1000:133 133,500 /home/app'],
  [{}, 'app:7', '1000:7 7,500 /home/app'],
  [{}, 'app:', '1000:1001 1001,500 /home/app'],
  [{}, ':web', '0:133 133 /root'],
  [{}, '4000', '4000:0 0 /'],
  [{}, '4000:shared', '4000:500 500 /'],
  [{ uid: 1000 }, 'www:web', '1000:1001 1001,500 /home/app'],
  [{ uid: 0 }, 'www', '0:0 0 /root'],
  [{ uid: 1000, gid: 0 }, 'www', '1000:0 0,500 /home/app'],
  [{ uid: 4294967294, gid: 4294967294 }, '', '4294967294:4294967294 4294967294 /'],
  [{ username: 'app' }, 'www', '1000:1001 1001,500 /home/app'],
  [{ username: 'app', gid: 5 }, '', '1000:5 5,500 /home/app'],
  [{ uid: 33, supplementalGroups: [9, 500, 9] }, '', '33:133 133,9,500,501 /var/www'],
  [{ uid: 33, supplementalGroups: [9], groupsPolicy: 'strict' }, '', '33:133 133,9 /var/www'],
];
for (const [user, imageUser, expected] of cases) {
  test(`resolveIdentity() of ${JSON.stringify(user)} and image user "${imageUser}"`, () => assert.equal(identify(user, imageUser), expected));
}

test('resolveIdentity() treats digits as a number even if passwd has a user of that name', () => {
  assert.equal(identify({}, '2000'), '2000:0 0 /');
  assert.equal(identify({}, '33:77'), '33:77 77,500,501 /var/www');
});

const refusals: [Partial<UserSpec>, string, RegExp][] = [
  [{ username: 'nobody' }, '', /user "nobody" not found in \/etc\/passwd of the image/],
  [{}, 'nobody', /user "nobody" not found in/],
  [{}, 'www:nogroup', /group "nogroup" not found in \/etc\/group of the image/],
  [{ gid: 5 }, 'www', /run as group 5: a group requires a user/],
  [{ uid: 4294967295 }, '', /invalid user or group id 4294967295: must be from 0 to 4294967294/],
  [{ uid: -1 }, '', /id -1/],
  [{ uid: 1.5 }, '', /id 1\.5/],
  [{ uid: 1, gid: 2 ** 32 }, '', /id 4294967296/],
  [{ supplementalGroups: [-1] }, '', /id -1/],
  [{}, '99999999999999999999', /id 100000000000000000000/],
  [{}, '-1', /user "-1" not found in/],
  [{}, '0x0', /user "0x0" not found in/],
];
for (const [user, imageUser, message] of refusals) {
  test(`resolveIdentity() rejects ${JSON.stringify(user)} and image user "${imageUser}"`, () => {
    assert.throws(
      () => identify(user, imageUser),
      (error) => error instanceof BerthError && error.code === 'INVALID_ARGUMENT' && message.test(error.message),
    );
  });
}

test('resolveIdentity() needs no files for numbers, and reports a name as not found', () => {
  const none = { passwd: null, group: null };
  assert.equal(identify({ uid: 5, supplementalGroups: [7] }, '', none), '5:0 0,7 /');
  assert.equal(identify({}, '', none), '0:0 0 /');
  assert.throws(() => identify({}, 'root', none), /"root" not found in/);
});

test('resolveIdentity() ignores malformed lines', () => {
  const passwd = [
    '',
    ':x:7:7::/',
    'www',
    'www:x',
    'www:x:-1:1',
    'www:x:1:4294967295',
    'www:x:1e3:1',
    'www:x: 5:5',
    'w\0w:x:6:6',
    '#www:x:8:8',
    '+::::::',
  ];
  const malformed = {
    passwd: Buffer.from(`${passwd.join('\n')}\r\nwww:x:33:34\r\n`),
    group: Buffer.from('a:x:1\nb:x:x:www\nc:x:3:www,\xff\r\n', 'latin1'),
  };
  assert.equal(identify({}, 'www', malformed), '33:34 34,3 /');
});

test('resolveIdentity() parses lines of any length', () => {
  const long = 'x'.repeat(200_000);
  const group = Buffer.from(`${long}:x:1:www\ng:x:2:${'a,'.repeat(100_000)}www\n`);
  assert.equal(identify({}, 'www', { ...files, group }), '33:133 133,1,2 /var/www');
});

test('resolveIdentity() rejects ids outside the user namespace of the pod', () => {
  const range = (length: number) => ({ hostId: 100_000, length });
  const within = (user: Partial<UserSpec>, uids: number, gids: number) => {
    const userSpec: UserSpec = { supplementalGroups: [], groupsPolicy: 'strict', ...user };
    return () => resolveIdentity({ userSpec, imageUser: '', ids: { uids: range(uids), gids: range(gids) } }, files);
  };
  assert.equal(within({ uid: 999, gid: 499, supplementalGroups: [499] }, 1000, 500)().uid, 999);
  assert.throws(within({ uid: 1000, gid: 0 }, 1000, 500), /user 1000 is not mapped in the user namespace of the pod, which has ids 0 to 999/);
  assert.throws(within({ uid: 0, gid: 500 }, 1000, 500), /group 500 is not mapped in/);
  assert.throws(within({ uid: 0, supplementalGroups: [7, 500] }, 1000, 500), /group 500 is not mapped in/);
});

test('resolveIdentity() rejects more groups than the kernel allows', () => {
  const groups = (count: number) => Buffer.from(Array.from({ length: count }, (_, i) => `g${i}:x:${1000 + i}:www`).join('\n'));
  assert.throws(() => identify({}, 'www', { ...files, group: groups(65536) }), /65537 groups: the kernel allows 65536/);
  assert.ok(identify({}, 'www', { ...files, group: groups(65535) }));
});
