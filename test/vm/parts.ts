/**
 * The parts that `npm test` repeats in the virtual machine, because they depend on systemd, cgroup v2 or AppArmor. Data only.
 */

/** Names of parts of test/run.ts, in addition to those that run only in the virtual machine. */
export const vmParts: readonly string[] = [
  'root/cgroups',
  'root/monitor-cgroup',
  'root/oom',
  'root/attach',
  'root/checkpoint',
  'root/stats',
  'root/engine',
  'root/userns',
  'root/cdi',
  'root/disk-quota',
];

/** Specs of critest, as regular expressions for their names: all AppArmor specs, and a few of each other kind. */
export const vmSpecs: readonly string[] = [
  'AppArmor',
  'OOMKilled',
  'should support (starting|stopping) container .Conformance',
  'should support removing running container',
  'should support execSync',
  'listing stats for started containers .Conformance',
  'should support running PodSandbox',
  'should support stopping PodSandbox',
  'should support unsafe sysctls',
  'should support PodPID',
  'NamespaceMode_POD',
  'should support Privileged is true',
  'should support adding capability',
  'should support seccomp default on the container',
  'mount with .rshared.',
  'should support exec with tty=true',
];
