import assert from 'node:assert/strict';
import { test } from 'node:test';
import { atVersion, parseList } from './list.ts';

const bridge = { type: 'bridge' };

function parse(document: unknown) {
  return parseList(JSON.stringify(document), false);
}

test('parseList() reads capabilities and the delegated IPAM plugin', () => {
  const list = parse({
    cniVersion: '1.0.0',
    name: 'n',
    disableCheck: true,
    plugins: [
      { type: 'bridge', ipam: { type: 'host-local' } },
      { type: 'portmap', capabilities: { portMappings: true, x: false } },
    ],
  });
  assert.equal(list.name, 'n');
  assert.equal(list.version, '1.0.0');
  assert.equal(list.isCheckDisabled, true);
  assert.equal(list.isGcDisabled, false);
  assert.deepEqual(
    list.plugins.map(({ type, capabilities, ipamType }) => ({ type, capabilities, ipamType })),
    [
      { type: 'bridge', capabilities: [], ipamType: 'host-local' },
      { type: 'portmap', capabilities: ['portMappings'], ipamType: '' },
    ],
  );
});

test('parseList() wraps the configuration of a single plugin in a list', () => {
  const list = parse({ cniVersion: '0.3.1', name: 'n', type: 'bridge', mtu: 1400 });
  assert.equal(list.version, '0.3.1');
  assert.equal(list.plugins[0]?.raw.mtu, 1400);
  assert.equal(parseList(JSON.stringify(list.raw), true).name, 'n');
});

test('parseList() defaults to cniVersion 0.1.0', () => {
  assert.equal(parse({ name: 'n', type: 'bridge' }).version, '0.1.0');
});

test('parseList() selects the highest supported version of cniVersion and cniVersions', () => {
  const list = parse({ cniVersion: '0.4.0', cniVersions: ['1.1.0', '9.0.0', '0.3.1'], name: 'n', plugins: [bridge] });
  assert.equal(list.version, '1.1.0');
  assert.deepEqual(list.versions, ['0.3.1', '0.4.0', '1.1.0']);
});

test('atVersion() returns a list that parses to that version only', () => {
  const list = parse({ cniVersion: '0.4.0', cniVersions: ['1.1.0'], name: 'n', plugins: [bridge] });
  const lower = parse(atVersion(list, '0.4.0').raw);
  assert.deepEqual([lower.version, lower.versions], ['0.4.0', ['0.4.0']]);
});

test('parseList() reports the reason for an invalid configuration', () => {
  const cases: readonly (readonly [string, RegExp])[] = [
    ['', /^empty file$/],
    ['{"name":', /^not JSON: /],
    ['[]', /^not a JSON object$/],
    ['{"name":"n"}', /^neither "plugins" nor "type"$/],
    ['{"name":"n","plugins":[]}', /^"plugins" is empty$/],
    ['{"name":"n","plugins":{}}', /^"plugins" is not a list$/],
    ['{"plugins":[{"type":"bridge"}]}', /^no "name"$/],
    ['{"name":"../n","plugins":[{"type":"bridge"}]}', /^invalid name "..\/n": want letters/],
    [`{"name":"${'n'.repeat(129)}","plugins":[{"type":"bridge"}]}`, /^name is longer than 128/],
    ['{"name":"n","plugins":[{"type":"bridge"},{}]}', /^plugins\[1\]: no "type"$/],
    ['{"name":"n","plugins":[{"type":"../../bin/sh"}]}', /^plugins\[0\]: invalid type "..\/..\/bin\/sh"/],
    ['{"name":"n","plugins":[{"type":".."}]}', /^plugins\[0\]: invalid type ".."/],
    ['{"name":"n","plugins":[{"type":"a","ipam":{"type":"a/b"}}]}', /^plugins\[0\]: invalid ipam type "a\/b"/],
    ['{"name":"n","plugins":[{"type":"a","capabilities":{"dns":"yes"}}]}', /^plugins\[0\]: capability dns is neither/],
    ['{"name":"n","cniVersion":"2.0.0","plugins":[{"type":"a"}]}', /^unsupported cniVersion "2.0.0"; supported are 0.1.0, /],
    ['{"name":"n","cniVersion":1,"plugins":[{"type":"a"}]}', /^unsupported cniVersion 1; /],
    ['{"name":"n","disableCheck":"maybe","plugins":[{"type":"a"}]}', /^disableCheck is neither/],
  ];
  for (const [text, message] of cases) assert.throws(() => parseList(text, false), { message, code: 'FAILED_PRECONDITION' }, text);
});

test('parseList() requires a list in a *.conflist', () => {
  assert.throws(() => parseList('{"name":"n","type":"bridge"}', true), { message: 'no "plugins"' });
});

test('parseList() accepts flags written as strings', () => {
  assert.equal(parse({ name: 'n', disableGC: 'True', plugins: [bridge] }).isGcDisabled, true);
});

test('parseList() reads keys in any case, and null as absent, as Go does', () => {
  const list = parse({
    CNIVersion: '1.0.0',
    cniVersions: null,
    Name: 'n',
    DisableCheck: true,
    Plugins: [{ TYPE: 'bridge', IPAM: { Type: 'host-local' }, Capabilities: { dns: true, mac: null }, mtu: 1400 }],
  });
  assert.deepEqual([list.version, list.name, list.isCheckDisabled], ['1.0.0', 'n', true]);
  const [plugin] = list.plugins;
  assert.deepEqual([plugin?.type, plugin?.ipamType, plugin?.capabilities, plugin?.raw.mtu], ['bridge', 'host-local', ['dns'], 1400]);
  assert.deepEqual(parse(atVersion({ ...list, raw: { ...list.raw, cniVersions: ['1.1.0'] } }, '1.0.0').raw).versions, ['1.0.0']);
});

test('parseList() appends the plugins beside a list unless it forbids that', () => {
  const beside = [
    { file: '/n/1.conf', text: '{"Type":"one","name":"other"}' },
    { file: '/n/2.conf', text: '{"type":"two"}' },
  ];
  const typesOf = (document: object) =>
    parseList(JSON.stringify({ name: 'n', ...document }), true, (name) => (name === 'n' ? beside : [])).plugins.map(({ type }) => type);
  assert.deepEqual(typesOf({ plugins: [bridge] }), ['bridge', 'one', 'two']);
  assert.deepEqual(typesOf({ plugins: [] }), ['one', 'two']);
  assert.deepEqual(typesOf({}), ['one', 'two']);
  assert.deepEqual(typesOf({ loadOnlyInlinedPlugins: true, plugins: [bridge] }), ['bridge']);
  assert.deepEqual(typesOf({ LoadOnlyInlinedPlugins: 'true', plugins: [bridge] }), ['bridge']);
  assert.throws(() => typesOf({ loadOnlyInlinedPlugins: true }), { message: 'no "plugins"' });
  const complete = parseList('{"name":"n"}', true, () => beside);
  assert.equal(parseList(JSON.stringify(complete.raw), true).plugins.length, 2);
  assert.throws(() => parseList('{"name":"n"}', true, () => [{ file: '/n/3.conf', text: '{}' }]), { message: '/n/3.conf: no "type"' });
  assert.throws(() => parseList('{"name":"../n","plugins":[]}', true, () => assert.fail()), /invalid name/);
});
