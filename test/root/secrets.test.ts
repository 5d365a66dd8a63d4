/**
 * Sends marked secrets through every field and variable that may contain one, lets calls succeed and fail, and looks for the marks in everything that the
 * daemon writes, prints or sends, and in the environment of everything that it starts.
 */
import assert from 'node:assert/strict';
import { appendFileSync, chmodSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { test } from 'node:test';
import type { CriClient, Message } from '../../scripts/cri-client.ts';
import { buildSampleImage } from '../../scripts/sample-image.ts';
import { enterIsolation } from '../support/isolation.ts';
import { startOtlpReceiver } from '../support/otlp-receiver.ts';
import { createWorkspace, isBuilt, runBerth, startDaemon, type Workspace } from './support/daemon.ts';
import { pullSample, runContainer, runPod } from './support/pods.ts';

const skip = !isBuilt && 'berth is not built';
if (!skip) enterIsolation();

const mark = 'MARK9f3c';
const marked = (name: string): string => `${mark}-${name}`;
/** Marks in other forms: base64 at each of the three alignments, and percent-encoded. */
const forms = [
  mark,
  ...[0, 1, 2].map((at) =>
    Buffer.from(' '.repeat(at) + mark)
      .toString('base64')
      .slice(at === 0 ? 0 : at + 1, -4),
  ),
];
const metricsPort = 19433;

const leaksIn = (text: string): string[] => forms.flatMap((form) => [...text.matchAll(new RegExp(`.{0,80}${form}.{0,40}`, 'g'))].map(String));

/** A registry that wants a token, and redirects blobs to signed URLs, where they are refused with a text that repeats the URL. */
async function startRegistry(): Promise<{ readonly host: string; readonly stop: () => void; readonly seen: string[] }> {
  const image = await buildSampleImage();
  const seen: string[] = [];
  const server = createServer((request: IncomingMessage, response: ServerResponse) => {
    const { url = '', headers } = request;
    const origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    seen.push(`${url} ${headers.authorization ?? ''}`);
    if (url.startsWith('/token')) return void response.end(JSON.stringify({ token: marked('token') }));
    if (url.startsWith('/signed')) return void response.writeHead(403).end(`<Error>SignatureDoesNotMatch: ${url}</Error>`);
    if (headers.authorization !== `Bearer ${marked('token')}`) {
      response.writeHead(401, { 'www-authenticate': `Bearer realm="${origin}/token?key=${marked('realm')}",service="registry"` });
      return void response.end('{"errors":[{"code":"UNAUTHORIZED"}]}');
    }
    if (url.includes('/blobs/')) return void response.writeHead(307, { location: `${origin}/signed?X-Signature=${marked('signature')}` }).end();
    response.writeHead(200, { 'content-type': image.mediaType, 'docker-content-digest': image.digest, 'content-length': image.data.length });
    response.end(request.method === 'HEAD' ? undefined : image.data);
  });
  await new Promise<void>((settle) => server.listen(0, '127.0.0.1', settle));
  const stop = () => {
    server.close();
    server.closeAllConnections();
  };
  return { host: `127.0.0.1:${(server.address() as AddressInfo).port}`, stop, seen };
}

/** A CNI plugin and a hook that save the environment with which they were started. */
function configure(workspace: Workspace, tracingUrl: string): { readonly environments: string } {
  const { directory } = workspace;
  const environments = join(directory, 'environments');
  for (const name of ['environments', 'bin', 'cdi']) mkdirSync(join(directory, name));
  const script = (path: string, text: string) => {
    writeFileSync(path, `#!/bin/sh\n${text}\n`);
    chmodSync(path, 0o755);
  };
  const save = (name: string) => `cat /proc/$$/environ > ${environments}/${name}`;
  const result = '{"cniVersion":"1.0.0","supportedVersions":["1.0.0"],"ips":[{"address":"10.99.0.2/24"}]}';
  script(join(directory, 'bin/saver'), `${save('plugin-$CNI_COMMAND')}; echo '${result}'`);
  script(join(directory, 'hook'), save('hook'));
  const list = { cniVersion: '1.0.0', name: 'saved', plugins: [{ type: 'saver' }] };
  writeFileSync(join(directory, 'net.d/10-test.conflist'), JSON.stringify(list));
  const hooks = [{ hookName: 'createRuntime', path: join(directory, 'hook'), args: ['hook'], env: ['GIVEN=1'] }];
  const cdi = { cdiVersion: '0.6.0', kind: 'v.com/dev', devices: [{ name: '0', containerEdits: { hooks } }] };
  writeFileSync(join(directory, 'cdi/v.json'), JSON.stringify(cdi));
  const settings = {
    cni_bin_dirs: [join(directory, 'bin')],
    cdi_spec_dirs: [join(directory, 'cdi')],
    tracing_endpoint: tracingUrl.replace('http://', `http://user:${marked('endpoint')}@`),
    tracing_sampling_rate_per_million: 1_000_000,
    registry_dir: join(directory, 'registries'),
  };
  appendFileSync(
    join(directory, 'config.toml'),
    Object.entries(settings)
      .map(([key, value]) => `${key} = ${JSON.stringify(value)}\n`)
      .join(''),
  );
  return { environments };
}

/** Variables of the daemon that programs must not inherit. */
const daemonEnvironment = {
  MARKED: marked('variable'),
  HTTPS_PROXY: `http://user:${marked('proxy')}@127.0.0.1:1`,
  HTTP_PROXY: `http://user:${marked('proxy')}@127.0.0.1:1`,
  NO_PROXY: '127.0.0.1',
};

const auth = {
  username: marked('username'),
  password: marked('password'),
  auth: Buffer.from(`${marked('username')}:${marked('password')}`).toString('base64'),
  identity_token: marked('identity'),
  registry_token: marked('registry-token'),
};

/** Makes calls with secrets, successful and failing ones. @returns the errors. */
async function makeCalls(
  client: CriClient,
  registryHost: string,
  workspace: Workspace,
): Promise<{ readonly errors: string[]; readonly container: string }> {
  const errors: string[] = [];
  const failing = async (method: string, request: Message) => {
    errors.push(
      await client.call(method, request, 20_000).then(
        (answer) => assert.fail(`${method}: ${JSON.stringify(answer)}`),
        (error: Error) => error.message,
      ),
    );
  };
  const pull = (image: string, fields: Message) => failing('PullImage', { image: { image }, auth: fields });
  const { username, password } = auth;
  await pull(`${registryHost}/berth/sample:1`, { username, password });
  await pull(`${registryHost}/berth/sample:1`, { auth: auth.auth });
  await pull(`${registryHost}/berth/sample:1`, { identity_token: auth.identity_token });
  await pull(`${registryHost}/berth/sample:1`, { registry_token: auth.registry_token });
  await pull('proxied.example/berth/sample:1', auth);
  await pull(`https://${marked('user')}:${marked('password')}@proxied.example/x:1`, auth);
  const image = await pullSample(client);
  const pod = await runPod(client, 'secrets', workspace.directory);
  const envs = [{ key: 'A', value: Buffer.from(marked('env')) }];
  const container = await runContainer(client, pod, image, 'c', `sleep 1000 # ${marked('command')}`, {
    envs,
    CDI_devices: [{ name: 'v.com/dev=0' }],
  });
  await client.call('ExecSync', { container_id: container, cmd: ['echo', marked('exec')], timeout: '10' });
  await failing('ExecSync', { container_id: container, cmd: ['/nowhere', marked('exec')], timeout: '10' });
  await client.call('Exec', { container_id: container, cmd: ['echo', marked('exec')], stdout: true });
  const create = (changes: Message) => {
    const config = { metadata: { name: 'd', attempt: 0 }, image: { image }, command: ['true'], log_path: 'd.log', linux: {}, ...changes };
    return { pod_sandbox_id: pod.id, config, sandbox_config: pod.config };
  };
  await failing('CreateContainer', create({ envs: [{ key: 'A', value: Buffer.from(`${marked('env')}\0`) }] }));
  await failing('CreateContainer', create({ envs: [{ key: `A=${marked('env')}`, value: Buffer.from('') }] }));
  await failing('CreateContainer', create({ args: [`${marked('argument')}\0`] }));
  const { container_id } = await client.call<{ container_id: string }>(
    'CreateContainer',
    create({ envs, command: ['/nowhere'], args: [marked('argument')] }),
  );
  await failing('StartContainer', { container_id });
  return { errors, container };
}

/** Without pinned namespaces, which are mounts of files that cannot be read. */
const filesBelow = (directory: string): string[] =>
  readdirSync(directory, { withFileTypes: true }).flatMap((entry) => {
    const path = join(directory, entry.name);
    if (entry.isDirectory()) return filesBelow(path);
    return entry.isFile() && statSync(path).dev === statSync(directory).dev ? [path] : [];
  });

test('no secret is in the log, an error, a span, a metric, a command’s output, a file that others can read, or a program’s environment', {
  skip,
}, async () => {
  const workspace = createWorkspace();
  const receiver = await startOtlpReceiver();
  const registry = await startRegistry();
  const { environments } = configure(workspace, receiver.url);
  Object.assign(process.env, daemonEnvironment);
  const daemon = await startDaemon(workspace, { 'log-level': 'trace', metrics: `127.0.0.1:${metricsPort}` });
  for (const name of Object.keys(daemonEnvironment)) delete process.env[name];
  try {
    const { errors, container } = await makeCalls(daemon.client, registry.host, workspace);
    assert.ok(
      registry.seen.some((line) => line.includes(marked('signature'))),
      'the signed URL was used',
    );
    assert.ok(errors.length >= 10);
    assert.deepEqual(errors.flatMap(leaksIn), [], 'errors');
    for (const args of [['explain', container], ['top', '--once'], ['image', 'ls'], ['doctor']]) {
      const { output } = await runBerth([...args, '--socket', workspace.socket, '--config', join(workspace.directory, 'config.toml')]);
      // `explain` shows the plan, with the command, as /proc/PID/cmdline does.
      assert.deepEqual(leaksIn(output.replaceAll(marked('command'), '')), [], args.join(' '));
    }
    const metrics = await (await fetch(`http://127.0.0.1:${metricsPort}/metrics`)).text();
    assert.ok(metrics.includes('berth_') && leaksIn(metrics).length === 0, 'metrics');

    for (const path of [...filesBelow(workspace.state), ...filesBelow(workspace.root)].filter((file) => !file.includes('/layers/'))) {
      if (leaksIn(readFileSync(path, 'latin1')).length === 0) continue;
      // The record has the command and the environment, with which the container is started, also after a restart of the daemon; the plan the command.
      assert.match(path, /\/containers\/[0-9a-f]+\/(?:record\.json|plan[^/]*)$/);
      if (!path.endsWith('record.json')) assert.ok(!readFileSync(path, 'utf8').includes(marked('env')), path);
      assert.equal(statSync(path).mode & 0o777, 0o600, path);
      assert.doesNotMatch(readFileSync(path, 'utf8'), new RegExp(`${mark}-(?:exec|password|username|token|identity|variable|proxy)`));
    }
    assertEnvironments(environments, daemon.pid);
  } finally {
    await daemon.client.call('ListPodSandbox', {}).then(async ({ items }) => {
      for (const { id } of items as { id: string }[])
        for (const method of ['StopPodSandbox', 'RemovePodSandbox']) await daemon.client.call(method, { pod_sandbox_id: id });
    });
    await daemon.end('SIGTERM');
    registry.stop();
    receiver.stop();
  }
  assert.ok(receiver.spans.length > 20);
  assert.deepEqual(leaksIn(Buffer.concat(receiver.bodies).toString('latin1')), [], 'spans');
  assert.deepEqual(leaksIn(readFileSync(workspace.logFile, 'latin1')), [], 'log');
  await workspace.remove();
});

/** Asserts that programs get only what they need, and no process has a variable of the daemon. */
function assertEnvironments(directory: string, daemonPid: number): void {
  const saved = (name: string) =>
    readFileSync(join(directory, name), 'utf8')
      .split('\0')
      .filter((each) => each !== '')
      .sort();
  const names = (name: string) => saved(name).map((each) => each.split('=')[0]);
  assert.deepEqual(names('plugin-ADD'), ['CNI_ARGS', 'CNI_COMMAND', 'CNI_CONTAINERID', 'CNI_IFNAME', 'CNI_NETNS', 'CNI_PATH', 'PATH']);
  assert.deepEqual(saved('hook'), ['GIVEN=1']);
  const others = readdirSync('/proc').filter((name) => /^\d+$/.test(name) && ![process.pid, daemonPid, 1].includes(Number(name)));
  assert.ok(others.length >= 2, 'the monitor and the container');
  for (const pid of others) {
    const variables = readFileSync(`/proc/${pid}/environ`, 'latin1').split('\0');
    assert.deepEqual(
      variables.filter((each) => leaksIn(each).length > 0 && !each.startsWith('A=')),
      [],
      readFileSync(`/proc/${pid}/cmdline`, 'latin1'),
    );
  }
}
