import assert from 'node:assert/strict';
import { test } from 'node:test';
import { defaultToml, loadConfig } from './config.ts';
import { BerthError } from './lib/errors.ts';

const refuses = (call: () => unknown, message: RegExp) =>
  assert.throws(call, (error) => error instanceof BerthError && error.code === 'INVALID_ARGUMENT' && message.test(error.message));

test('loadConfig() of the default file gives the defaults', () => {
  assert.deepEqual(loadConfig(defaultToml(), {}), loadConfig('', {}));
});

test('loadConfig() has the documented defaults', () => {
  const config = loadConfig('', {});
  assert.equal(config.socket, '/run/berth/berth.sock');
  assert.equal(config.root, '/var/lib/berth');
  assert.equal(config.state, '/run/berth');
  assert.equal(config.netnsDir, '/run/netns');
  assert.equal(config.cniConfDir, '/etc/cni/net.d');
  assert.deepEqual(config.cniBinDirs, ['/opt/cni/bin', '/usr/lib/cni']);
  assert.equal(config.registryDir, '/etc/berth/certs.d');
  assert.equal(config.metrics, null);
  assert.deepEqual(config.defaultUlimits, [{ name: 'nofile', soft: 1024, hard: 524288 }]);
  assert.equal(config.defaultSysctls['net.ipv4.ping_group_range'], '0 2147483647');
});

test('loadConfig() takes the file, and flags before it', () => {
  const config = loadConfig('root = "/a"\nstate = "/b"\npull_parallel_layers = 5\nvolatile_layers = true', {
    state: '/c',
    metrics: '127.0.0.1:9000',
  });
  assert.deepEqual([config.root, config.state, config.netnsDir], ['/a', '/c', '/run/netns']);
  assert.deepEqual([config.maxConcurrentDownloads, config.isVolatile, config.metrics], [5, true, '127.0.0.1:9000']);
});

test('loadConfig() returns what cannot be changed', () => {
  const config = loadConfig('', {});
  assert.ok(Object.isFrozen(config) && Object.isFrozen(config.cniBinDirs) && Object.isFrozen(config.defaultUlimits));
});

test('loadConfig() names an unknown key and the nearest known one', () => {
  refuses(() => loadConfig('cni_conf_dirs = "/a"', {}), /unknown key cni_conf_dirs: did you mean cni_conf_dir\?/);
});

test('loadConfig() refuses text that is no TOML, in one line', () => {
  refuses(() => loadConfig('root = ', {}), /^reading the configuration: [^\n]+$/);
});

test('loadConfig() refuses wrong types, formats and values beyond both limits', () => {
  refuses(() => loadConfig('root = 1', {}), /root: 1 is not a text/);
  refuses(() => loadConfig('root = "relative"', {}), /root: "relative" is not an absolute path/);
  refuses(() => loadConfig('pinned_images = "a"', {}), /not a list of texts/);
  refuses(() => loadConfig('volatile_layers = "yes"', {}), /not true or false/);
  refuses(() => loadConfig('pull_parallel_layers = 1.5', {}), /not a whole number/);
  refuses(() => loadConfig('pull_parallel_layers = 0', {}), /not between 1 and 32/);
  refuses(() => loadConfig('pull_parallel_layers = 33', {}), /not between 1 and 32/);
  refuses(() => loadConfig('default_ulimits = ["nofile"]', {}), /NAME=SOFT:HARD/);
  refuses(() => loadConfig('default_ulimits = ["nofile=2:1"]', {}), /soft limit is above/);
  refuses(() => loadConfig('', { log_level: 'loud' }), /flag --log-level: "loud" is not trace/);
  assert.equal(loadConfig('pull_parallel_layers = 1', {}).maxConcurrentDownloads, 1);
  assert.equal(loadConfig('pull_parallel_layers = 32', {}).maxConcurrentDownloads, 32);
});

test('loadConfig() traces nothing without an endpoint, and appends the path that OTLP has for spans', () => {
  assert.equal(loadConfig('tracing_sampling_rate_per_million = 5', {}).tracing, null);
  for (const endpoint of ['http://127.0.0.1:4318', 'http://127.0.0.1:4318/'])
    assert.deepEqual(loadConfig(`tracing_endpoint = "${endpoint}"`, {}).tracing, {
      endpoint: 'http://127.0.0.1:4318/v1/traces',
      samplingRatePerMillion: 0,
    });
  refuses(() => loadConfig('tracing_endpoint = "127.0.0.1:4317"', {}), /tracing_endpoint: .* is not an http or https URL/);
  refuses(() => loadConfig('tracing_endpoint = "http://[::1"', {}), /tracing_endpoint: it is no URL/);
  refuses(() => loadConfig('tracing_sampling_rate_per_million = 1000001', {}), /is not between 0 and 1000000/);
});
