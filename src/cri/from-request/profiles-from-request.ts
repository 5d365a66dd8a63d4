/**
 * Seccomp, AppArmor and SELinux as requests ask for them, in the present and the deprecated forms. Pure; profiles are read by the engine.
 */
import { defaultProfileName } from '../../engine/plan/apparmor.ts';
import type { SeccompProfile } from '../../engine/state/spec.ts';
import { invalidArgument, unimplemented } from '../../lib/errors.ts';
import type * as cri from '../wire/messages.ts';
import { absolutePath, quoted, type RequestFacts } from './checks.ts';

/**
 * The message wins over the text, which is deprecated. Neither: unconfined. An empty message: the runtime's own profile.
 * Source: cri-api, SecurityProfile and seccomp_profile_path.
 *
 * @throws {BerthError} INVALID_ARGUMENT for a localhost profile without an absolute path, and for an unknown kind.
 */
export function seccompProfile(fields: {
  readonly seccomp?: cri.SecurityProfile | undefined;
  readonly seccomp_profile_path?: string | undefined;
}): SeccompProfile {
  const { seccomp, seccomp_profile_path: text = '' } = fields;
  if (seccomp === undefined) return seccompFromText(text);
  const { profile_type: type = 'RuntimeDefault', localhost_ref: ref = '' } = seccomp;
  if (type === 'RuntimeDefault') return { kind: 'runtime-default' };
  if (type === 'Unconfined') return { kind: 'unconfined' };
  if (type === 'Localhost') return localhostSeccomp('seccomp.localhost_ref', ref);
  throw invalidArgument(`seccomp.profile_type: there is no type ${type}`);
}

function seccompFromText(text: string): SeccompProfile {
  if (text === '' || text === 'unconfined') return { kind: 'unconfined' };
  if (text === 'runtime/default' || text === 'docker/default') return { kind: 'runtime-default' };
  if (text.startsWith('localhost/')) return localhostSeccomp('seccomp_profile_path', text);
  throw invalidArgument(`seccomp_profile_path: ${quoted(text)} is none of unconfined, runtime/default, docker/default and localhost/<path>`);
}

function localhostSeccomp(field: string, ref: string): SeccompProfile {
  return { kind: 'localhost', path: absolutePath(field, ref.replace(/^localhost\//, '')) };
}

type AppArmorFields = { readonly apparmor?: cri.SecurityProfile | undefined; readonly apparmor_profile?: string | undefined };

/**
 * The name of the profile; undefined: none. The message wins over the text, which is deprecated; the kubelet sends both.
 * Neither on a node with AppArmor: berth's own, but none for a privileged container, unless it names one.
 *
 * @throws {BerthError} INVALID_ARGUMENT for a profile on a node without AppArmor, a localhost profile without a name, and an unknown kind.
 */
export function appArmorProfile(
  { apparmor, apparmor_profile: text = '' }: AppArmorFields,
  facts: RequestFacts,
  isPrivileged: boolean,
): string | undefined {
  const asked = apparmor === undefined ? text : textOf(apparmor);
  if (asked === 'unconfined') return undefined;
  if (asked !== '' && !facts.hasAppArmor) throw invalidArgument(`apparmor: ${quoted(asked)} is asked for, but AppArmor is not enabled on this node`);
  if (asked === '' || asked === 'runtime/default') return facts.hasAppArmor && !isPrivileged ? defaultProfileName : undefined;
  const name = asked.startsWith('localhost/') ? asked.slice('localhost/'.length) : '';
  if (name === '') throw invalidArgument(`apparmor: ${quoted(asked)} is none of unconfined, runtime/default and localhost/<profile>`);
  return name;
}

/** The message in the words of the text. */
function textOf({ profile_type: type = 'RuntimeDefault', localhost_ref: ref = '' }: cri.SecurityProfile): string {
  if (type === 'Localhost') return `localhost/${ref.replace(/^localhost\//, '')}`;
  return type === 'Unconfined' ? 'unconfined' : 'runtime/default';
}

/** Sensitivity or a range of two, then categories 0 to 1023, single or from.to: selinux(8), MLS. */
const selinuxLevel = /^s\d{1,2}(-s\d{1,2})?(:c\d{1,4}(\.c\d{1,4})?(,c\d{1,4}(\.c\d{1,4})?)*)?$/;

/** @throws {BerthError} INVALID_ARGUMENT for a malformed level, on any node; UNIMPLEMENTED for a label on a node with SELinux. */
export function checkSelinux(options: cri.SELinuxOption | undefined, facts: RequestFacts, isPrivileged: boolean): void {
  const { user = '', role = '', type = '', level = '' } = options ?? {};
  const categories = [...level.matchAll(/c(\d+)/g)].map(([, category]) => Number(category));
  if (level !== '' && (!selinuxLevel.test(level) || categories.some((category) => category > 1023))) {
    throw invalidArgument(`selinux_options.level: ${quoted(level)} is malformed`);
  }
  if (facts.hasSelinux && !isPrivileged && `${user}${role}${type}${level}` !== '') {
    throw unimplemented('selinux_options: berth does not set SELinux labels yet');
  }
}
