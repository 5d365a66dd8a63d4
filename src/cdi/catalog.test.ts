import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type Catalog, editsOf, type FoundFile } from './catalog.ts';
import { readDeviceFile } from './device-file.ts';

const directories = ['/etc/cdi', '/var/run/cdi'];

/** Returns a file in which each device sets a variable with its name, and the edits of the whole file set `all`. */
function file(path: string, kind: string, names: readonly string[], edits: object = {}): FoundFile {
  const devices = names.map((name) => ({ name, containerEdits: { env: [`${path}=${name}`], ...edits } }));
  const directory = path.slice(0, path.lastIndexOf('/'));
  return {
    path,
    directory,
    file: readDeviceFile({ cdiVersion: '1.0.0', kind, devices, containerEdits: { env: [`${path}=all`], additionalGids: [5] } }),
  };
}

const variables = (names: readonly string[], catalog: Catalog) => editsOf(names, catalog).env.map(({ name, value }) => `${name}=${value}`);

test('editsOf() applies the edits of a file once, before its first device, and keeps the order of the names', () => {
  const catalog = { directories, files: [file('/etc/cdi/a', 'a/x', ['0', '1']), file('/etc/cdi/b', 'b/x', ['0'])] };
  const names = ['a/x=1', 'b/x=0', 'a/x=0', 'a/x=1'];
  assert.deepEqual(variables(names, catalog), ['/etc/cdi/a=all', '/etc/cdi/a=1', '/etc/cdi/b=all', '/etc/cdi/b=0', '/etc/cdi/a=0']);
  assert.deepEqual(editsOf(names, catalog).gids, [5]);
});

test('editsOf() prefers a later directory, for each device on its own', () => {
  const catalog = { directories, files: [file('/etc/cdi/a', 'a/x', ['0', '1']), file('/var/run/cdi/a', 'a/x', ['0'])] };
  assert.deepEqual(variables(['a/x=0'], catalog), ['/var/run/cdi/a=all', '/var/run/cdi/a=0']);
  assert.deepEqual(variables(['a/x=1'], catalog), ['/etc/cdi/a=all', '/etc/cdi/a=1']);
});

test('editsOf() refuses a device defined twice in one directory, unless a later directory defines it; other devices work', () => {
  const files = [file('/etc/cdi/a', 'a/x', ['0', '1']), file('/etc/cdi/b', 'a/x', ['0', '2'])];
  const ambiguous = { code: 'FAILED_PRECONDITION', message: 'CDI device a/x=0 is ambiguous: defined in /etc/cdi/a and /etc/cdi/b' };
  assert.throws(() => editsOf(['a/x=0'], { directories, files }), ambiguous);
  assert.equal(variables(['a/x=1', 'a/x=2'], { directories, files }).length, 4);
  assert.equal(variables(['a/x=0'], { directories, files: [...files, file('/var/run/cdi/c', 'a/x', ['0'])] }).length, 2);
});

test('editsOf() reports unknown devices, the directories searched and the unreadable files', () => {
  const failed = { path: '/etc/cdi/bad', directory: '/etc/cdi', failure: 'missing kind' };
  const catalog = { directories, files: [failed, file('/etc/cdi/a', 'a/x', ['0'])] };
  assert.throws(() => editsOf(['a/x=1', 'a/x=0', 'b/x=0'], catalog), {
    code: 'FAILED_PRECONDITION',
    message: 'CDI devices a/x=1, b/x=0: not found in /etc/cdi, /var/run/cdi; read /etc/cdi/bad: missing kind',
  });
  assert.equal(variables(['a/x=0'], catalog).length, 2);
  assert.throws(() => editsOf(['a/x=1'], { directories: [], files: [] }), { code: 'FAILED_PRECONDITION', message: /cdi_spec_dirs is empty/ });
});

test('editsOf() reports unsupported edits of requested devices only', () => {
  const files = [file('/etc/cdi/a', 'a/x', ['0'], { netDevices: [{ hostInterfaceName: 'eth1', name: 'b' }] }), file('/etc/cdi/b', 'b/x', ['0'])];
  assert.throws(() => editsOf(['a/x=0'], { directories, files }), {
    code: 'FAILED_PRECONDITION',
    message: /^CDI device a\/x=0 in \/etc\/cdi\/a: netDevices: .*eth1/,
  });
  assert.equal(variables(['b/x=0'], { directories, files }).length, 2);
});
