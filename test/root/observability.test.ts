/**
 * Observability of a running daemon: metrics, log, timeline, `berth explain`, `berth doctor`, and the alerts and dashboard of deploy/.
 */
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import type { Socket } from 'node:net';
import { join, resolve } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { type CriClient, connectCri, type Message } from '../../scripts/cri-client.ts';
import { serveRegistry } from '../../scripts/mini-registry.ts';
import { buildSampleImage } from '../../scripts/sample-image.ts';
import { dashboardPanels, deployDir, substituteVariables } from '../support/dashboard.ts';
import { sendError, startFakeRegistry } from '../support/fake-registry.ts';
import { startPrometheus } from '../support/prometheus.ts';
import { type Runtime, startRuntime } from '../support/runtime.ts';

const repository = resolve(import.meta.dirname, '../..');
const berth = join(repository, 'bin/berth');
const metricsAddress = '127.0.0.1:19418';
const scrapeUrl = `http://${metricsAddress}/metrics`;

/** None of these may appear in a log, a metric or the output of `berth explain`. */
const secrets = {
  environment: 'value-of-an-environment-variable',
  password: 'password-of-a-pull',
  basic: Buffer.from('kim:password-of-a-pull').toString('base64'),
  token: 'registry-token-of-a-pull',
  argument: 'argument-of-an-exec',
  variable: 'value-behind-the-name-of-a-variable',
};

type TestObjects = { readonly sandboxId: string; readonly containerId: string; readonly failedId: string };

let workDir: string;
let runtime: Runtime;
let client: CriClient;
let objects: TestObjects;

before(async () => {
  execFileSync('ip', ['link', 'set', 'lo', 'up']);
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'mode=755', 'tmpfs', '/run']);
  workDir = mkdtempSync('/var/tmp/berth-observability-');
  runtime = await startRuntime('berth', { workDir, settings: `metrics = "${metricsAddress}"\nmetrics_containers = true\nlog_level = "trace"\n` });
  client = connectCri(runtime.endpoint);
  objects = await createObjects();
});

after(async () => {
  const { items = [] } = (await client?.call<{ items: { id: string }[] }>('ListPodSandbox', {})) ?? {};
  for (const { id } of items) await client.call('RemovePodSandbox', { pod_sandbox_id: id });
  client?.close();
  await runtime?.stop();
  rmSync(workDir, { recursive: true, force: true });
});

/** Runs two failing pulls and a successful one, a container that runs and one that fails to start, with secrets wherever a kubelet may send them. */
async function createObjects(): Promise<TestObjects> {
  const image = await pull();
  const env = Object.entries({ PASSWORD: secrets.environment }).map(([key, value]) => ({ key, value: Buffer.from(value) }));
  const sandbox = {
    metadata: { name: 'seen', namespace: 'test', uid: 'seen', attempt: 0 },
    hostname: 'seen',
    log_directory: join(workDir, 'logs'),
    linux: {},
  };
  const { pod_sandbox_id: sandboxId } = await client.call<{ pod_sandbox_id: string }>('RunPodSandbox', { config: sandbox });
  const create = async (name: string, command: readonly string[]) => {
    const config = { metadata: { name, attempt: 0 }, image: { image }, command, envs: env, log_path: `${name}.log`, linux: {} };
    const request = { pod_sandbox_id: sandboxId, config, sandbox_config: sandbox };
    return (await client.call<{ container_id: string }>('CreateContainer', request)).container_id;
  };
  const containerId = await create('main', ['sleep', '1000']);
  await client.call('StartContainer', { container_id: containerId });
  await client.call('ExecSync', { container_id: containerId, cmd: ['sh', '-c', 'echo $PASSWORD', secrets.argument], timeout: '10' });
  await assert.rejects(client.call('ExecSync', { container_id: containerId, cmd: ['/no/such/program', secrets.argument], timeout: '10' }));
  const misnamed = {
    metadata: { name: 'misnamed', attempt: 0 },
    image: { image },
    envs: [{ key: `PASSWORD=${secrets.variable}`, value: Buffer.from('') }],
  };
  await assert.rejects(
    client.call('CreateContainer', { pod_sandbox_id: sandboxId, config: misnamed, sandbox_config: sandbox }),
    /starts with "PASSWORD"/,
  );
  const failedId = await create('broken', ['/no/such/program']);
  await assert.rejects(client.call('StartContainer', { container_id: failedId }), /no such file/);
  await client.call('ListContainers', {});
  await client.call('ContainerStatus', { container_id: containerId, verbose: true });
  return { sandboxId, containerId, failedId };
}

async function pull(): Promise<string> {
  const registry = await serveRegistry(new Map([['berth/sample:1', await buildSampleImage()]]));
  const strict = await startFakeRegistry();
  strict.misbehave = ({ headers }, response) => {
    // A careless registry that repeats the credentials in its error.
    const decoded = Buffer.from(headers.authorization?.split(' ')[1] ?? '', 'base64').toString();
    const said = `refused ${headers.authorization} ${decoded}`;
    return sendError(response, 401, 'UNAUTHORIZED', said, { 'www-authenticate': 'Basic realm="strict"' });
  };
  try {
    const image = `${registry.host}/berth/sample:1`;
    const refused = (auth: object) => assert.rejects(client.call('PullImage', { image: { image: `${strict.host}/team/app:1` }, auth }));
    await refused({ username: 'kim', password: secrets.password });
    await refused({ registry_token: secrets.token });
    await client.call('PullImage', { image: { image }, auth: { username: 'kim', password: secrets.password } });
    return image;
  } finally {
    registry.stop();
    await strict.close();
  }
}

async function scrape(): Promise<string> {
  const response = await fetch(scrapeUrl);
  assert.equal(response.status, 200);
  return await response.text();
}

/** Without cAdvisor's series of pods. */
const ownMetrics = (text: string) => text.replaceAll(/^(?:# \w+ )?container_.*\n/gm, '');

/** Returns the values of a metric's series by their labels as text. */
function seriesOf(text: string, name: string): Record<string, number> {
  const lines = text.split('\n').filter((line) => line.startsWith(`${name}{`) || line.startsWith(`${name} `));
  return Object.fromEntries(lines.map((line) => [/\{(.*)\}/.exec(line)?.[1] ?? '', Number(line.slice(line.lastIndexOf(' ')))]));
}

function promtool(args: readonly string[], input?: string) {
  const { status, stdout, stderr } = spawnSync('promtool', args, { cwd: deployDir, encoding: 'utf8', ...(input === undefined ? {} : { input }) });
  return { status, output: `${stdout ?? ''}${stderr ?? ''}` };
}

function assertNoSecret(text: string): void {
  for (const [kind, secret] of Object.entries(secrets)) assert.ok(!text.includes(secret), `the text contains the ${kind}`);
}

test('/metrics counts calls, pulls, plugin calls, states and steps', async () => {
  const text = await scrape();
  const calls = seriesOf(text, 'berth_cri_calls_total');
  assert.equal(calls['method="RunPodSandbox",code="OK"'], 1);
  assert.equal(calls['method="CreateContainer",code="OK"'], 2);
  assert.equal(calls['method="CreateContainer",code="INVALID_ARGUMENT"'], 1);
  assert.equal(calls['method="StartContainer",code="OK"'], 1);
  assert.equal(calls['method="StartContainer",code="FAILED_PRECONDITION"'], 1);
  assert.equal(seriesOf(text, 'berth_cri_call_duration_seconds_count')['method="CreateContainer"'], 3);
  assert.deepEqual(seriesOf(text, 'berth_image_pulls_total'), { 'result="UNAUTHENTICATED"': 2, 'result="OK"': 1 });
  assert.equal(seriesOf(text, 'berth_image_pull_layers_total')[''], 1);
  assert.ok((seriesOf(text, 'berth_image_pull_bytes_total')[''] ?? 0) > 100_000);
  assert.equal(seriesOf(text, 'berth_cni_calls_total')['plugin="bridge",command="ADD",result="OK"'], 1);
  assert.equal(seriesOf(text, 'berth_sandboxes')['state="ready"'], 1);
  assert.equal(seriesOf(text, 'berth_containers')['state="running"'], 1);
  assert.equal(seriesOf(text, 'berth_containers')['state="exited"'], 1);
  assert.equal(seriesOf(text, 'berth_monitors')[''], 1);
  const monitorBytes = seriesOf(text, 'berth_monitors_memory_bytes')[''] ?? 0;
  assert.ok(monitorBytes > 0 && monitorBytes < 1024 ** 2, `${monitorBytes} bytes`);
  assert.equal(seriesOf(text, 'berth_cri_calls_running')['method="RunPodSandbox"'], 0);
  const ends = seriesOf(text, 'berth_container_ends_total');
  assert.deepEqual(ends, { 'reason="Completed"': 0, 'reason="Error"': 0, 'reason="OOMKilled"': 0, 'reason="Unknown"': 0 });
  for (const directory of ['root', 'state']) {
    const [free = -1, total = 0] = ['avail', 'size'].map((word) => seriesOf(text, `berth_filesystem_${word}_bytes`)[`directory="${directory}"`]);
    assert.ok(free >= 0 && free <= total && total > 0, `${directory}: ${free} of ${total} bytes`);
  }
  assert.equal(seriesOf(text, 'berth_queued_operations')[''], 0);
  assert.equal(seriesOf(text, 'berth_images')[''], 1);
  assert.ok((seriesOf(text, 'berth_store_bytes')[''] ?? 0) > 100_000);
  assert.ok((seriesOf(text, 'berth_event_loop_lag_seconds_count')[''] ?? 0) > 0);
  const steps = seriesOf(text, 'berth_pod_start_step_duration_seconds_count');
  assert.deepEqual(Object.fromEntries(Object.entries(steps).map(([labels, count]) => [/"(.*)"/.exec(labels)?.[1], count])), {
    'sandbox.files': 1,
    'sandbox.namespaces': 1,
    'sandbox.reaper': 1,
    'sandbox.network': 1,
    'create.root': 2,
    'create.cgroup': 2,
    'create.plan': 2,
    'start.root': 2,
    'start.plan': 2,
    'start.monitor': 2,
  });
});

test('/metrics follows the naming rules and contains no ids, images or secrets', async () => {
  const text = ownMetrics(await scrape());
  assert.deepEqual(promtool(['check', 'metrics'], text), { status: 0, output: '' });
  assertNoSecret(text);
  for (const word of [objects.sandboxId, objects.containerId, 'berth/sample', 'seen']) assert.ok(!text.includes(word), `${word} is in a series`);
});

test('/metrics counts a session as open until its client disconnects', async () => {
  const sessions = async () => seriesOf(await scrape(), 'berth_streaming_sessions')['kind="portforward"'];
  const { url } = await client.call<{ url: string }>('PortForward', { pod_sandbox_id: objects.sandboxId, port: [80] });
  assert.equal(await sessions(), 0);
  const headers = { connection: 'upgrade', upgrade: 'SPDY/3.1', 'x-stream-protocol-version': 'portforward.k8s.io' };
  const asked = request(url, { method: 'POST', headers }).end();
  const [, socket] = (await once(asked, 'upgrade')) as [unknown, Socket];
  assert.equal(await sessions(), 1);
  socket.destroy();
  for (let i = 0; i < 100 && (await sessions()) !== 0; i += 1) await sleep(50);
  assert.equal(await sessions(), 0);
  assert.equal(seriesOf(await scrape(), 'berth_streaming_sessions_total')['kind="portforward"'], 1);
});

test('only GET /metrics is served', async () => {
  for (const path of ['/', '/metrics/', '/debug']) assert.equal((await fetch(`http://${metricsAddress}${path}`)).status, 404);
  assert.equal((await fetch(scrapeUrl, { method: 'POST', body: 'x' })).status, 405);
});

test('repeated scrapes return the same series', async () => {
  const names = (text: string) => text.split('\n').map((line) => line.slice(0, line.lastIndexOf(' ')));
  const first = names(await scrape());
  assert.deepEqual(
    names(await scrape()).filter((series) => !first.includes(series)),
    [],
  );
});

test('all queries of the dashboard and the alerts are valid and use existing metrics', async () => {
  const text = await scrape();
  const known = new Set([...text.matchAll(/^([a-z_]+)(?:\{| )/gm)].map(([, name]) => name ?? ''));
  const queries = dashboardPanels().flatMap(({ targets = [] }) => targets.map(({ expr }) => expr));
  const alerts = [...readFileSync(join(deployDir, 'alerts.yml'), 'utf8').matchAll(/expr: (?:\|\n((?: {10}.*\n)+)|(.*))/g)].map(
    ([, block, line]) => block ?? line ?? '',
  );
  assert.ok(queries.length > 20 && alerts.length > 5);
  for (const query of [...queries, ...alerts]) {
    const names = query.match(/\b(?:berth|process|nodejs|container)_\w+/g) ?? ['up'];
    for (const name of names) assert.ok(known.has(name) || name === 'up', `${name} is not in /metrics: ${query}`);
  }
  const filled = queries.map((query) => substituteVariables(query));
  const rules = filled.map((query, i) => `      - { record: 'query:${i}', expr: ${JSON.stringify(query)} }`).join('\n');
  const file = join(workDir, 'queries.yml');
  writeFileSync(file, `groups:\n  - name: dashboard\n    rules:\n${rules}\n`);
  const { status, output } = promtool(['check', 'rules', file]);
  assert.equal(status, 0, output);
});

test('Prometheus with the scrape configuration of deploy/ returns data for all queries of the dashboard', async () => {
  const { query, stop } = startPrometheus({ workDir, target: metricsAddress });
  try {
    // A rate needs two scrapes.
    for (let i = 0; i < 300 && (await query('count_over_time(up[1m]) > 2')).length === 0; i += 1) await sleep(100);
    assert.equal((await query('up{job="berth"} == 1')).length, 1);
    for (const { title, targets = [] } of dashboardPanels()) {
      for (const { expr } of targets)
        assert.ok(/Failed|Checkpoints/.test(title) || (await query(substituteVariables(expr))).length > 0, `${title}: ${expr}`);
    }
    assert.deepEqual(await query('ALERTS{alertstate="firing"}'), []);
  } finally {
    await stop();
  }
});

test('the scrape configuration is valid, and the alert tests pass', () => {
  for (const args of [
    ['check', 'config', 'prometheus.yml'],
    ['test', 'rules', 'alerts.test.yml'],
  ]) {
    const { status, output } = promtool(args);
    assert.equal(status, 0, output);
  }
});

test('the log has one line with ids for each change, and no secrets even at level trace', async () => {
  const { url } = await client.call<{ url: string }>('Exec', { container_id: objects.containerId, cmd: ['echo', secrets.argument], stdout: true });
  const text = readFileSync(runtime.logFile, 'utf8');
  assertNoSecret(text);
  assert.ok(!text.includes(url.split('/').at(-1) ?? ''), 'the log contains the token of a session');
  const lines = text
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as { level: number; msg: string; rpc?: string; id?: string; code?: string });
  const calls = lines.filter(({ msg }) => msg.startsWith('call'));
  const of = (rpc: string) => calls.filter((line) => line.rpc === rpc).map(({ id, code, level }) => ({ id, code, level }));
  const [info, warn, debug] = [30, 40, 20];
  assert.deepEqual(of('RunPodSandbox'), [{ id: objects.sandboxId, code: 'OK', level: info }]);
  assert.deepEqual(of('StartContainer'), [
    { id: objects.containerId, code: 'OK', level: info },
    { id: objects.failedId, code: 'FAILED_PRECONDITION', level: warn },
  ]);
  assert.deepEqual([...new Set(['ListContainers', 'ContainerStatus', 'ExecSync'].flatMap(of).map(({ level }) => level))], [debug]);
});

test('SIGHUP reloads the log level; an invalid configuration changes nothing', async () => {
  const settings = readFileSync(runtime.configFile, 'utf8');
  const linesOf = async (method: string) => {
    const before = readFileSync(runtime.logFile, 'utf8').length;
    await client.call(method, {});
    return readFileSync(runtime.logFile, 'utf8').slice(before);
  };
  const hangUp = async (text: string, sign: string) => {
    writeFileSync(runtime.configFile, text);
    process.kill(runtime.pid, 'SIGHUP');
    for (let i = 0; i < 100 && !readFileSync(runtime.logFile, 'utf8').includes(sign); i += 1) await sleep(50);
    assert.ok(readFileSync(runtime.logFile, 'utf8').includes(sign), sign);
  };
  assert.match(await linesOf('ListContainers'), /ListContainers/);
  await hangUp(settings.replace('"trace"', '"info"'), 'log level reloaded');
  assert.equal(await linesOf('ListContainers'), '');
  await hangUp('log_level = "loud"', 'failed to reload the log level');
  assert.equal(await linesOf('ListContainers'), '');
  assert.match(await linesOf('UpdateRuntimeConfig'), /UpdateRuntimeConfig/);
});

test('the verbose status contains the duration of each start step', async () => {
  const infoOf = async (method: string, request: Message) => (await client.call<{ info: Record<string, string> }>(method, request)).info;
  const sandbox = await infoOf('PodSandboxStatus', { pod_sandbox_id: objects.sandboxId, verbose: true });
  const container = await infoOf('ContainerStatus', { container_id: objects.containerId, verbose: true });
  const timeline = { ...JSON.parse(sandbox['timeline'] ?? '{}'), ...JSON.parse(container['timeline'] ?? '{}') } as Record<string, number>;
  const steps = ['files', 'namespaces', 'reaper', 'network'].map((step) => `sandbox.${step}`);
  assert.deepEqual(Object.keys(timeline), [...steps, 'create.root', 'create.cgroup', 'create.plan', 'start.root', 'start.plan', 'start.monitor']);
  assert.ok(Object.values(timeline).every((ms) => ms > 0 && ms < 60_000));
  assert.deepEqual(await infoOf('ContainerStatus', { container_id: objects.containerId }), {});
});

function run(...words: readonly string[]) {
  const { status, stdout, stderr } = spawnSync(berth, words, { encoding: 'utf8' });
  return { status, stdout, stderr };
}

const socketFlag = () => `--socket=${runtime.endpoint.replace('unix://', '')}`;

test('berth explain prints timeline and plan of a container, with names of environment variables but no values', () => {
  const { status, stdout, stderr } = run('explain', objects.containerId.slice(0, 12), socketFlag());
  assert.equal(status, 0, stderr);
  assert.match(stdout, new RegExp(`^container ${objects.containerId} \\(main, attempt 0\\): running\n`));
  assert.match(stdout, /\n {2}start\.monitor +\d+\.\d{3}\n/);
  assert.match(stdout, /\n +[\d.]+ +child pivot_root/);
  assert.match(stdout, /\n +process argv=\["sleep","1000"\] env=\[.*"PASSWORD".*\]\n/);
  assertNoSecret(stdout);
});

test('berth explain shows the plan and the error of a container that failed to start', () => {
  const { stdout } = run('explain', objects.failedId, socketFlag());
  assert.match(stdout, /\nmessage +.*no such file/);
  assert.match(stdout, /\n {2}start\.monitor +\d/);
  assert.match(stdout, /\n +[\d.]+ unfinished child execve/);
});

test('berth explain shows a duration for each operation', () => {
  const { stdout } = run('explain', objects.containerId, socketFlag());
  const operations = stdout.split('\n').filter((line) => / (parent|clone|child) /.test(line));
  assert.ok(operations.length > 100);
  assert.deepEqual(
    operations.filter((line) => !/^ +[\d.]+ (E[A-Z]+|skipped|unfinished)? *(parent|clone|child) /.test(line)),
    [],
  );
});

test('berth top prints the usage of pods and containers once if the output is not a terminal', () => {
  const { status, stdout } = run('top', '--sort', 'name', socketFlag());
  assert.equal(status, 0);
  const [heading, pod = '', container = '', ...rest] = stdout.trimEnd().split('\n');
  assert.match(heading ?? '', /^\*POD +CPU\(cores\) MEMORY\(bytes\) +PIDS RX\(B\/s\) TX\(B\/s\) RESTARTS +AGE$/);
  assert.match(pod, /^test\/seen +[\d.]+m +[\d.]+[KM]i +\d+ +\d+ +\d+ +0 +\d+s$/);
  assert.match(container, /^ {2}main +[\d.]+m +[\d.]+[KM]i +0 +\d+s$/);
  assert.deepEqual(rest, []);
  assert.match(run('top', '--socket=/run/nobody.sock').stderr, /no daemon answers/);
});

test('berth explain fails for an unknown container and without a daemon', () => {
  const unknown = run('explain', 'ffff', socketFlag());
  assert.deepEqual([unknown.status, unknown.stderr], [1, 'berth: container ffff not found\n']);
  const silent = run('explain', 'ffff', '--socket=/run/nobody.sock');
  assert.deepEqual([silent.status, silent.stderr], [1, 'berth: no daemon answers on /run/nobody.sock\n']);
});

test('berth doctor reports three problems with their fixes and leaves nothing behind', () => {
  const [root, confDir] = [join(workDir, 'doctor'), join(workDir, 'no-networks')];
  mkdirSync(confDir);
  writeFileSync('/proc/sys/net/ipv4/ip_forward', '0');
  writeFileSync('/proc/sys/net/ipv6/conf/all/forwarding', '0');
  const flags = [`--root=${root}`, `--state=${join(root, 'state')}`, `--cni-conf-dir=${confDir}`];
  const { status, stdout } = spawnSync('sh', ['-c', 'ulimit -n 1024; exec "$0" "$@"', berth, 'doctor', ...flags], { encoding: 'utf8' });
  assert.equal(status, 1, stdout);
  const broken = [...stdout.matchAll(/^broken +(.*)\n +fix: (.*)$/gm)].map(([, what, fix]) => `${what} -> ${fix}`);
  assert.equal(broken.length, 3, stdout);
  assert.match(broken[0] ?? '', /IP forwarding is disabled: .* -> sysctl -w net\.ipv4\.ip_forward=1/);
  assert.match(broken[1] ?? '', /pod network: .*no-networks.* -> .*\.conflist/);
  assert.match(broken[2] ?? '', /open files is only 1024 -> set LimitNOFILE=/);
  assert.ok(!readdirSync(workDir).includes('doctor'));
});

test('berth doctor --json reports a missing plugin and a root that is too small', () => {
  const [root, confDir] = [join(workDir, 'small'), join(workDir, 'networks')];
  for (const directory of [root, confDir]) mkdirSync(directory);
  const plugins = [{ type: 'bridge' }, { type: 'no-such-plugin' }];
  writeFileSync(join(confDir, '10-pods.conflist'), JSON.stringify({ cniVersion: '1.0.0', name: 'pods', plugins }));
  writeFileSync('/proc/sys/net/ipv4/ip_forward', '1');
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=64m', 'tmpfs', root]);
  try {
    const { status, stdout } = run('doctor', '--json', `--root=${root}`, `--state=${workDir}`, `--cni-conf-dir=${confDir}`);
    const findings = JSON.parse(stdout) as { check: string; verdict: string; what: string; fix?: string }[];
    const broken = findings.flatMap(({ check, verdict, what, fix }) => (verdict === 'broken' ? [`${check}: ${what} -> ${fix}`] : []));
    assert.deepEqual([status, broken.length], [1, 2], stdout);
    assert.match(broken[0] ?? '', /^network: .*no-such-plugin.* -> .*its plugins into/);
    assert.match(broken[1] ?? '', /^disk: root: .*small has only \d+ MiB free.* -> .*larger file system/);
  } finally {
    execFileSync('umount', [root]);
  }
});

test('/metrics distinguishes a container whose monitor was killed from exited ones', async () => {
  const { info } = await client.call<{ info: Record<string, string> }>('ContainerStatus', { container_id: objects.containerId, verbose: true });
  const { monitorPid } = JSON.parse(info['info'] ?? '{}') as { monitorPid: number };
  process.kill(monitorPid, 'SIGKILL');
  const lost = async () => seriesOf(await scrape(), 'berth_container_ends_total')['reason="Unknown"'];
  for (let i = 0; i < 100 && (await lost()) === 0; i += 1) await sleep(50);
  const text = await scrape();
  assert.deepEqual([await lost(), seriesOf(text, 'berth_monitors')[''], seriesOf(text, 'berth_monitors_memory_bytes')['']], [1, 0, 0]);
});
