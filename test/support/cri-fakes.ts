/**
 * Fakes of the engine and the image store for tests of src/cri. They record calls and return the objects they were created with.
 */

import type { CriDeps, ImageView } from '../../src/cri/deps.ts';
import type { ContainerView, SandboxView } from '../../src/engine/state/records.ts';
import type { ContainerSpec, SandboxSpec } from '../../src/engine/state/spec.ts';
import type { ContainerStats, SandboxStats } from '../../src/engine/usage/stats.ts';
import { notFound } from '../../src/lib/errors.ts';
import type { Log } from '../../src/lib/log.ts';

type Call = { readonly name: string; readonly args: readonly unknown[] };

export const sandboxSpec: SandboxSpec = {
  metadata: { name: 'web', namespace: 'default', uid: 'u1', attempt: 0 },
  hostname: 'web',
  logDirectory: '/logs/web',
  portMappings: [],
  labels: { app: 'web' },
  annotations: {},
  cgroupParent: '/kubepods/podu1',
  sysctls: {},
  namespaces: { network: 'pod', ipc: 'pod', pid: 'container' },
  isPrivileged: false,
  runtimeHandler: '',
};

export const containerSpec: ContainerSpec = {
  metadata: { name: 'main', attempt: 0 },
  image: { requested: 'sha256:1111', userSpecified: 'busybox', annotations: {}, runtimeHandler: '' },
  command: ['sleep'],
  args: [],
  workingDir: '',
  env: [],
  mounts: [],
  devices: [],
  labels: { app: 'web', tier: '' },
  annotations: {},
  hasStdin: false,
  closesStdinAfterFirstAttach: false,
  hasTerminal: false,
  resources: {},
  security: {
    isPrivileged: false,
    addCapabilities: [],
    dropCapabilities: [],
    addAmbientCapabilities: [],
    hasReadonlyRootfs: false,
    noNewPrivs: false,
    maskedPaths: [],
    readonlyPaths: [],
    seccomp: { kind: 'unconfined' },
    user: { supplementalGroups: [], groupsPolicy: 'merge' },
    namespaces: { network: 'pod', ipc: 'pod', pid: 'container' },
  },
};

export function sandboxView(id: string, change: Partial<SandboxView['record']> = {}, status: SandboxView['status'] = {}): SandboxView {
  return {
    record: { version: 1, id, spec: sandboxSpec, createdAtNs: '1795246688214071083', ...change },
    status: { readyAtNs: '1795246688214071084', network: { ips: ['10.1.0.2', 'fd00::2'], cniResult: {} }, ...status },
  };
}

const config = { id: 'sha256:1111', entrypoint: [], cmd: [], env: [], workingDir: '', user: '', stopSignal: '', volumes: [] };

export function containerView(
  id: string,
  change: Partial<ContainerView['record']> = {},
  status: Partial<ContainerView['status']> = {},
): ContainerView {
  return {
    record: {
      version: 1,
      id,
      sandboxId: 's1',
      spec: containerSpec,
      image: {
        id: 'sha256:1111',
        ref: 'docker.io/library/busybox@sha256:2222',
        name: 'docker.io/library/busybox:latest',
        config,
        layerDirs: [],
        diffIds: [],
      },
      identity: { uid: 0, gid: 0, additionalGids: [0], home: '/' },
      stopSignal: 15,
      cgroupPath: `/kubepods/podu1/${id}`,
      createdAtNs: '1795246692080405238',
      ...change,
    },
    status: { readyAtNs: '1795246692080405239', resources: {}, ...status },
  };
}

export const imageView: ImageView = {
  id: 'sha256:1111',
  repoTags: ['docker.io/library/busybox:latest'],
  repoDigests: ['docker.io/library/busybox@sha256:2222'],
  sizeBytes: 4096,
  user: '',
  isPinned: false,
};

type Contents = {
  readonly sandboxes?: readonly SandboxView[];
  readonly containers?: readonly ContainerView[];
  readonly images?: readonly ImageView[];
};

const counters: ContainerStats['counters'] = {
  cpuUsageNs: 5n,
  memory: null,
  swap: null,
  tasks: 1,
  pressure: { cpu: null, memory: null, io: null },
};
const containerStats = (record: ContainerStats['record']): ContainerStats => ({ record, atNs: '7', counters, nanoCores: null, writableLayer: null });
const sandboxStats = (record: SandboxStats['record']): SandboxStats => ({
  ...containerStats(containerView('c1').record),
  record,
  interfaces: null,
  containers: [],
});
const filesystem = { device: '/dev/sda1', totalBytes: 1000, inodes: 100, freeInodes: 60 };

/** Creates fake dependencies that contain the given objects. `calls` records the calls that change something. */
export function fakeDeps({
  sandboxes = [],
  containers = [],
  images = [imageView],
}: Contents = {}): Omit<CriDeps, 'items'> & { readonly calls: Call[] } {
  const calls: Call[] = [];
  const record =
    <Result>(name: string, result: Result) =>
    async (...args: unknown[]): Promise<Result> => {
      calls.push({ name, args });
      return result;
    };
  const findImage = (reference: string) => images.find(({ id, repoTags }) => id === reference || repoTags.includes(reference));
  const notFaked = () => Promise.reject(new Error('not faked'));
  const pick = <View extends { readonly record: { readonly id: string } }>(views: readonly View[], id: string): View => {
    const view = views.find(({ record }) => record.id.startsWith(id));
    if (view === undefined) throw notFound(`${id} not found`);
    return view;
  };
  return {
    calls,
    streaming: {
      prepareExec: () => 'http://127.0.0.1:1/exec/token',
      prepareAttach: () => 'http://127.0.0.1:1/attach/token',
      preparePortForward: () => 'http://127.0.0.1:1/portforward/token',
    },
    engine: {
      runSandbox: record('runSandbox', 'new-sandbox'),
      stopSandbox: record('stopSandbox', undefined),
      removeSandbox: record('removeSandbox', undefined),
      sandboxes: () => sandboxes,
      sandbox: (id) => pick(sandboxes, id),
      updateSandboxResources: record('updateSandboxResources', undefined),
      createContainer: record('createContainer', 'new-container'),
      startContainer: record('startContainer', undefined),
      stopContainer: record('stopContainer', undefined),
      removeContainer: record('removeContainer', undefined),
      containers: () => containers,
      container: (id) => pick(containers, id),
      execSync: record('execSync', { stdout: Buffer.from('out'), stderr: Buffer.alloc(0), exitCode: 3 }),
      exec: notFaked,
      attach: notFaked,
      connectPort: notFaked,
      reopenLog: record('reopenLog', undefined),
      updateResources: record('updateResources', undefined),
      stats: {
        containers: async function* (views) {
          yield views.map(({ record }) => containerStats(record));
        },
        sandboxes: async function* (views) {
          yield views.map(({ record }) => sandboxStats(record));
        },
      },
      podMetrics: async function* (views) {
        for (const { record } of views) yield { stats: sandboxStats(record), pod: null, containers: [], filesystem };
      },
      checkpoint: record('checkpoint', undefined),
      events: async function* () {},
      facts: () => ({
        notReadyReason: null,
        canMountRecursivelyReadonly: true,
        hasAppArmor: false,
        hasSelinux: false,
        hasUserNamespaces: true,
        cgroupDriver: 'cgroupfs',
        hasCgroupNamespaces: true,
        hasDelegatedCgroups: true,
      }),
      explain: (id) => ({ about: id }),
    },
    images: {
      pull: record('pull', { id: 'sha256:1111' }),
      find: findImage,
      list: () => images,
      pulls: () => [],
      importArchive: async () => images,
      exportArchive: () => ({ totalBytes: 0, bytes: (async function* () {})() }),
      remove: record('remove', undefined),
      fsInfo: async () => ({ mountpoint: '/var/lib/berth', usedBytes: 8192, inodesUsed: 2 }),
      findUsable: (reference) => {
        const image = findImage(reference);
        return image && { image, config, layerDirs: ['/layers/a'], diffIds: ['sha256:aaaa'] };
      },
      explain: async () => ({ imageSpec: {} }),
    },
    network: { notReadyReason: () => null },
    devices: { resolve: record('resolve', { names: [], env: [], nodes: [], mounts: [], gids: [], hooks: [] }) },
    settings: { version: '0.1.0', rootDir: '/var/lib/berth', stateDir: '/run/berth' },
    nowNs: () => '1795246692080405238',
  };
}

/** Creates a log that stores its lines. */
export function fakeLog(): Log & { readonly lines: { readonly level: string; readonly fields: Record<string, unknown> }[] } {
  const lines: { level: string; fields: Record<string, unknown> }[] = [];
  const at = (level: string) => (fields: object) => void lines.push({ level, fields: { ...fields } });
  return { lines, debug: at('debug'), info: at('info'), warn: at('warn'), error: at('error') };
}
