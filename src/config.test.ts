import assert from 'node:assert/strict';
import { test } from 'node:test';
import { defaultToml, loadConfig, settings, streamSettings, tracingSettings } from './config.ts';
import { BerthError } from './lib/errors.ts';

const refuses = (call: () => unknown, message: RegExp) =>
  assert.throws(call, (error) => error instanceof BerthError && error.code === 'INVALID_ARGUMENT' && message.test(error.message));

test('loadConfig() of the default file gives the defaults', () => {
  assert.deepEqual(loadConfig(defaultToml(), {}), loadConfig('', {}));
});

const configOf = (text: string, flags: Record<string, string> = {}) => loadConfig(text, flags).config;

test('loadConfig() has the documented defaults', () => {
  const config = configOf('');
  assert.equal(config.socket, '/run/berth/berth.sock');
  assert.equal(config.root, '/var/lib/berth');
  assert.equal(config.state, '/run/berth');
  assert.equal(config.netnsDir, '/run/netns');
  assert.equal(config.cniConfDir, '/etc/cni/net.d');
  assert.deepEqual(config.cniBinDirs, ['/opt/cni/bin', '/usr/lib/cni']);
  assert.equal(config.registryDir, '/etc/berth/certs.d');
  assert.deepEqual([config.metrics, config.cadvisorSocket, config.blockioConfigFile], [null, null, null]);
  assert.deepEqual(config.defaultUlimits, [{ name: 'nofile', soft: 1024, hard: 524288 }]);
  assert.equal(config.defaultSysctls['net.ipv4.ping_group_range'], '0 2147483647');
  assert.deepEqual(streamSettings(config), { address: '127.0.0.1', port: 0 });
  assert.equal(tracingSettings(config), null);
});

test('loadConfig() takes the file, and flags before it', () => {
  const config = configOf('root = "/a"\nstate = "/b"\nmax_concurrent_downloads = 5\nmetrics_containers = true', {
    state: '/c',
    metrics: '127.0.0.1:9000',
  });
  assert.deepEqual([config.root, config.state, config.netnsDir], ['/a', '/c', '/run/netns']);
  assert.deepEqual([config.maxConcurrentDownloads, config.metricsContainers, config.metrics], [5, true, '127.0.0.1:9000']);
});

test('loadConfig() returns frozen values', () => {
  const config = configOf('');
  for (const value of [config, config.cniBinDirs, config.defaultUlimits, config.defaultSysctls, config.pinnedImages])
    assert.ok(Object.isFrozen(value));
});

test('loadConfig() takes a former name with a warning, but not beside the current one', () => {
  for (const [former, key, field] of [
    ['pull_parallel_layers', 'max_concurrent_downloads', 'maxConcurrentDownloads'],
    ['log_line_bytes_max', 'max_container_log_line_size', 'maxContainerLogLineSize'],
  ] as const) {
    const value = former === 'pull_parallel_layers' ? 7 : 777;
    const { config, warnings } = loadConfig(`${former} = ${value}`, {});
    assert.deepEqual([config[field], warnings], [value, [`${former} is deprecated: use ${key}`]]);
    refuses(
      () => loadConfig(`${former} = ${value}\n${key} = ${value}`, {}),
      new RegExp(`${former} is the deprecated name of ${key}: set only ${key}`),
    );
    refuses(() => loadConfig(`${former} = 0`, {}), new RegExp(`^${key}: 0 is not between`));
  }
  assert.deepEqual(loadConfig('max_concurrent_downloads = 7', {}).warnings, []);
});

test('loadConfig() takes a removed setting with a warning that it has no effect', () => {
  const { config, warnings } = loadConfig('volatile_layers = false\ncriu = "/opt/criu"', {});
  assert.deepEqual(config, configOf(''));
  assert.match(warnings.join('\n'), /^volatile_layers has no effect: .+\ncriu has no effect: .+$/);
});

test('settings have keys and former names that are all different', () => {
  const names = settings.flatMap(({ key, aliases = [] }) => [key, ...aliases]);
  assert.equal(new Set(names).size, names.length);
});

test('loadConfig() names an unknown key and the nearest known one', () => {
  refuses(() => loadConfig('cni_conf_dirs = "/a"', {}), /unknown key cni_conf_dirs: did you mean cni_conf_dir\?/);
});

test('loadConfig() refuses text that is no TOML, in one line', () => {
  refuses(() => loadConfig('root = ', {}), /^read configuration: [^\n]+$/);
});

test('loadConfig() refuses wrong types, formats and values beyond both limits', () => {
  refuses(() => loadConfig('root = 1', {}), /root: 1 is not a string/);
  refuses(() => loadConfig('root = "relative"', {}), /root: "relative" is not an absolute path/);
  refuses(() => loadConfig('pinned_images = "a"', {}), /not a list of strings/);
  refuses(() => loadConfig('metrics_containers = "yes"', {}), /not true or false/);
  refuses(() => loadConfig('max_concurrent_downloads = 1.5', {}), /not a whole number/);
  refuses(() => loadConfig('max_concurrent_downloads = 0', {}), /not between 1 and 32/);
  refuses(() => loadConfig('max_concurrent_downloads = 33', {}), /not between 1 and 32/);
  refuses(() => loadConfig('default_ulimits = ["nofile"]', {}), /NAME=SOFT:HARD/);
  refuses(() => loadConfig('default_ulimits = ["nofile=2:1"]', {}), /soft limit is above/);
  refuses(() => loadConfig('', { log_level: 'loud' }), /flag --log-level: "loud" is not trace/);
  assert.equal(configOf('max_concurrent_downloads = 1').maxConcurrentDownloads, 1);
  assert.equal(configOf('max_concurrent_downloads = 32').maxConcurrentDownloads, 32);
});

test('tracingSettings() are off without an endpoint, and append the path of OTLP for spans', () => {
  assert.equal(tracingSettings(configOf('tracing_sampling_rate_per_million = 5')), null);
  for (const endpoint of ['http://127.0.0.1:4318', 'http://127.0.0.1:4318/'])
    assert.deepEqual(tracingSettings(configOf(`tracing_endpoint = "${endpoint}"`)), {
      endpoint: 'http://127.0.0.1:4318/v1/traces',
      samplingRatePerMillion: 0,
    });
  refuses(() => loadConfig('tracing_endpoint = "127.0.0.1:4317"', {}), /tracing_endpoint: .* is not an http or https URL/);
  refuses(() => loadConfig('tracing_endpoint = "http://[::1"', {}), /tracing_endpoint: invalid URL/);
  refuses(() => loadConfig('tracing_sampling_rate_per_million = 1000001', {}), /is not between 0 and 1000000/);
});

test('streamSettings() take a certificate with its key only', () => {
  const config = configOf('stream_tls_cert = "/c"\nstream_tls_key = "/k"');
  assert.deepEqual(streamSettings(config).tls, { certFile: '/c', keyFile: '/k' });
  refuses(() => loadConfig('stream_tls_cert = "/c"', {}), /stream_tls_cert and stream_tls_key: set both or neither/);
});
