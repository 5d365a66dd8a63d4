/**
 * Derives the process of a container, or of an exec in it, from its record: command, environment, user, capabilities.
 *
 * Pure.
 */
import { invalidArgument } from '../../lib/errors.ts';
import type { ContainerRecord } from '../state/records.ts';
import type { Resources, SandboxSpec, SecuritySpec } from '../state/spec.ts';
import { type CapabilityRequest, resolveCapabilities } from './capabilities.ts';
import { executableCandidates, mergeCommand } from './command.ts';
import type { Credentials, Rlimit } from './credentials.ts';
import { composeEnvironment, environmentValue } from './environment.ts';
import type { Reg } from './plan.ts';
import type { CgroupEntry, ProcessPlan } from './process-setup.ts';

/** The daemon's own privileges, which it cannot exceed. */
export type ProcessFacts = {
  readonly capabilities: bigint;
  readonly oomScoreAdj: number;
  readonly rlimits: readonly Rlimit[];
  readonly hostname: string;
};

export type ProcessFds = { readonly cgroup: CgroupEntry; readonly stdio: readonly [Reg, Reg, Reg] | null };

/** CAP_SYS_RESOURCE is needed to set oom_score_adj below the daemon's own: proc_pid_oom_score_adj(5). */
const canLowerOomScore = (capabilities: bigint): boolean => ((capabilities >> 24n) & 1n) === 1n;

/** Returns the capabilities that a container's process starts with. @throws {BerthError} INVALID_ARGUMENT for an unknown name. */
export function containerCapabilities(record: ContainerRecord, facts: Pick<ProcessFacts, 'capabilities'>): Credentials['capabilities'] {
  return resolveCapabilities(capabilityRequest(record.spec.security), facts.capabilities);
}

export function capabilityRequest(security: SecuritySpec): CapabilityRequest {
  const { addCapabilities: add, dropCapabilities: drop, addAmbientCapabilities: addAmbient, isPrivileged } = security;
  return { add, drop, addAmbient, isPrivileged };
}

/**
 * Returns the plan of a process.
 *
 * @param options `argv`: the command of an exec; undefined: the container's own command.
 * @throws {BerthError} INVALID_ARGUMENT if there is no command.
 */
export function planProcess(
  record: ContainerRecord,
  sandbox: SandboxSpec,
  facts: ProcessFacts,
  fds: ProcessFds,
  options: {
    readonly argv?: readonly string[];
    readonly resources: Resources;
    readonly seccomp: Credentials['seccomp'];
    /** Whether it has a terminal even if the container's own process has none. */
    readonly hasTerminal?: boolean;
  },
): ProcessPlan {
  const { spec, image, identity } = record;
  const argv = options.argv ?? mergeCommand(spec, image.config);
  const [argv0] = argv;
  if (argv0 === undefined || argv0 === '') throw invalidArgument('invalid command: argument 0 is missing or empty');
  const workingDir = spec.workingDir || image.config.workingDir || '/';
  const env = composeEnvironment({
    hasTerminal: spec.hasTerminal || options.hasTerminal === true,
    hostname: sandbox.namespaces.network === 'node' ? facts.hostname : sandbox.hostname,
    imageEnv: image.config.env,
    requestEnv: [...spec.env, ...(spec.edits?.env ?? [])],
    home: identity.home,
  });
  return {
    argv,
    env,
    executables: executableCandidates(argv0, environmentValue(env, 'PATH'), workingDir),
    workingDir,
    credentials: {
      uid: identity.uid,
      gid: identity.gid,
      groups: identity.additionalGids,
      capabilities: containerCapabilities(record, facts),
      noNewPrivs: spec.security.noNewPrivs,
      seccomp: options.seccomp,
      rlimits: facts.rlimits,
    },
    oomScoreAdj: clampOomScore(options.resources.oomScoreAdj ?? 0, facts),
    ...(spec.security.appArmorProfile === undefined ? {} : { appArmorProfile: spec.security.appArmorProfile }),
    ...(record.keyringSecret === undefined ? {} : { keyringSecret: record.keyringSecret }),
    cgroup: fds.cgroup,
    stdio: fds.stdio,
  };
}

/** Returns the requested score, or the lowest that the daemon may set. */
export function clampOomScore(requested: number, facts: Pick<ProcessFacts, 'capabilities' | 'oomScoreAdj'>): number {
  return canLowerOomScore(facts.capabilities) ? requested : Math.max(requested, facts.oomScoreAdj);
}
