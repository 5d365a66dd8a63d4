/**
 * Converts the seccomp, AppArmor and SELinux fields, current and deprecated. Pure: the engine reads the profiles.
 */
import { defaultProfileName } from '../../engine/plan/apparmor.ts';
import type { SeccompProfile } from '../../engine/state/spec.ts';
import { invalidArgument, unimplemented } from '../../lib/errors.ts';
import type * as cri from '../wire/messages.ts';
import { absolutePath, quoted, type RequestFacts } from './checks.ts';

/**
 * The message overrides the deprecated string. Without both: unconfined. An empty message: the runtime's default profile.
 * Source: cri-api, SecurityProfile and seccomp_profile_path.
 *
 * @throws {BerthError} INVALID_ARGUMENT for a localhost profile without an absolute path, and for an unknown type.
 */
export function seccompProfile(fields: {
  readonly seccomp?: cri.SecurityProfile | undefined;
  readonly seccomp_profile_path?: string | undefined;
}): SeccompProfile {
  const { seccomp, seccomp_profile_path: text = '' } = fields;
  if (seccomp === undefined) return seccompFromText(text);
  const { type, ref } = typeAndRef('seccomp', seccomp);
  if (type === 'RuntimeDefault') return { kind: 'runtime-default' };
  if (type === 'Unconfined') return { kind: 'unconfined' };
  return localhostSeccomp('seccomp.localhost_ref', ref);
}

/**
 * Fails closed: a type of a later version of the CRI, decoded as its number, could ask for less or more than any type that is known here. So does a
 * profile without the type Localhost, which is easily forgotten because the first type is RuntimeDefault.
 */
function typeAndRef(field: 'seccomp' | 'apparmor', profile: cri.SecurityProfile): { type: cri.ProfileType; ref: string } {
  const { profile_type: type = 'RuntimeDefault', localhost_ref: ref = '', oci_ref: ociRef = '', base_profile: base } = profile;
  if (type === 'OCI' && field === 'seccomp') throw unimplemented('seccomp.profile_type: OCI is not supported');
  if (ociRef !== '' || base !== undefined) throw invalidArgument(`${field}: oci_ref and base_profile require profile_type OCI, not ${type}`);
  if (type !== 'RuntimeDefault' && type !== 'Unconfined' && type !== 'Localhost') {
    throw invalidArgument(`${field}.profile_type: unknown type ${type}, must be RuntimeDefault, Unconfined or Localhost`);
  }
  if (type !== 'Localhost' && ref !== '') throw invalidArgument(`${field}.localhost_ref: requires profile_type Localhost, not ${type}`);
  return { type, ref };
}

function seccompFromText(text: string): SeccompProfile {
  if (text === '' || text === 'unconfined') return { kind: 'unconfined' };
  if (text === 'runtime/default' || text === 'docker/default') return { kind: 'runtime-default' };
  if (text.startsWith('localhost/')) return localhostSeccomp('seccomp_profile_path', text);
  throw invalidArgument(`seccomp_profile_path: ${quoted(text)} is not unconfined, runtime/default, docker/default or localhost/<path>`);
}

function localhostSeccomp(field: string, ref: string): SeccompProfile {
  return { kind: 'localhost', path: absolutePath(field, ref.replace(/^localhost\//, '')) };
}

type AppArmorFields = { readonly apparmor?: cri.SecurityProfile | undefined; readonly apparmor_profile?: string | undefined };

/**
 * Returns the name of the profile; undefined for none. The message overrides the deprecated string; the kubelet sends both.
 * Without both, on a node with AppArmor: berth's default profile, or none for a privileged container.
 *
 * @throws {BerthError} INVALID_ARGUMENT for a profile on a node without AppArmor, a localhost profile without a name, and an unknown type.
 */
export function appArmorProfile(
  { apparmor, apparmor_profile: text = '' }: AppArmorFields,
  facts: RequestFacts,
  isPrivileged: boolean,
): string | undefined {
  const profile = apparmor === undefined ? text : textOf(apparmor);
  if (profile === 'unconfined') return undefined;
  if (profile !== '' && !facts.hasAppArmor)
    throw invalidArgument(`apparmor: ${quoted(profile)} is requested, but AppArmor is not enabled on this node`);
  if (profile === '' || profile === 'runtime/default') return facts.hasAppArmor && !isPrivileged ? defaultProfileName : undefined;
  const name = profile.startsWith('localhost/') ? profile.slice('localhost/'.length) : '';
  if (name === '') throw invalidArgument(`apparmor: ${quoted(profile)} is not unconfined, runtime/default or localhost/<profile>`);
  return name;
}

/** Converts the message to the deprecated string form. */
function textOf(profile: cri.SecurityProfile): string {
  const { type, ref } = typeAndRef('apparmor', profile);
  if (type === 'Localhost') return `localhost/${ref.replace(/^localhost\//, '')}`;
  return type === 'Unconfined' ? 'unconfined' : 'runtime/default';
}

/** A sensitivity or a range of two, then categories 0 to 1023, single or as from.to: selinux(8), MLS. */
const selinuxLevel = /^s\d{1,2}(-s\d{1,2})?(:c\d{1,4}(\.c\d{1,4})?(,c\d{1,4}(\.c\d{1,4})?)*)?$/;

/**
 * A label has no meaning on a node without SELinux and is ignored there, as by containerd and CRI-O: manifests that are used on all nodes have labels, such
 * as those of network plugins.
 *
 * @returns whether a label is ignored that asks for confinement. spc_t asks for none.
 * @throws {BerthError} INVALID_ARGUMENT for an invalid level, on any node; UNIMPLEMENTED for a label on a node with SELinux, where a container without
 *   it would be less confined than requested.
 */
export function checkSelinux(options: cri.SELinuxOption | undefined, facts: RequestFacts, isPrivileged: boolean): boolean {
  const { user = '', role = '', type = '', level = '' } = options ?? {};
  const categories = [...level.matchAll(/c(\d+)/g)].map(([, category]) => Number(category));
  if (level !== '' && (!selinuxLevel.test(level) || categories.some((category) => category > 1023))) {
    throw invalidArgument(`selinux_options.level: invalid level ${quoted(level)}`);
  }
  if (isPrivileged || `${user}${role}${type}${level}` === '') return false;
  if (facts.hasSelinux) throw unimplemented('selinux_options: SELinux is enabled on this node, and berth cannot set SELinux labels');
  return type !== 'spc_t';
}
