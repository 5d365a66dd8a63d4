/**
 * Starts an engine in a test's own directories, with busybox as the image and without network plugins, for tests that call the engine directly.
 */
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { EngineDeps } from '../../../src/engine/deps.ts';
import { createEngine, type Engine } from '../../../src/engine/engine.ts';
import { type CgroupDriverName, chooseCgroupDriver } from '../../../src/engine/lifecycle/cgroup-driver.ts';
import type { ContainerImage } from '../../../src/engine/lifecycle/container.ts';
import { probeUserNamespaces } from '../../../src/engine/lifecycle/pod-namespaces.ts';
import { openMonitorBinary } from '../../../src/engine/monitor/monitor.ts';
import { createOomKills } from '../../../src/engine/oom/oom-kills.ts';
import { createFuseRootfs } from '../../../src/engine/rootfs/fuse-rootfs.ts';
import { createNativeRootfs } from '../../../src/engine/rootfs/native-rootfs.ts';
import { createOverlayRootfs, type RootfsDriver } from '../../../src/engine/rootfs/overlay-rootfs.ts';
import { createSeccompCompiler } from '../../../src/engine/seccomp/seccomp-compiler.ts';
import { createAppArmorProfiles } from '../../../src/engine/sources/apparmor-profiles.ts';
import { createSeccompFilters } from '../../../src/engine/sources/seccomp-filter.ts';
import { createEvents } from '../../../src/engine/state/events.ts';
import { notifyingStore } from '../../../src/engine/state/notifying-store.ts';
import { createSingleflight } from '../../../src/engine/state/singleflight.ts';
import type { ContainerSpec, Network, SandboxSpec, SecuritySpec } from '../../../src/engine/state/spec.ts';
import { openStore } from '../../../src/engine/state/store.ts';
import { createWatches } from '../../../src/engine/watches.ts';
import { createClock } from '../../../src/lib/clock.ts';
import { createLog } from '../../../src/lib/log.ts';
import { createKeyedQueue } from '../../../src/lib/queue.ts';
import { probeCgroups, removeIfEmpty } from '../../../src/sys/cgroup/cgroups.ts';
import { probeHost } from '../../../src/sys/host.ts';
import { createLibseccomp } from '../../../src/sys/library/libseccomp.ts';
import { openKernelLog } from '../../../src/sys/process/kernel-log.ts';

export type TestEngine = {
  readonly engine: Engine;
  readonly deps: EngineDeps;
  readonly image: ContainerImage;
  readonly directory: string;
  readonly end: () => Promise<void>;
};

/** Starts an engine. @param network the network of the sandboxes; by default they have only loopback. */
export async function startEngine(
  network: Network = noNetwork,
  directory = mkdtempSync('/var/tmp/berth-test-'),
  cgroupDriver: CgroupDriverName = 'cgroupfs',
): Promise<TestEngine> {
  const settings = {
    rootDir: join(directory, 'root'),
    stateDir: join(directory, 'state'),
    netnsDir: join(directory, 'netns'),
    defaultCgroupParent: `/berth-test-${process.pid}`,
    monitorCgroup: 'daemon',
    maxContainerLogLineSize: 16384,
    rlimits: [],
    defaultSysctls: {},
    networkTimeoutMs: 30_000,
    marksNetworks: false,
    criu: { program: process.env.BERTH_TEST_CRIU ?? 'criu', searchPath: process.env.PATH ?? '' },
  };
  for (const path of [settings.rootDir, settings.stateDir, settings.netnsDir]) mkdirSync(path, { recursive: true });
  const facts = probeHost(settings.rootDir);
  const compiler = createSeccompCompiler({ libseccomp: createLibseccomp(), programsMax: 8 });
  const monitor = await openMonitorBinary(process.env.BERTH_MONITOR ?? join(import.meta.dirname, '../../../build/monitor'));
  const cgroups = probeCgroups();
  const events = createEvents();
  const clock = createClock();
  const store = notifyingStore(openStore(settings.stateDir), events, clock);
  const deps: EngineDeps = {
    settings,
    facts,
    userNamespaceFailure: await probeUserNamespaces({ monitor }, settings.rootDir),
    cgroups,
    cgroupDriver: await chooseCgroupDriver(
      cgroupDriver,
      cgroups,
      { defaultParent: settings.defaultCgroupParent, prefix: 'cri-berth' },
      createLog('silent'),
    ),
    store,
    events,
    rootfs: await makeRootfs(settings.rootDir),
    monitor,
    appArmor: createAppArmorProfiles(),
    seccomp: createSeccompFilters({ compiler, facts: { arch: facts.arch, kernel: facts.kernel } }),
    network,
    blockio: null,
    layers: { lease: () => {}, release: () => {} },
    oomKills: createOomKills({ store, kernelLog: openKernelLog(), log: createLog('silent') }),
    watches: createWatches(),
    singleflight: createSingleflight(),
    queue: createKeyedQueue(),
    clock,
    log: createLog('silent'),
  };
  const engine = createEngine(deps);
  const image = makeImage(directory);
  const end = async () => {
    for (const { record } of engine.sandboxes()) await engine.removeSandbox(record.id);
    removeIfEmpty(deps.cgroups, settings.defaultCgroupParent);
    deps.monitor.close();
    deps.oomKills.close();
    deps.cgroupDriver.close();
    rmSync(directory, { recursive: true, force: true });
  };
  return { engine, deps, image, directory, end };
}

async function makeRootfs(rootDir: string): Promise<RootfsDriver> {
  if (process.env.BERTH_SNAPSHOTTER === 'native') return createNativeRootfs(rootDir);
  if (process.env.BERTH_SNAPSHOTTER === 'fuse-overlayfs') return createFuseRootfs(rootDir, true);
  return createOverlayRootfs(rootDir);
}

const noNetwork: Network = {
  notReadyReason: () => null,
  add: async () => ({ ips: ['192.0.2.1'], cniResult: null }),
  remove: async () => {},
  attachedSandboxIds: async () => [],
};

function makeImage(directory: string): ContainerImage {
  const layer = join(directory, 'layer');
  for (const path of ['bin', 'etc', 'tmp', 'masked']) mkdirSync(join(layer, path), { recursive: true });
  copyFileSync('/bin/busybox', join(layer, 'bin/busybox'));
  for (const applet of [
    'sh',
    'sleep',
    'cat',
    'id',
    'true',
    'ls',
    'mount',
    'echo',
    'ps',
    'stat',
    'touch',
    'grep',
    'kill',
    'dd',
    'env',
    'pwd',
    'hostname',
    'tty',
    'stty',
    'seq',
    'setsid',
    'test',
    'nc',
    'head',
    'md5sum',
  ]) {
    try {
      symlinkSync('busybox', join(layer, 'bin', applet));
    } catch {
      // It exists: created by an earlier engine in the same directory.
    }
  }
  writeFileSync(join(layer, 'etc/passwd'), 'root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1001:web:/home/web:/bin/sh\n');
  writeFileSync(join(layer, 'etc/group'), 'root:x:0:\nweb:x:1001:\nextra:x:2000:web\n');
  writeFileSync(join(layer, 'masked/file'), 'secret\n');
  const config = { id: 'sha256:test', entrypoint: [], cmd: ['sh'], env: [], workingDir: '', user: '', stopSignal: '', volumes: [] };
  return { id: config.id, ref: config.id, name: 'test', config, layerDirs: [layer], diffIds: ['sha256:layer'] };
}

let sandboxes = 0;

/** Returns a sandbox spec with a unique name and the given changes. */
export function sandboxSpec(changes: Partial<SandboxSpec> = {}): SandboxSpec {
  sandboxes += 1;
  return {
    metadata: { name: `pod${sandboxes}`, namespace: 'test', uid: `uid${sandboxes}`, attempt: 0 },
    hostname: 'pod',
    logDirectory: '',
    portMappings: [],
    labels: {},
    annotations: {},
    cgroupParent: '',
    sysctls: {},
    namespaces: { network: 'pod', ipc: 'pod', pid: 'container' },
    isPrivileged: false,
    runtimeHandler: '',
    ...changes,
  };
}

export const security: SecuritySpec = {
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
};

/** Returns a container spec with the given changes. */
export function containerSpec(command: readonly string[], changes: Partial<ContainerSpec> = {}): ContainerSpec {
  return {
    metadata: { name: 'main', attempt: 0 },
    image: { requested: 'test', userSpecified: 'test', annotations: {}, runtimeHandler: '' },
    command,
    args: [],
    workingDir: '',
    env: [],
    mounts: [],
    devices: [],
    labels: {},
    annotations: {},
    hasStdin: false,
    closesStdinAfterFirstAttach: false,
    hasTerminal: false,
    resources: {},
    security,
    ...changes,
  };
}
