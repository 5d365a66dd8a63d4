import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { createDeviceFiles } from './device-files.ts';

function bed(t: TestContext) {
  const root = mkdtempSync(join(tmpdir(), 'berth-cdi-'));
  t.after(() => rmSync(root, { recursive: true }));
  const directories = ['first', 'second'].map((name) => join(root, name));
  mkdirSync(join(root, 'first'));
  const warnings: unknown[] = [];
  const log = { warn: (fields: object) => void warnings.push(fields) };
  const { resolve } = createDeviceFiles({ log }, directories);
  const variable = async (name: string) => String((await resolve([name])).env[0]?.value);
  return { root, warnings, resolve, variable, write: (path: string, text: string) => writeFileSync(join(root, path), text) };
}

const yaml = (edits: string) => `---\ncdiVersion: 0.5.0\nkind: v.com/dev\ndevices:\n  - name: "0"\n    containerEdits:\n${edits}\n`;

test('resolve() reads YAML as Go does: octal modes, strings with colons, anchors', async (t) => {
  const { write, resolve } = bed(t);
  write(
    'first/v.yaml',
    `cdiVersion: 0.5.0
kind: v.com/dev
annotations: {made: 2001-12-14}
containerEdits: &all
  env: ['A=1:30', B=yes]
devices:
- name: 1:2
  containerEdits:
    deviceNodes: [{path: /dev/a, fileMode: 0660, uid: 10}]
- name: 2
  containerEdits: *all
`,
  );
  const { nodes, env } = await resolve(['v.com/dev=1:2', 'v.com/dev=2']);
  assert.deepEqual(nodes, [{ path: '/dev/a', hostPath: '/dev/a', mode: 0o660, uid: 10, permissions: 'rwm' }]);
  assert.deepEqual(
    env.map(({ name, value }) => `${name}=${value}`),
    ['A=1:30', 'B=yes', 'A=1:30', 'B=yes'],
  );
});

test('resolve() reports a malformed or exploding file in one line', async (t) => {
  const { write, resolve, warnings, variable } = bed(t);
  write('first/good.yaml', yaml('      env: [A=b]'));
  const bomb = `a: &a [x,x,x,x,x,x,x,x,x,x]\n${[...'bcdefgh'].map((name, i) => `${name}: &${name} [${Array(10).fill(`*${'abcdefg'[i]}`)}]`).join('\n')}\n`;
  for (const [name, text] of Object.entries({
    'bomb.yaml': bomb,
    'empty.yaml': '',
    'two.yaml': 'a: 1\n---\nb: 2\n',
    'cut.json': '{"kind":',
    'binary.json': '\0\xff',
  })) {
    write(`first/${name}`, text);
  }
  await assert.rejects(resolve(['v.com/dev=9']), ({ message }: Error) => {
    for (const name of ['bomb', 'empty', 'two', 'cut', 'binary']) assert.match(message, new RegExp(`; read \\S+first/${name}\\.\\w+: .`));
    assert.ok(!message.includes('\n'));
    return true;
  });
  assert.equal(await variable('v.com/dev=0'), 'b');
  assert.equal(warnings.length, 5, 'one warning per file');
});

test('resolve() ignores other files and missing directories, and follows symbolic links to files', async (t) => {
  const { root, write, variable, warnings } = bed(t);
  write('first/v.json.tmp', 'x');
  write('first/v.yml', 'x');
  mkdirSync(join(root, 'first/deep.json'));
  execFileSync('mkfifo', [join(root, 'first/pipe.json')]);
  write('elsewhere', JSON.stringify({ cdiVersion: '0.3.0', kind: 'v/c', devices: [{ name: 'a', containerEdits: { env: ['A=linked'] } }] }));
  symlinkSync(join(root, 'elsewhere'), join(root, 'first/link.json'));
  symlinkSync('/none', join(root, 'first/dangling.json'));
  assert.equal(await variable('v/c=a'), 'linked');
  assert.deepEqual(
    warnings.map((fields) => (fields as { path: string }).path),
    ['dangling.json', 'deep.json', 'pipe.json'].map((name) => join(root, 'first', name)),
  );
});

test('resolve() notices a directory that is created or removed later', async (t) => {
  const { root, write, variable } = bed(t);
  write('first/v.yaml', yaml('      env: [A=first]'));
  assert.equal(await variable('v.com/dev=0'), 'first');
  mkdirSync(join(root, 'second'));
  write('second/v.yaml', yaml('      env: [A=second]'));
  assert.equal(await variable('v.com/dev=0'), 'second');
  rmSync(join(root, 'second'), { recursive: true });
  assert.equal(await variable('v.com/dev=0'), 'first');
  write('second', 'a file');
  await assert.rejects(variable('v.com/dev=9'), { message: /read \S+second: .*ENOTDIR/ });
  assert.equal(await variable('v.com/dev=0'), 'first');
});
