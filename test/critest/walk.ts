/**
 * Runs a pod from start to removal with the published client crictl, as an operator does, and checks each step.
 *
 *   npm run walk -- [--runtime berth|containerd]
 *
 * Prints the commands and their output. At the end it checks that the pods leave no interfaces, mounts, cgroups or processes behind.
 */
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { cgroupDirectories } from '../support/cgroups.ts';
import { enterIsolation } from '../support/isolation.ts';
import { type Runtime, type RuntimeName, startRuntime } from '../support/runtime.ts';
import { buildDir, preparePeer, prepareTools, registryUrl, serveImages } from './prepare.ts';

type Crictl = (...args: readonly string[]) => string;
type Step = { readonly name: string; readonly run: (walk: Walk) => void | Promise<void> };
type Walk = { readonly crictl: Crictl; readonly workDir: string; readonly ids: Map<string, string>; readonly mountsBefore: readonly string[] };

const image = '127.0.0.1:5000/e2e-test-images/busybox:1.29-2';
const hostPort = 18080;

async function main(toolsDir: string, runtimeName: RuntimeName): Promise<number> {
  const stopRegistry = await serveImages();
  const workDir = mkdtempSync(join(buildDir, 'walk-'));
  let runtime: Runtime | undefined;
  try {
    runtime = await startRuntime(runtimeName, { workDir, mirrorUrl: registryUrl });
    return await walkThrough({ crictl: crictlFor(toolsDir, runtime.endpoint), workDir, ids: new Map(), mountsBefore: mountPoints() });
  } finally {
    await runtime?.stop();
    if (runtime) writeFileSync(join(buildDir, `walk-${runtimeName}.log`), readFileSync(runtime.logFile));
    stopRegistry();
    rmSync(workDir, { recursive: true, force: true });
  }
}

/** Runs all steps. Stops at the first failure, because later steps depend on earlier ones. */
async function walkThrough(walk: Walk): Promise<number> {
  const steps: readonly Step[] = [...imageSteps, ...podSteps, ...networkSteps, ...removalSteps];
  for (const [index, step] of steps.entries()) {
    say(`# ${step.name}`);
    try {
      await step.run(walk);
    } catch (error) {
      say(`FAILED: ${step.name}: ${error instanceof Error ? error.message : error}`);
      say(`walk: ${index} passed, 1 failed, ${steps.length - index - 1} skipped`);
      return 1;
    }
  }
  say(`walk: ${steps.length} passed, 0 failed, 0 skipped`);
  return 0;
}

function crictlFor(toolsDir: string, endpoint: string): Crictl {
  return (...args) => {
    say(`$ crictl ${args.join(' ')}`);
    const global = ['--runtime-endpoint', endpoint, '--image-endpoint', endpoint, '--timeout', '60s'];
    const result = spawnSync(join(toolsDir, 'crictl'), [...global, ...args], { encoding: 'utf8', maxBuffer: 16 << 20 });
    const output = result.stdout.trimEnd();
    say(output.length > 1500 ? `${output.slice(0, 1500)}\n[...]` : output);
    if (result.status !== 0) throw new Error(`crictl ${args[0]} exited with code ${result.status}: ${result.stderr.trim()}`);
    return output;
  };
}

const imageSteps: readonly Step[] = [
  { name: 'version prints the API version', run: ({ crictl }) => assert.match(crictl('version'), /RuntimeApiVersion:\s+v1/) },
  {
    name: 'info reports that runtime and network are ready',
    run: async ({ crictl }) => {
      await eventually(() => {
        const { status } = JSON.parse(crictl('info')) as { status: { conditions: { type: string; status: boolean }[] } };
        const ready = status.conditions.filter((condition) => condition.status).map((condition) => condition.type);
        assert.ok(ready.includes('RuntimeReady') && ready.includes('NetworkReady'));
      });
    },
  },
  { name: 'pull fetches an image from the registry', run: ({ crictl }) => assert.match(crictl('pull', image), /up to date/) },
  { name: 'images lists the image', run: ({ crictl }) => assert.match(crictl('images'), /e2e-test-images\/busybox\s+1\.29-2/) },
  { name: 'inspecti shows the image', run: ({ crictl }) => assert.match(crictl('inspecti', image), /sha256:/) },
];

const podSteps: readonly Step[] = [
  { name: 'runp creates a pod', run: (walk) => runPod(walk, 'one') },
  { name: 'pods lists the pod as ready', run: ({ crictl }) => assert.match(crictl('pods'), /Ready\s+one/) },
  {
    name: "inspectp shows the pod's IP address",
    run: ({ crictl, ids }) => {
      const { status } = JSON.parse(crictl('inspectp', idOf(ids, 'one'))) as { status: { network: { ip: string } } };
      assert.match(status.network.ip, /^10\.89\./);
      ids.set('one.ip', status.network.ip);
    },
  },
  {
    name: 'create creates a container',
    run: (walk) =>
      createContainer(walk, 'one', [
        'sh',
        '-c',
        'echo to-stdout; echo to-stderr >&2; mkdir /w; echo hello >/w/index.html; exec httpd -f -p 8080 -h /w',
      ]),
  },
  { name: 'ps -a lists the container as created', run: ({ crictl }) => assert.match(crictl('ps', '-a'), /Created\s+one/) },
  { name: 'start starts the container', run: ({ crictl, ids }) => void crictl('start', idOf(ids, 'one.container')) },
  { name: 'ps lists the container as running', run: ({ crictl }) => assert.match(crictl('ps'), /Running\s+one/) },
  { name: 'exec -s returns the output', run: ({ crictl, ids }) => assert.equal(crictl('exec', '-s', idOf(ids, 'one.container'), 'hostname'), 'one') },
  {
    name: 'exec -s reports a nonzero exit code',
    run: ({ crictl, ids }) =>
      assert.throws(() => crictl('exec', '-s', idOf(ids, 'one.container'), 'sh', '-c', 'exit 7'), /exit(ed)? (code|status)?\s*7|7/),
  },
  {
    name: 'logs shows the output',
    run: ({ crictl, ids }) => eventually(() => assert.match(crictl('logs', '--tail', '10', idOf(ids, 'one.container')), /to-stdout/)),
  },
  { name: 'inspect shows the state', run: ({ crictl, ids }) => assert.match(crictl('inspect', idOf(ids, 'one.container')), /CONTAINER_RUNNING/) },
];

const networkSteps: readonly Step[] = [
  {
    name: 'a second pod can be started',
    run: (walk) => {
      runPod(walk, 'two');
      createContainer(walk, 'two', ['sleep', '3600']);
      walk.crictl('start', idOf(walk.ids, 'two.container'));
    },
  },
  {
    name: 'one pod reaches the other over the bridge',
    run: ({ crictl, ids }) =>
      eventually(() => {
        const url = `http://${idOf(ids, 'one.ip')}:8080/`;
        assert.equal(crictl('exec', '-s', idOf(ids, 'two.container'), 'wget', '-q', '-T', '5', '-O', '-', url), 'hello');
      }),
  },
  {
    name: 'the host port is reachable',
    run: async () => {
      // Use the address of the bridge: port mappings of loopback do not work in every configuration.
      const host = /inet (10\.89\.[0-9.]+)/.exec(execFileSync('ip', ['-4', 'addr', 'show', 'dev', 'berthtest0'], { encoding: 'utf8' }))?.[1] ?? '';
      const response = await fetch(`http://${host}:${hostPort}/`, { signal: AbortSignal.timeout(10_000) });
      assert.equal((await response.text()).trim(), 'hello');
      say(`GET http://${host}:${hostPort}/ -> hello`);
    },
  },
];

const removalSteps: readonly Step[] = [
  { name: 'stop stops the container', run: ({ crictl, ids }) => void crictl('stop', '--timeout', '1', idOf(ids, 'one.container')) },
  { name: 'ps -a lists the container as exited', run: ({ crictl }) => assert.match(crictl('ps', '-a'), /Exited\s+one/) },
  { name: 'rm removes the container', run: ({ crictl, ids }) => void crictl('rm', idOf(ids, 'one.container')) },
  {
    name: 'stopp and rmp remove the pods, including a running container',
    run: ({ crictl, ids }) => {
      for (const name of ['one', 'two']) {
        crictl('stopp', idOf(ids, name));
        crictl('rmp', idOf(ids, name));
      }
    },
  },
  { name: 'pods no longer lists the pods', run: ({ crictl }) => assert.doesNotMatch(crictl('pods'), /one|two/) },
  { name: 'rmi removes the image', run: ({ crictl }) => void crictl('rmi', image) },
  { name: 'images no longer lists the image', run: ({ crictl }) => assert.doesNotMatch(crictl('images'), /busybox/) },
  {
    name: 'the pods leave nothing behind',
    run: ({ mountsBefore }) =>
      eventually(() => {
        assert.deepEqual(interfaces(), ['berthtest0', 'lo']);
        assert.deepEqual(mountPoints(), mountsBefore);
        assert.deepEqual(
          runningCommands().filter((command) => /httpd -f -p 8080|sleep 3600|monitor/.test(command)),
          [],
        );
        assert.deepEqual(podCgroups(), []);
      }),
  },
];

function runPod({ crictl, workDir, ids }: Walk, name: string): void {
  const logDirectory = join(workDir, 'logs', name);
  mkdirSync(logDirectory, { recursive: true });
  const portMappings = name === 'one' ? [{ protocol: 0, container_port: 8080, host_port: hostPort }] : [];
  const metadata = { name, namespace: 'default', uid: `uid-of-${name}`, attempt: 0 };
  const config = { metadata, hostname: name, log_directory: logDirectory, port_mappings: portMappings, linux: {} };
  writeFileSync(join(workDir, `pod-${name}.json`), JSON.stringify(config));
  ids.set(name, crictl('runp', join(workDir, `pod-${name}.json`)));
}

function createContainer({ crictl, workDir, ids }: Walk, name: string, command: readonly string[]): void {
  const config = { metadata: { name, attempt: 0 }, image: { image }, command, log_path: 'container.log', linux: {} };
  const file = join(workDir, `container-${name}.json`);
  writeFileSync(file, JSON.stringify(config));
  ids.set(`${name}.container`, crictl('create', idOf(ids, name), file, join(workDir, `pod-${name}.json`)));
}

function idOf(ids: ReadonlyMap<string, string>, name: string): string {
  const id = ids.get(name);
  assert.ok(id, `no id for ${name}`);
  return id;
}

/** Repeats a check until it succeeds, with a timeout of 10 s. */
async function eventually(check: () => void): Promise<void> {
  for (let attempt = 0; ; attempt += 1) {
    try {
      return check();
    } catch (error) {
      if (attempt >= 20) throw error;
      await sleep(500);
    }
  }
}

function mountPoints(): string[] {
  const lines = readFileSync('/proc/self/mountinfo', 'utf8').trimEnd().split('\n');
  return lines.map((line) => line.split(' ')[4] ?? '').sort();
}

/** Returns the network interfaces without those that the kernel creates in every network namespace. */
function interfaces(): string[] {
  const all = JSON.parse(execFileSync('ip', ['-j', 'link'], { encoding: 'utf8' })) as { ifname: string }[];
  return all
    .map(({ ifname }) => ifname)
    .filter((name) => !/^(ifb|tunl|gre|erspan|sit|ip6|ip_vti|dummy)/.test(name))
    .sort();
}

function runningCommands(): string[] {
  const pids = readdirSync('/proc').filter((name) => /^\d+$/.test(name));
  return pids.map((pid) => {
    try {
      return readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ').trim();
    } catch {
      return ''; // It has exited meanwhile.
    }
  });
}

/** Returns the cgroups of pods and containers below the runtime's parent cgroups. */
function podCgroups(): string[] {
  const parents = readdirSync('/sys/fs/cgroup/pids', { withFileTypes: true }).filter(
    (entry) => entry.isDirectory() && entry.name.startsWith('berth-test-berth'),
  );
  const directories = parents.flatMap((parent) => cgroupDirectories(parent.name));
  return directories.flatMap((directory) =>
    readdirSync(directory, { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map((entry) => join(directory, entry.name)),
  );
}

function say(text: string): void {
  process.stdout.write(`${text}\n`);
}

const { values } = parseArgs({ options: { runtime: { type: 'string', default: 'berth' } } });
mkdirSync(buildDir, { recursive: true });
const toolsDir = prepareTools();
if (values.runtime === 'containerd') preparePeer();
enterIsolation();
process.exitCode = await main(toolsDir, values.runtime === 'containerd' ? 'containerd' : 'berth');
