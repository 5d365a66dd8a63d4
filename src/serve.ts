/**
 * Wires the daemon: host facts, stores, network, engine, recovery, socket; and shuts it down.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { createDeviceFiles } from './cdi/device-files.ts';
import { createNetwork } from './cni/network.ts';
import { type Config, type LoadedConfig, type StreamSettings, streamSettings, tracingSettings } from './config.ts';
import { loadContract } from './cri/contract.ts';
import { listen } from './cri/server.ts';
import { createItemBytes } from './cri/to-response/item-bytes.ts';
import { type BlockioClasses, parseBlockioClasses } from './engine/cgroup/blockio.ts';
import type { EngineDeps, EngineSettings } from './engine/deps.ts';
import { createEngine, type Engine } from './engine/engine.ts';
import { type CgroupDriver, chooseCgroupDriver } from './engine/lifecycle/cgroup-driver.ts';
import { prepareMonitorCgroup } from './engine/lifecycle/monitor-cgroup.ts';
import { probeUserNamespaces } from './engine/lifecycle/pod-namespaces.ts';
import { openMonitorBinary } from './engine/monitor/monitor.ts';
import { createOomKills } from './engine/oom/oom-kills.ts';
import { planRlimits } from './engine/plan/rlimits.ts';
import { latestTimeNs, recover } from './engine/recover.ts';
import { createFuseRootfs } from './engine/rootfs/fuse-rootfs.ts';
import { createNativeRootfs } from './engine/rootfs/native-rootfs.ts';
import { createOverlayRootfs, type RootfsDriver } from './engine/rootfs/overlay-rootfs.ts';
import { createSeccompCompiler } from './engine/seccomp/seccomp-compiler.ts';
import { createAppArmorProfiles } from './engine/sources/apparmor-profiles.ts';
import { createSeccompFilters } from './engine/sources/seccomp-filter.ts';
import { createEvents } from './engine/state/events.ts';
import { notifyingStore } from './engine/state/notifying-store.ts';
import { createSingleflight } from './engine/state/singleflight.ts';
import { openStore } from './engine/state/store.ts';
import { createWatches } from './engine/watches.ts';
import { toPlatform } from './images/document/platform.ts';
import { createImagePuller, type ImagePuller, type PullDeps } from './images/pull/pull.ts';
import { createSharedLayers } from './images/pull/shared-layers.ts';
import { proxyFromEnvironment } from './images/registry/proxy.ts';
import { createRegistryClient } from './images/registry/registry.ts';
import { openSignaturePolicy } from './images/signature/signature-policy.ts';
import { createImageStore, type ImageStore } from './images/store/store.ts';
import { createUnpacker, type Unpacker } from './images/unpack/unpack.ts';
import { createClock } from './lib/clock.ts';
import { failedPrecondition, reasonOf } from './lib/errors.ts';
import { createLog, type Log } from './lib/log.ts';
import { createKeyedQueue } from './lib/queue.ts';
import type { Trace } from './lib/spans.ts';
import { requireTrustedPath } from './lib/trusted-path.ts';
import { monitorPath } from './monitor-path.ts';
import { createNodeImages } from './node-images.ts';
import type { StreamingBackend } from './streaming/backend.ts';
import { type StreamingDeps, type StreamingServer, startStreamingServer, streamingLimits } from './streaming/server.ts';
import { holdHierarchies } from './sys/cgroup/cgroup-hold.ts';
import { probeCgroups } from './sys/cgroup/cgroups.ts';
import { lockDirectory } from './sys/filesystem/lock.ts';
import { makeOwnDirectory } from './sys/filesystem/private-directory.ts';
import { cpuFlags, type HostFacts, probeHost } from './sys/host.ts';
import { isalSoname, probeIsal } from './sys/library/libisal.ts';
import { createLibseccomp } from './sys/library/libseccomp.ts';
import { makeSharedDirectory } from './sys/mount/shared-directory.ts';
import { createIdleCollector } from './sys/process/heap.ts';
import { openKernelLog } from './sys/process/kernel-log.ts';
import { hardLimit } from './sys/process/limits.ts';
import type { CadvisorSources } from './telemetry/cadvisor-answers.ts';
import { serveCadvisor } from './telemetry/cadvisor-server.ts';
import { adjustOnHangup, type Observability, openObservability, openTracing } from './telemetry/observability.ts';
import { version } from './version.ts';

/** Timeout for calls in flight at shutdown. Containers keep running in any case. */
const drainTimeoutMs = 10_000;
const seccompProgramsMax = 64;
/** After this time without a change, the garbage of pod starts and pulls is collected. V8 alone would wait for the next allocation. */
const idleCollectMs = 3_000;

/**
 * Serves until SIGTERM or SIGINT.
 *
 * @param readConfig rereads the configuration, for SIGHUP.
 * @throws {BerthError} FAILED_PRECONDITION if this node lacks something, with the fix.
 */
export async function serve({ config, warnings }: LoadedConfig, readConfig: () => Config): Promise<void> {
  const wasStopped = new Promise<string>((resolve) => {
    for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, () => resolve(signal));
  });
  const log = createLog(config.logLevel);
  for (const warning of warnings) log.warn({ config: warning }, 'deprecated setting');
  adjustOnHangup(log, () => readConfig().logLevel);
  const observability = await openObservability(config, version);
  const { observers } = observability;
  const tracing = await openTracing(tracingSettings(config), { log, observers, version });
  const watchers = { observers, ...(tracing ? { trace: tracing.trace } : {}) };
  const facts = checkNode(config);
  const policy = openSignaturePolicy(config.signaturePolicy);
  const dropNetnsMount = makeSharedDirectory(config.netnsDir);
  const unpacker = wireUnpacker(config, log);
  const images = await createImageStore({ root: config.root, unpacker, log, pinnedImages: config.pinnedImages });
  const network = await wireNetwork(config, log, watchers);
  const deps = await wireEngine(config, { facts, images, network, log, ...watchers });
  await recover(deps);
  await images.collect();
  await releaseAddresses(network, deps);

  const shared = createSharedLayers({ store: images, unpacker, log });
  const puller = wirePuller(config, { store: images, shared, log, ...(policy ? { policy } : {}) }, watchers);
  const closeCadvisor = config.cadvisorSocket === null ? () => {} : await serveCadvisor(config.cadvisorSocket, cadvisorSources(deps));
  const engine = createEngine(deps);
  await observability.serve(deps, { list: () => images.list(), fsInfo: () => images.fsInfo(), pulls: puller.pulls }, engine);
  const streaming = await startStreaming(engine, streamSettings(config), { log, ...(observers ? { observe: observers.session } : {}) });
  const contract = loadContract();
  const server = await listen(contract, config.socket, {
    engine,
    streaming,
    images: createNodeImages({
      store: images,
      shared,
      unpacker,
      puller,
      platform: toPlatform(process.arch, cpuFlags()),
      log,
      ...(policy ? { policy } : {}),
    }),
    network,
    devices: createDeviceFiles({ log }, config.cdiSpecDirs),
    items: createItemBytes(contract.encoders),
    settings: { version, rootDir: config.root, stateDir: config.state },
    nowNs: deps.clock.nowNs,
    log,
    afterChange: createIdleCollector(idleCollectMs),
    ...(observers ? { observe: observers.call, observeBegin: observers.callBegins } : {}),
    ...(tracing ? { traceCall: tracing.traceCall } : {}),
  });
  log.info({ socket: config.socket, version, cgroups: deps.cgroups.version, cgroupDriver: deps.cgroupDriver.name, kernel: facts.kernel }, 'serving');

  const signal = await wasStopped;
  log.info({ signal }, 'shutting down; containers keep running');
  deps.events.close();
  observability.close();
  closeCadvisor();
  deps.oomKills.close();
  await server.close(drainTimeoutMs);
  await streaming.close();
  network.close();
  await unpacker.close();
  await tracing?.close();
  if (deps.store.sandboxes.all().length === 0) dropNetnsMount();
  // A message from systemd that arrives while Node.js is shutting down would crash the process.
  deps.cgroupDriver.close();
  // Watches on running containers would keep the process alive.
  process.exit(0);
}

async function releaseAddresses(network: Awaited<ReturnType<typeof createNetwork>>, { store, log }: EngineDeps): Promise<void> {
  await network.collectGarbage(store.sandboxes.all().map(({ record }) => record.id)).catch((error: unknown) => {
    log.warn({ reason: reasonOf(error) }, 'failed to release addresses of removed sandboxes');
  });
}

function cadvisorSources({ store: { sandboxes, containers }, settings }: EngineDeps): CadvisorSources {
  // Includes objects that are being created: cAdvisor asks once, when their cgroup appears.
  return { sandbox: sandboxes.get, container: containers.get, containers: containers.all, rootDir: settings.rootDir };
}

/** Serves exec, attach and port-forward. */
function startStreaming(engine: Engine, settings: StreamSettings, deps: Pick<StreamingDeps, 'log' | 'observe'>): Promise<StreamingServer> {
  const backend: StreamingBackend = {
    exec: ({ containerId, ...request }) => engine.exec(containerId, request),
    attach: ({ containerId, ...request }) => engine.attach(containerId, request),
    connect: engine.connectPort,
  };
  return startStreamingServer({ ...deps, backend, limits: streamingLimits }, settings);
}

/** Checks hard requirements before anything else: root, exclusive directories, overlayfs if it is configured. */
function checkNode(config: Config): HostFacts {
  if (process.getuid?.() !== 0) throw failedPrecondition('not running as root: berth creates namespaces, mounts and cgroups; run it as root');
  // Whatever the service manager or a shell has set: sockets must not be writable by others, and containers must be able to read their files.
  process.umask(0o022);
  for (const path of new Set([config.root, config.state])) {
    // The socket is in the state directory, and its group may be given access to it.
    makeOwnDirectory(path, path === config.state ? 0o711 : 0o700);
    requireTrustedPath(path);
    lockDirectory(path, 'stop it, or give each daemon its own --root, --state and --socket');
  }
  const facts = probeHost(config.root);
  if (config.snapshotter === 'overlay' && facts.overlayFailure !== null) {
    throw failedPrecondition(
      `overlay mounts do not work on ${config.root}: ${facts.overlayFailure}; load the overlay module (modprobe overlay), or set root to a directory on ext4, xfs or btrfs`,
    );
  }
  return facts;
}

type Watchers = { readonly observers: Observability['observers']; readonly trace?: Trace };

function wireNetwork(config: Config, log: Log, { observers, trace }: Watchers): ReturnType<typeof createNetwork> {
  return createNetwork({
    confDir: config.cniConfDir,
    binDirs: config.cniBinDirs,
    cacheDir: join(config.root, 'cni'),
    log,
    addTimeoutMs: config.cniTimeoutMs,
    delTimeoutMs: config.cniTimeoutMs,
    statusGraceMs: config.cniStatusGracePeriodMs,
    ...(observers ? { observe: observers.plugin } : {}),
    ...(trace ? { trace } : {}),
  });
}

type Parts = Watchers & {
  readonly facts: HostFacts;
  readonly images: ImageStore;
  readonly network: EngineDeps['network'];
  readonly log: Log;
};

async function wireEngine(config: Config, { facts, images, network, log, observers, trace }: Parts): Promise<EngineDeps> {
  const settings: EngineSettings = {
    rootDir: config.root,
    stateDir: config.state,
    netnsDir: config.netnsDir,
    defaultCgroupParent: config.cgroupParent,
    monitorCgroup: config.monitorCgroup,
    maxContainerLogLineSize: config.maxContainerLogLineSize,
    rlimits: planRlimits(config.defaultUlimits, hardLimit),
    defaultSysctls: config.defaultSysctls,
    networkTimeoutMs: config.cniTimeoutMs,
    marksNetworks: config.cadvisorSocket !== null,
    criu: { program: 'criu', searchPath: process.env.PATH ?? '' },
  };
  const cgroups = holdHierarchies(probeCgroups());
  const cgroupNames = { defaultParent: config.cgroupParent, prefix: config.cadvisorSocket === null ? 'cri-berth' : 'crio' } as const;
  const stored = openStore(config.state);
  const clock = createClock(latestTimeNs({ store: stored }));
  const events = createEvents();
  const store = notifyingStore(stored, events, clock);
  const compiler = createSeccompCompiler({ libseccomp: createLibseccomp(), programsMax: seccompProgramsMax });
  const monitor = await openMonitorBinary(monitorPath);
  const cgroupDriver = await chooseCgroupDriver(config.cgroupDriver, cgroups, cgroupNames, log);
  await prepareMonitorCgroup({ cgroupDriver }, config.monitorCgroup);
  return {
    settings,
    // A node without overlayfs is ready, because layers are copied.
    facts: { ...facts, overlayFailure: null },
    userNamespaceFailure: await probeUserNamespaces({ monitor }, config.root),
    cgroups,
    cgroupDriver: trace ? withSpans(cgroupDriver, trace) : cgroupDriver,
    store,
    events,
    rootfs: await chooseRootfs(config, facts, log),
    monitor,
    appArmor: createAppArmorProfiles(),
    seccomp: createSeccompFilters({ compiler, facts: { arch: facts.arch, kernel: facts.kernel } }),
    network,
    blockio: config.blockioConfigFile === null ? null : readBlockioClasses(config.blockioConfigFile),
    layers: {
      lease: (ownerId, diffIds) => images.lease(ownerId, diffIds),
      release: (ownerId) => {
        images.release(ownerId).catch((error: unknown) => log.warn({ ownerId, reason: reasonOf(error) }, 'failed to remove unused layers'));
      },
    },
    oomKills: createOomKills({ store, kernelLog: openKernelLog(), observe: observers?.oomKills, log }),
    watches: createWatches(),
    singleflight: createSingleflight(),
    queue: createKeyedQueue(),
    clock,
    ...(observers ? { observeStep: observers.step, observeEnd: observers.containerEnd } : {}),
    ...(trace ? { trace } : {}),
    log,
  };
}

function wireUnpacker(config: Config, log: Log): Unpacker {
  const isal = probeIsal();
  if (isal.status !== 'usable')
    log[isal.status === 'missing' ? 'info' : 'warn'](
      { library: isalSoname, reason: isal.reason },
      'gzip layers are decompressed with zlib, which is slower',
    );
  const workerFile = new URL('./images/unpack/unpack-worker.ts', import.meta.url);
  return createUnpacker({ workerFile, workersMax: config.maxConcurrentDownloads, devices: config.imageDevices });
}

function withSpans(driver: CgroupDriver, trace: Trace): CgroupDriver {
  return {
    ...driver,
    create: (path, values) => trace('cgroup.create', () => driver.create(path, values)),
    adopt: (path, values) => trace('cgroup.adopt', () => driver.adopt(path, values)),
    update: (path, change) => trace('cgroup.update', () => driver.update(path, change)),
    remove: (path) => trace('cgroup.remove', () => driver.remove(path)),
  };
}

function wirePuller(
  config: Config,
  deps: Pick<PullDeps, 'store' | 'shared' | 'policy'> & { readonly log: Log },
  { observers, trace }: Watchers,
): ImagePuller {
  const registry = createRegistryClient({
    registryDir: config.registryDir,
    userAgent: `berth/${version}`,
    log: deps.log,
    proxy: proxyFromEnvironment(process.env),
    timing: { stallTimeoutMs: config.pullIdleTimeoutMs },
  });
  const observe = { ...(observers ? { observe: observers.pull } : {}), ...(trace ? { trace } : {}) };
  return createImagePuller({ ...deps, ...observe, registry, platform: toPlatform(process.arch, cpuFlags()) });
}

function readBlockioClasses(file: string): BlockioClasses {
  try {
    return parseBlockioClasses(readFileSync(file, 'utf8'));
  } catch (error) {
    throw failedPrecondition(`blockio_config_file ${file}: ${reasonOf(error)}`, error);
  }
}

async function chooseRootfs(config: Config, facts: HostFacts, log: Log): Promise<RootfsDriver> {
  if (config.snapshotter === 'fuse-overlayfs') return createFuseRootfs(config.root, facts.overlayFailure === null);
  if (config.snapshotter !== 'native' && facts.overlayFailure === null) return createOverlayRootfs(config.root);
  if (facts.overlayFailure !== null)
    log.warn({ root: config.root, reason: facts.overlayFailure }, 'overlay mounts do not work: falling back to copying layers, which is slow');
  return createNativeRootfs(config.root);
}
