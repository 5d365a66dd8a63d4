/**
 * What `npm test` runs again in the virtual machine: the parts that meet systemd, cgroup v2 and AppArmor. Data only.
 */

/** Names of parts of test/run.ts, beside those that belong to the machine alone. */
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

/** Specs of critest, as regular expressions over their names: all of AppArmor, and a few of each kind. */
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
