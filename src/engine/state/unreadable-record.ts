/**
 * Placeholders for objects whose files cannot be read: they are visible as UNKNOWN or not ready, and can be removed. Pure.
 *
 * The locations of an object's parts follow from its id.
 */
import { type ContainerRecord, type ContainerStatus, recordVersion, type SandboxRecord, type SandboxStatus } from './records.ts';
import type { NamespaceModes } from './spec.ts';

type Placeholder<StoredRecord, Status> = { readonly record: StoredRecord; readonly status: Status };

/** In place of unreadable names. */
const unreadable = 'unreadable';
/** Everything that a sandbox can own, so that all of it is cleaned up. */
const namespaces: NamespaceModes = { network: 'pod', ipc: 'pod', pid: 'pod' };

/** @param reason why the files cannot be read. */
export function unreadableSandbox(id: string, reason: string, createdAtNs: string): Placeholder<SandboxRecord, SandboxStatus> {
  const spec = {
    metadata: { name: unreadable, namespace: unreadable, uid: id, attempt: 0 },
    hostname: '',
    logDirectory: '',
    portMappings: [],
    labels: {},
    annotations: {},
    cgroupParent: '',
    sysctls: {},
    namespaces,
    isPrivileged: false,
    runtimeHandler: '',
  };
  return { record: { version: recordVersion, id, spec, createdAtNs }, status: { stoppedAtNs: createdAtNs, unreadableReason: reason } };
}

/** @param reason why the files cannot be read. */
export function unreadableContainer(id: string, reason: string, createdAtNs: string): Placeholder<ContainerRecord, ContainerStatus> {
  const security = {
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
    namespaces,
  } as const;
  const spec = {
    metadata: { name: unreadable, attempt: 0 },
    image: { requested: '', userSpecified: '', annotations: {}, runtimeHandler: '' },
    command: [],
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
  };
  const config = { id: '', entrypoint: [], cmd: [], env: [], workingDir: '', user: '', stopSignal: '', volumes: [] };
  const record: ContainerRecord = {
    version: recordVersion,
    id,
    sandboxId: '',
    spec,
    image: { id: '', ref: '', name: '', config, layerDirs: [], diffIds: [] },
    identity: { uid: 0, gid: 0, additionalGids: [], home: '/' },
    stopSignal: 15,
    cgroupPath: '',
    createdAtNs,
  };
  return { record, status: { message: reason, unreadableReason: reason, resources: {} } };
}
