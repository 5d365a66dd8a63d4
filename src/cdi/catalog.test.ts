import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type Catalog, editsOf, type FoundFile } from './catalog.ts';
import { readDeviceFile } from './device-file.ts';

const directories = ['/etc/cdi', '/var/run/cdi'];

/** A file whose devices each set a variable of their name, and all of them `all`. */
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

test('editsOf() takes what is of all devices of a file once, before the first of them, and goes by the order of the names', () => {
  const catalog = { directories, files: [file('/etc/cdi/a', 'a/x', ['0', '1']), file('/etc/cdi/b', 'b/x', ['0'])] };
  const names = ['a/x=1', 'b/x=0', 'a/x=0', 'a/x=1'];
  assert.deepEqual(variables(names, catalog), ['/etc/cdi/a=all', '/etc/cdi/a=1', '/etc/cdi/b=all', '/etc/cdi/b=0', '/etc/cdi/a=0']);
  assert.deepEqual(editsOf(names, catalog).gids, [5]);
});

test('a later directory wins, device by device', () => {
  const catalog = { directories, files: [file('/etc/cdi/a', 'a/x', ['0', '1']), file('/var/run/cdi/a', 'a/x', ['0'])] };
  assert.deepEqual(variables(['a/x=0'], catalog), ['/var/run/cdi/a=all', '/var/run/cdi/a=0']);
  assert.deepEqual(variables(['a/x=1'], catalog), ['/etc/cdi/a=all', '/etc/cdi/a=1']);
});

test('a device in two files of one directory is refused by both; one of a later directory settles it, and their other devices work', () => {
  const files = [file('/etc/cdi/a', 'a/x', ['0', '1']), file('/etc/cdi/b', 'a/x', ['0', '2'])];
  const twice = { code: 'FAILED_PRECONDITION', message: 'CDI device a/x=0 is in /etc/cdi/a and in /etc/cdi/b; remove one' };
  assert.throws(() => editsOf(['a/x=0'], { directories, files }), twice);
  assert.equal(variables(['a/x=1', 'a/x=2'], { directories, files }).length, 4);
  assert.equal(variables(['a/x=0'], { directories, files: [...files, file('/var/run/cdi/c', 'a/x', ['0'])] }).length, 2);
});

test('what is not there is named, with where it was looked for and what could not be read', () => {
  const failed = { path: '/etc/cdi/bad', directory: '/etc/cdi', failure: 'kind is missing' };
  const catalog = { directories, files: [failed, file('/etc/cdi/a', 'a/x', ['0'])] };
  assert.throws(() => editsOf(['a/x=1', 'a/x=0', 'b/x=0'], catalog), {
    code: 'FAILED_PRECONDITION',
    message: 'CDI devices a/x=1, b/x=0: not in any file of /etc/cdi, /var/run/cdi; /etc/cdi/bad was not read: kind is missing',
  });
  assert.equal(variables(['a/x=0'], catalog).length, 2);
  assert.throws(() => editsOf(['a/x=1'], { directories: [], files: [] }), { code: 'FAILED_PRECONDITION', message: /cdi_spec_dirs is empty/ });
});

test('what berth does not do is told of the device that was asked for, and of no other', () => {
  const files = [file('/etc/cdi/a', 'a/x', ['0'], { netDevices: [{ hostInterfaceName: 'eth1', name: 'b' }] }), file('/etc/cdi/b', 'b/x', ['0'])];
  assert.throws(() => editsOf(['a/x=0'], { directories, files }), {
    code: 'FAILED_PRECONDITION',
    message: /^CDI device a\/x=0 of \/etc\/cdi\/a: netDevices: .*eth1/,
  });
  assert.equal(variables(['b/x=0'], { directories, files }).length, 2);
});
