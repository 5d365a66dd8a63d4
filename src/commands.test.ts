import assert from 'node:assert/strict';
import { test } from 'node:test';
import { helpText, parseArguments } from './commands.ts';
import { loadConfig } from './config.ts';
import { BerthError } from './lib/errors.ts';

const assertInvalid = (call: () => unknown, message: RegExp) =>
  assert.throws(call, (error) => error instanceof BerthError && error.code === 'INVALID_ARGUMENT' && message.test(error.message));

test('parseArguments() reads every flag of serve, in both spellings', () => {
  const words = ['serve', '--config', '/c.toml', '--socket=/s', '--root', '/r', '--cni-bin-dir', '/a:/b', '--cni-bin-dir', '/c', '--metrics', 'off'];
  const command = parseArguments(words);
  assert.ok(command.command === 'serve');
  assert.deepEqual([command.configFile, command.isConfigFileNamed], ['/c.toml', true]);
  assert.deepEqual(command.flags, { socket: '/s', root: '/r', cni_bin_dirs: '/a:/b:/c', metrics: 'off' });
  assert.deepEqual(loadConfig('', command.flags).config.cniBinDirs, ['/a', '/b', '/c']);
});

test('parseArguments() uses the default file if none is given', () => {
  assert.deepEqual(parseArguments(['serve']), { command: 'serve', configFile: '/etc/berth/config.toml', isConfigFileNamed: false, flags: {} });
});

test('parseArguments() knows version and config default', () => {
  assert.deepEqual(parseArguments(['version']), { command: 'version' });
  assert.deepEqual(parseArguments(['config', 'default']), { command: 'config-default' });
});

test('parseArguments() reports an unknown flag or command and the closest known one', () => {
  assertInvalid(() => parseArguments(['serve', '--sockt', '/s']), /unknown flag --sockt: did you mean --socket\?/);
  assertInvalid(() => parseArguments(['serve', 'root']), /unknown flag root: did you mean --root\?/);
  assertInvalid(() => parseArguments(['sevre']), /unknown command sevre: did you mean serve\?/);
  assertInvalid(() => parseArguments(['frob']), /unknown command frob: want one of serve, explain, /);
  assertInvalid(() => parseArguments(['serve', '--frobnicate']), /unknown flag --frobnicate: want one of --config, /);
  assertInvalid(() => parseArguments(['top', '--intervall', '3']), /unknown flag --intervall: did you mean --interval\?/);
  assertInvalid(() => parseArguments(['config', 'defualt']), /did you mean config default\?/);
  assertInvalid(() => parseArguments([]), /missing command/);
  assertInvalid(() => parseArguments(['serve', '--socket']), /--socket: missing value/);
});

test('parseArguments() reads the container of explain before its flags, and the flags of doctor', () => {
  assert.deepEqual(parseArguments(['explain', 'abc', '--socket=/s']), {
    command: 'explain',
    container: 'abc',
    configFile: '/etc/berth/config.toml',
    isConfigFileNamed: false,
    flags: { socket: '/s' },
  });
  assert.deepEqual(parseArguments(['doctor', '--json', '--config', '/c']), {
    command: 'doctor',
    isJson: true,
    configFile: '/c',
    isConfigFileNamed: true,
    flags: {},
  });
  assertInvalid(() => parseArguments(['explain']), /explain: missing container id/);
  assertInvalid(() => parseArguments(['explain', '--socket=/s']), /explain: missing container id/);
  assertInvalid(() => parseArguments(['explain', 'abc', '--json']), /unknown flag --json/);
  assertInvalid(() => parseArguments(['docter']), /unknown command docter: did you mean doctor\?/);
});

test('parseArguments() reads the flags of top at any position, and rejects invalid sort keys and intervals', () => {
  const source = { configFile: '/etc/berth/config.toml', isConfigFileNamed: false, flags: {} };
  assert.deepEqual(parseArguments(['top']), { command: 'top', isOnce: false, intervalMs: 2000, sort: 'cpu', ...source });
  const words = ['top', '--sort=memory', '--socket', '/s', '--once', '--interval', '0.5'];
  assert.deepEqual(parseArguments(words), { command: 'top', isOnce: true, intervalMs: 500, sort: 'memory', ...source, flags: { socket: '/s' } });
  assertInvalid(() => parseArguments(['top', '--sort', 'memroy']), /unknown sort key memroy: did you mean memory\?/);
  for (const seconds of ['0', 'x', '4000', ''])
    assertInvalid(() => parseArguments(['top', '--interval', seconds]), /flag --interval: invalid value ".*": must be 0\.1 to 3600 seconds/);
  assertInvalid(() => parseArguments(['top', '--onec']), /unknown flag --onec/);
});

test('helpText() names every command and every flag', () => {
  for (const word of ['serve', 'explain CONTAINER', 'doctor', 'config default', 'version', '--config', '--socket', '--metrics', '--log-level']) {
    assert.ok(helpText().includes(`  ${word}`), word);
  }
  for (const words of [['help'], ['--help'], ['-h'], ['serve', '--help'], ['image', 'pull', '--help']]) {
    assert.deepEqual(parseArguments(words), { command: 'help' });
  }
});

test('parseArguments() reads the actions of image, and requires a name for pull and rm', () => {
  assert.partialDeepStrictEqual(parseArguments(['image', 'ls', '--socket', '/s']), { command: 'image', action: 'ls', flags: { socket: '/s' } });
  assert.partialDeepStrictEqual(parseArguments(['image', 'pull', 'busybox']), { command: 'image', action: 'pull', image: 'busybox' });
  assert.throws(() => parseArguments(['image', 'rm', '--socket=/s']), /image rm: missing image name$/);
  assert.throws(() => parseArguments(['image', 'verfy']), /unknown command image verfy: did you mean image verify\?/);
  for (const word of ['toString', 'constructor']) assertInvalid(() => parseArguments(['image', word]), /unknown command image/);
});

test('parseArguments() reads image repair, and accepts its former name mend, which the help does not show', () => {
  const repair = { command: 'image', action: 'repair', flags: { socket: '/s' } };
  for (const word of ['repair', 'mend']) assert.partialDeepStrictEqual(parseArguments(['image', word, '--socket', '/s']), repair);
  assert.match(helpText(), /^ {2}image repair \[FLAGS\]$/m);
  assert.doesNotMatch(helpText(), /mend/);
  assertInvalid(() => parseArguments(['image', 'mned']), /unknown command image mned: did you mean image (?!mend)/);
});

test('parseArguments() reads the arguments of image import and export in any order, and both names of pulls', () => {
  const source = { configFile: '/etc/berth/config.toml', isConfigFileNamed: false, flags: {} };
  const image = { command: 'image', ...source };
  assert.deepEqual(parseArguments(['image', 'import', '-']), { ...image, action: 'import', file: '-', name: undefined });
  const named = { ...image, action: 'import', file: 'a.tar', name: 'x:1', flags: { socket: '/s' } };
  assert.deepEqual(parseArguments(['image', 'import', 'a.tar', '--name', 'x:1', '--socket', '/s']), named);
  assert.deepEqual(parseArguments(['image', 'import', '--name=x:1', 'a.tar', '--socket=/s']), named);
  assert.deepEqual(parseArguments(['image', 'export', 'a', 'b']), { ...image, action: 'export', images: ['a', 'b'], output: '-' });
  assert.deepEqual(parseArguments(['image', 'export', '-o', 'f.tar', 'a', '--root=/r']), {
    ...image,
    action: 'export',
    images: ['a'],
    output: 'f.tar',
    flags: { root: '/r' },
  });
  assert.deepEqual(parseArguments(['pulls']), { ...image, action: 'pulls' });
  assert.deepEqual(parseArguments(['image', 'pulls']), { ...image, action: 'pulls' });
  assertInvalid(() => parseArguments(['image', 'import']), /missing file \(or - for standard input\)/);
  assertInvalid(() => parseArguments(['image', 'import', 'a', 'b']), /unknown flag b/);
  assertInvalid(() => parseArguments(['image', 'import', 'a', '--name']), /--name: missing value/);
  assertInvalid(() => parseArguments(['image', 'export', '-o', 'f']), /missing image names/);
});

test('parseArguments() takes flags anywhere in the line, for every command', () => {
  const commands: readonly (readonly string[])[] = [
    ['serve'],
    ['doctor', '--json'],
    ['explain', 'abc'],
    ['top', '--sort', 'memory'],
    ['pulls'],
    ...['ls', 'pulls', 'verify', 'repair'].map((action) => ['image', action]),
    ...['pull', 'rm', 'import', 'export'].map((action) => ['image', action, 'x']),
    ['image', 'export', 'x', 'y'],
  ];
  for (const words of commands) {
    const expected = parseArguments([...words, '--socket', '/s']);
    assert.partialDeepStrictEqual(expected, { flags: { socket: '/s' } });
    for (const [at, word] of words.entries()) {
      if (words[at - 1]?.startsWith('--') && word !== '--json') continue;
      assert.deepEqual(parseArguments([...words.slice(0, at), '--socket', '/s', ...words.slice(at)]), expected, words.join(' '));
      assert.deepEqual(parseArguments([...words.slice(0, at), '--socket=/s', ...words.slice(at)]), expected, words.join(' '));
    }
  }
  assert.partialDeepStrictEqual(parseArguments(['--socket', '/s', 'image', 'import', '--', '--odd']), { file: '--odd', flags: { socket: '/s' } });
  assert.deepEqual(parseArguments(['--help', 'serve']), { command: 'help' });
  assertInvalid(() => parseArguments(['--socket', '/s']), /missing command/);
  assertInvalid(() => parseArguments(['image', 'ls', '--name', 'x']), /unknown flag --name/);
});
