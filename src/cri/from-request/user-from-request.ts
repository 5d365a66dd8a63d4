/**
 * Converts run_as_user, run_as_group, run_as_username and the supplemental groups. Pure: the engine looks up names.
 */
import type { UserSpec } from '../../engine/state/spec.ts';
import { invalidArgument } from '../../lib/errors.ts';
import type * as cri from '../wire/messages.ts';
import { idNumber, present, quoted, singleLine } from './checks.ts';

type UserFields = Pick<
  cri.LinuxContainerSecurityContext,
  'run_as_user' | 'run_as_group' | 'run_as_username' | 'supplemental_groups' | 'supplemental_groups_policy'
>;

/** @throws {BerthError} INVALID_ARGUMENT for a group without a user, a name together with a number, and invalid ids. */
export function userSpec(fields: UserFields): UserSpec {
  const { run_as_user: user, run_as_group: group, run_as_username: username = '', supplemental_groups_policy: policy = 'Merge' } = fields;
  if (user !== undefined && username !== '') throw invalidArgument(`run_as_username: ${quoted(username)} conflicts with run_as_user`);
  if (group !== undefined && user === undefined && username === '') {
    throw invalidArgument('run_as_group: requires run_as_user or run_as_username');
  }
  if (policy !== 'Merge' && policy !== 'Strict') throw invalidArgument(`supplemental_groups_policy: unknown policy ${policy}`);
  return present({
    uid: user && idNumber('run_as_user', user.value),
    gid: group && idNumber('run_as_group', group.value),
    username: username === '' ? undefined : userName(username),
    supplementalGroups: (fields.supplemental_groups ?? []).map((gid) => idNumber('supplemental_groups', gid)),
    groupsPolicy: policy === 'Strict' ? ('strict' as const) : ('merge' as const),
  });
}

function userName(name: string): string {
  // The name is compared with the first field of /etc/passwd, which is separated by colons.
  if (name.includes(':')) throw invalidArgument(`run_as_username: ${quoted(name)} contains a colon`);
  return singleLine('run_as_username', name);
}
