import assert from 'node:assert/strict';
import { test } from 'node:test';
import { helpText, parseArguments } from './commands.ts';
import { loadConfig } from './config.ts';
import { BerthError } from './lib/errors.ts';

const refuses = (call: () => unknown, message: RegExp) =>
  assert.throws(call, (error) => error instanceof BerthError && error.code === 'INVALID_ARGUMENT' && message.test(error.message));

test('parseArguments() reads every flag of serve, in both spellings', () => {
  const words = ['serve', '--config', '/c.toml', '--socket=/s', '--root', '/r', '--cni-bin-dir', '/a:/b', '--cni-bin-dir', '/c', '--metrics', 'off'];
  const command = parseArguments(words);
  assert.ok(command.command === 'serve');
  assert.deepEqual([command.configFile, command.isConfigFileNamed], ['/c.toml', true]);
  assert.deepEqual(command.flags, { socket: '/s', root: '/r', cni_bin_dirs: '/a:/b:/c', metrics: 'off' });
  assert.deepEqual(loadConfig('', command.flags).config.cniBinDirs, ['/a', '/b', '/c']);
});

test('parseArguments() uses the default file when none is named', () => {
  assert.deepEqual(parseArguments(['serve']), { command: 'serve', configFile: '/etc/berth/config.toml', isConfigFileNamed: false, flags: {} });
});

test('parseArguments() knows version and config default', () => {
  assert.deepEqual(parseArguments(['version']), { command: 'version' });
  assert.deepEqual(parseArguments(['config', 'default']), { command: 'config-default' });
});

test('parseArguments() names an unknown flag or command and the nearest known one', () => {
  refuses(() => parseArguments(['serve', '--sockt', '/s']), /unknown flag --sockt: did you mean --socket\?/);
  refuses(() => parseArguments(['serve', 'root']), /unknown flag root: did you mean --root\?/);
  refuses(() => parseArguments(['sevre']), /unknown command sevre: did you mean serve\?/);
  refuses(() => parseArguments(['config', 'defualt']), /did you mean config default\?/);
  refuses(() => parseArguments([]), /no command given/);
  refuses(() => parseArguments(['serve', '--socket']), /--socket needs a value/);
});

test('parseArguments() gives explain a container before its flags, and doctor the flags of serve', () => {
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
  refuses(() => parseArguments(['explain']), /explain needs the id of a container/);
  refuses(() => parseArguments(['explain', '--socket=/s', 'abc']), /explain needs the id of a container/);
  refuses(() => parseArguments(['docter']), /unknown command docter: did you mean doctor\?/);
});

test('parseArguments() takes the flags of top anywhere among the others, and names what is no sort key or time', () => {
  const source = { configFile: '/etc/berth/config.toml', isConfigFileNamed: false, flags: {} };
  assert.deepEqual(parseArguments(['top']), { command: 'top', isOnce: false, intervalMs: 2000, sort: 'cpu', ...source });
  const words = ['top', '--sort=memory', '--socket', '/s', '--once', '--interval', '0.5'];
  assert.deepEqual(parseArguments(words), { command: 'top', isOnce: true, intervalMs: 500, sort: 'memory', ...source, flags: { socket: '/s' } });
  refuses(() => parseArguments(['top', '--sort', 'memroy']), /unknown key memroy: did you mean memory\?/);
  for (const seconds of ['0', 'x', '4000', ''])
    refuses(() => parseArguments(['top', '--interval', seconds]), /flag --interval: .* is no number of seconds/);
  refuses(() => parseArguments(['top', '--onec']), /unknown flag --onec/);
});

test('helpText() names every command and every flag', () => {
  for (const word of ['serve', 'explain CONTAINER', 'doctor', 'config default', 'version', '--config', '--socket', '--metrics', '--log-level']) {
    assert.ok(helpText().includes(`  ${word}`), word);
  }
  for (const word of ['help', '--help', '-h']) assert.deepEqual(parseArguments([word]), { command: 'help' });
});

test('parseArguments() reads the actions of image, and wants a name where one is needed', () => {
  assert.partialDeepStrictEqual(parseArguments(['image', 'ls', '--socket', '/s']), { command: 'image', action: 'ls', flags: { socket: '/s' } });
  assert.partialDeepStrictEqual(parseArguments(['image', 'pull', 'busybox']), { command: 'image', action: 'pull', image: 'busybox' });
  assert.throws(() => parseArguments(['image', 'rm', '--socket=/s']), /image rm needs the name of an image before any flag/);
  assert.throws(() => parseArguments(['image', 'verfy']), /unknown command image verfy: did you mean image verify\?/);
});

test('parseArguments() reads what image import and export take, options before or after, and pulls under both its names', () => {
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
  refuses(() => parseArguments(['image', 'import']), /needs a file, or - for standard input/);
  refuses(() => parseArguments(['image', 'import', 'a', 'b']), /unknown flag b/);
  refuses(() => parseArguments(['image', 'import', 'a', '--name']), /--name needs a value/);
  refuses(() => parseArguments(['image', 'export', '-o', 'f']), /names of images/);
});
