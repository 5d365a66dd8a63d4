/** The comparison of the prison: which differences count as looser, and the table in which the peer's rows are kept. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { compare, describe } from './compare.ts';
import { isLooser, looserMount } from './order.ts';
import { normalise, parseRows } from './rows.ts';
import { buildTable, formatTable, rowsAt, type Table } from './table.ts';

const rows = (text: string) => new Map(text.split('; ').map((each) => [each.split('=')[0] ?? '', each.split('=')[1] ?? '']));

test('isLooser() knows the looser of two values of each kind of row, and no value is looser than itself', () => {
  const cases: readonly (readonly [key: string, tight: string, loose: string])[] = [
    ['call.mount', 'EPERM', 'reaches'],
    ['socket.alg', 'EAFNOSUPPORT', 'reaches'],
    ['mknod.mem', 'EPERM', 'reaches'],
    ['cap.effective', 'CHOWN,KILL', 'CHOWN,KILL,SYS_ADMIN'],
    ['read:/proc/kcore', 'empty', 'yes'],
    ['write:/proc/sysrq-trigger', 'denied', 'yes'],
    ['ns.pid', 'own', 'pod'],
    ['ns.pid', 'pod', 'host'],
    ['keyring.session', 'EPERM', 'host'],
    ['cgroup.memory', 'own', 'wider'],
    ['seccomp.mode', '2', '0'],
    ['no-new-privs', '1', '0'],
    ['oom-score-adj', '1000', '-999'],
    ['rlimit.nofile', '1024 4096', '1024 8192'],
    ['umask', '0022', '0002'],
    ['environment', 'PATH', 'PATH,TOKEN'],
    ['open-files', '', 'pipe'],
    ['label', 'confined', 'unconfined'],
    ['securebits', '1', '0'],
    ['signals.blocked', '0000000000000000', '0000000000010000'],
  ];
  for (const [key, tight, loose] of cases) {
    assert.equal(isLooser(key, loose, tight), true, `${key}: ${loose} is looser than ${tight}`);
    assert.equal(isLooser(key, tight, loose), false, `${key}: ${tight} is not looser than ${loose}`);
    assert.equal(isLooser(key, loose, loose), false, key);
  }
  assert.equal(isLooser('call.unknown-600', 'EPERM', 'ENOSYS'), false, 'another error for the same refusal');
  assert.throws(() => isLooser('colour', 'a', 'b'), /no order/);
});

test('looserMount() compares the mounts that a path is in', () => {
  const theirs = rows('mount:/=; mount:/proc=nosuid,nodev,noexec; mount:/proc/sys=ro,nosuid,nodev,noexec');
  assert.deepEqual(looserMount('/proc/sys', rows('mount:/=; mount:/proc=nosuid,nodev,noexec'), theirs), ['not ro']);
  assert.deepEqual(
    looserMount('/proc/bus', rows('mount:/=; mount:/proc=nosuid,nodev,noexec; mount:/proc/bus=ro,nosuid,nodev,noexec,shared'), theirs),
    ['shared'],
  );
  assert.deepEqual(looserMount('/proc/sys', theirs, theirs), []);
});

test('normalise() keeps nothing that differs between machines', () => {
  const host = parseRows('ns.net net:[1]\ncap.bounding 00000000000000ff\nrlimit.nofile 20 20\nend 1\n');
  const neighbour = parseRows('ns.ipc ipc:[5]\nend 1\n');
  const raw =
    'ns.net net:[1]\nns.ipc ipc:[5]\nns.uts uts:[9]\ncap.effective 0000000000000021\ncap.bounding 00000000000000ff\ncall.bpf -1\ncall.mount -14\nrlimit.nofile 20 20\nend 1\r\n';
  assert.deepEqual(Object.fromEntries(normalise(parseRows(raw), { host, neighbour })), {
    'ns.net': 'host',
    'ns.ipc': 'pod',
    'ns.uts': 'own',
    'cap.effective': 'CHOWN,KILL',
    'cap.bounding': 'host',
    'call.bpf': 'EPERM',
    'call.mount': 'reaches',
    'rlimit.nofile': 'host',
  });
  assert.throws(() => parseRows('ns.net net:[1]\n'), /did not finish/);
});

test('files of cgroups that a hook sees are compared with the host, whose cgroup may be the root or not', () => {
  const seen = rows('cgroup.memory=own; write:cgroup.memory/release_agent=yes; write:cgroup.memory/tasks=yes');
  const neighbour = new Map<string, string>();
  const hook = normalise(seen, { host: seen, neighbour }, true);
  assert.deepEqual([...new Set(hook.values())], ['host']);
  const looser = (peers: string) =>
    compare(new Map([['a/hook-runtime', hook]]), buildTable({}, new Map(), new Map([['a/hook-runtime', rows(peers)]])), seen).looser;
  assert.deepEqual(looser('cgroup.memory=host; write:cgroup.memory/tasks=host'), []);
  assert.equal(looser('cgroup.memory=own; write:cgroup.memory/tasks=missing').length, 2);
});

test('the table returns what it was built from', () => {
  const places = new Map([
    ['a/first', rows('x=1; y=1; z=1')],
    ['a/exec', rows('x=1; y=2; z=1')],
    ['b/first', rows('x=1; y=3')],
    ['b/exec', rows('x=1; y=3')],
    ['c/exec', rows('x=1; y=3; z=1')],
    ['d/exec', rows('x=1; y=1; z=1')],
  ]);
  const table = JSON.parse(formatTable(buildTable({}, new Map(), places))) as Table;
  for (const [place, expected] of places) assert.deepEqual(Object.fromEntries(rowsAt(table, place)), Object.fromEntries(expected), place);
});

test('compare() does not count a power that the peer has by another row', () => {
  const table = (raw: string) => buildTable({}, new Map(), new Map([['a/exec', rows(`socket.inet-ping=EACCES; socket.inet-raw=${raw}`)]]));
  const ours = (raw: string) => new Map([['a/exec', rows(`socket.inet-ping=reaches; socket.inet-raw=${raw}`)]]);
  assert.equal(compare(ours('reaches'), table('reaches'), new Map()).looser.length, 0);
  assert.equal(compare(ours('EPERM'), table('EPERM'), new Map()).looser.length, 1);
});

test('compare() counts a row as looser unless the peer had no such thing or its node was set otherwise', () => {
  const host = rows('call.bpf=ENOSYS; call.mount=reaches');
  const peers = rows('call.bpf=ENOSYS; call.mount=EPERM; call.perf_event_open=EPERM; ns.pid=pod; ns.net=own; mount:/=ro');
  const table = buildTable({ 'sysctl.kernel/perf_event_paranoid': '2' }, host, new Map([['a/first', peers]]));
  const ours = rows('call.bpf=reaches; call.mount=reaches; call.perf_event_open=reaches; ns.pid=own; ns.net=own; mount:/=');
  const result = compare(new Map([['a/first', ours]]), table, rows('sysctl.kernel/perf_event_paranoid=1'));
  assert.deepEqual([result.rows, result.equal, result.tighter.length, result.incomparable], [6, 1, 1, 2]);
  assert.deepEqual(describe(result.looser, ['a/first']), [
    'call.mount: reaches; the peer: EPERM [everywhere]',
    'mount:/: none (not ro); the peer: ro [everywhere]',
  ]);
});
