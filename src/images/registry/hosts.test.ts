import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { describe, test } from 'node:test';
import { createRandom, mutated } from '../../../test/support/mutate.ts';
import { BerthError } from '../../lib/errors.ts';
import { defaultHost, hostDirectoryNames, needsNamespace, parseHostsFile } from './hosts.ts';
import { loadRegistryHosts } from './hosts-directory.ts';

const file = '/etc/berth/certs.d/r.io/hosts.toml';
const parse = (text: string, domain = 'r.io') => parseHostsFile(text, domain, file);
const noTls = { caFiles: [], clientPairs: [], skipVerify: false };
const everything = { pull: true, resolve: true };

const example = `
server = "https://upstream.io"
ca = "up.pem"

[host."https://second.io:5000/path"]
  capabilities = ["pull"]
  ca = ["/a.pem", "b.pem"]
  client = [["c.cert", "c.key"], ["both.pem", ""]]
  skip_verify = true
  [host."https://second.io:5000/path".header]
    x-one = "1"
    X-Two = ["a", "b"]

[host."http://first.io"]
  override_path = true
`;

describe('parseHostsFile()', () => {
  test('returns the mirrors in their order, then the server', () => {
    assert.deepEqual(parse(example), [
      {
        scheme: 'https',
        host: 'second.io:5000',
        basePath: '/path/v2',
        capabilities: { pull: true, resolve: false },
        tls: {
          caFiles: ['/a.pem', '/etc/berth/certs.d/r.io/b.pem'],
          clientPairs: [
            { certFile: '/etc/berth/certs.d/r.io/c.cert', keyFile: '/etc/berth/certs.d/r.io/c.key' },
            { certFile: '/etc/berth/certs.d/r.io/both.pem', keyFile: '/etc/berth/certs.d/r.io/both.pem' },
          ],
          skipVerify: true,
        },
        headers: { 'x-one': ['1'], 'x-two': ['a', 'b'] },
        isMirror: true,
      },
      { scheme: 'http', host: 'first.io', basePath: '', capabilities: everything, tls: noTls, headers: {}, isMirror: true },
      {
        scheme: 'https',
        host: 'upstream.io',
        basePath: '/v2',
        capabilities: everything,
        tls: { ...noTls, caFiles: ['/etc/berth/certs.d/r.io/up.pem'] },
        headers: {},
        isMirror: false,
      },
    ]);
  });

  test('returns the registry itself for an empty file', () => {
    assert.deepEqual(parse(''), [defaultHost('r.io')]);
    assert.deepEqual(parse('', 'docker.io'), [defaultHost('docker.io')]);
    assert.equal(parse('skip_verify = true')[0]?.tls.skipVerify, true);
  });

  const paths: readonly (readonly [string, string, string])[] = [
    ['"m.io"', 'https://m.io', '/v2'],
    ['"m.io:5000"', 'https://m.io:5000', '/v2'],
    ['"https://m.io:443/"', 'https://m.io', '/v2'],
    ['"http://[::1]:5000/v2/"', 'http://[::1]:5000', '/v2'],
    ['"https://m.io/v2/proxy"', 'https://m.io', '/v2/proxy/v2'],
  ];
  for (const [key, origin, basePath] of paths) {
    test(`accepts the host ${key}`, () => {
      const [host] = parse(`[host.${key}]`);
      assert.deepEqual([`${host?.scheme}://${host?.host}`, host?.basePath], [origin, basePath]);
    });
  }

  test('uses the path unchanged with override_path', () => {
    assert.equal(parse('[host."https://m.io/v2/proxy/"]\noverride_path = true')[0]?.basePath, '/v2/proxy');
  });

  const refused: readonly (readonly [string, string, RegExp])[] = [
    ['invalid TOML', 'server =', /hosts\.toml: /],
    ['a scheme other than http and https', '[host."ftp://m.io"]', /not an http or https URL/],
    ['an invalid URL', 'server = "https://"', /not an http or https URL/],
    ['credentials in a URL', 'server = "https://u:p@m.io"', /must not contain credentials/],
    ['a query', 'server = "https://m.io?x=1"', /query/],
    ['an unknown capability', '[host."m.io"]\ncapabilities = ["pul"]', /unknown capability "pul"/],
    ['capabilities of a wrong type', '[host."m.io"]\ncapabilities = 1', /capabilities: must be/],
    ['a flag that is a string', 'skip_verify = "yes"', /skip_verify: must be true or false/],
    ['a client with three files', 'client = [["a", "b", "c"]]', /client: must be pairs/],
    ['an empty ca', 'ca = ""', /ca: must be a path/],
    ['a header with a line break', '[header]\nx = "a\\nb: c"', /header\.x: must be a line/],
    ['an invalid header name', '[header]\n"a b" = "c"', /invalid header name/],
    ['a host that is not a table', 'host = 1', /host: must be an object/],
    ['a server that is a number', 'server = 1', /server: must be a string/],
  ];
  for (const [name, text, pattern] of refused) {
    test(`refuses ${name} and names the file`, () => {
      assert.throws(
        () => parse(text),
        (error) =>
          error instanceof BerthError &&
          error.code === 'FAILED_PRECONDITION' &&
          error.message.startsWith(file) &&
          pattern.test(error.message) &&
          !error.message.includes('\n'),
      );
    });
  }

  test('returns at least one host for arbitrary text, or throws FAILED_PRECONDITION', () => {
    const random = createRandom(5);
    for (let round = 0; round < 3000; round += 1) {
      const text = mutated(random, example, ['"', '[', ']', '=', '\n', '1', 'true', '[host]', '__proto__', '://', '@', '\0', '[header]\n']);
      try {
        assert.ok(parse(text).length > 0);
      } catch (error) {
        assert.ok(error instanceof BerthError && error.code === 'FAILED_PRECONDITION', `${JSON.stringify(text)}: ${error}`);
      }
    }
  });
});

test('defaultHost() uses TLS except on loopback addresses, and knows the host of docker.io', () => {
  const origin = (domain: string) => `${defaultHost(domain).scheme}://${defaultHost(domain).host}`;
  assert.deepEqual(
    ['docker.io', 'r.io:5000', 'localhost:5000', '127.0.0.1', '127.9.9.9:80', '[::1]:5000', 'localhost.evil.io', '127.0.0.1.nip.io'].map(origin),
    [
      'https://registry-1.docker.io',
      'https://r.io:5000',
      'http://localhost:5000',
      'http://127.0.0.1',
      'http://127.9.9.9:80',
      'http://[::1]:5000',
      'https://localhost.evil.io',
      'https://127.0.0.1.nip.io',
    ],
  );
  assert.equal(origin('128.0.0.1'), 'https://128.0.0.1');
  assert.equal(defaultHost('127.0.0.1', { ...noTls, caFiles: ['/ca'] }).scheme, 'https');
});

test('needsNamespace() is true for every host except the registry in the name', () => {
  assert.equal(needsNamespace(defaultHost('docker.io'), 'docker.io'), false);
  assert.equal(needsNamespace(defaultHost('r.io'), 'r.io'), false);
  assert.equal(needsNamespace(defaultHost('m.io'), 'r.io'), true);
});

test('hostDirectoryNames() lists the directory names of other runtimes', () => {
  assert.deepEqual(hostDirectoryNames('r.io'), ['r.io', '_default']);
  assert.deepEqual(hostDirectoryNames('r.io:5000'), ['r.io_5000_', 'r.io:5000', '_default']);
  assert.deepEqual(hostDirectoryNames('[::1]:5000'), ['[::1]_5000_', '[::1]:5000', '_default']);
  assert.deepEqual(hostDirectoryNames('[::1]'), ['[::1]', '_default']);
});

test('loadRegistryHosts() reads the first existing directory, and its certificates if it has no hosts.toml', async () => {
  const root = mkdtempSync(`${tmpdir()}/berth-hosts-`);
  const write = (path: string, text = '') => {
    mkdirSync(`${root}/${path.slice(0, path.lastIndexOf('/'))}`, { recursive: true });
    writeFileSync(`${root}/${path}`, text);
  };
  const firstHost = async (domain: string) => (await loadRegistryHosts(root, domain))[0]?.host;
  try {
    assert.deepEqual(await loadRegistryHosts('', 'r.io'), [defaultHost('r.io')]);
    assert.deepEqual(await loadRegistryHosts(`${root}/absent`, 'r.io'), [defaultHost('r.io')]);
    write('_default/hosts.toml', '[host."default.io"]');
    write('r.io:5000/hosts.toml', '[host."colon.io"]');
    assert.deepEqual([await firstHost('other.io'), await firstHost('r.io:5000')], ['default.io', 'colon.io']);
    write('r.io_5000_/hosts.toml', '[host."underscore.io"]');
    assert.equal(await firstHost('r.io:5000'), 'underscore.io');
    write('old.io/a.crt');
    write('old.io/b.cert');
    await assert.rejects(loadRegistryHosts(root, 'old.io'), /missing b\.key for b\.cert/);
    write('old.io/b.key');
    const tls = {
      caFiles: [`${root}/old.io/a.crt`],
      clientPairs: [{ certFile: `${root}/old.io/b.cert`, keyFile: `${root}/old.io/b.key` }],
      skipVerify: false,
    };
    assert.deepEqual(await loadRegistryHosts(root, 'old.io'), [defaultHost('old.io', tls)]);
    mkdirSync(`${root}/dir.io/hosts.toml`, { recursive: true });
    await assert.rejects(loadRegistryHosts(root, 'dir.io'), (error) => error instanceof BerthError && error.message.includes('EISDIR'));
    write('big.io/hosts.toml', `#${'x'.repeat(1 << 20)}`);
    await assert.rejects(loadRegistryHosts(root, 'big.io'), /exceeds the limit of 1048576/);
  } finally {
    rmSync(root, { recursive: true });
  }
});
