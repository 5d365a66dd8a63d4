/**
 * Who a container's process is: user, groups and home from the request, the image's User, and the image's own /etc/passwd and /etc/group.
 *
 * Pure. The two files are an image's and so may be hostile: the caller bounds their size, and lines that make no sense are passed over.
 */
import { invalidArgument } from '../../lib/errors.ts';
import type { IdMap, IdRange, UserSpec } from '../state/spec.ts';

type PasswdEntry = { readonly name: string; readonly uid: number; readonly gid: number; readonly home: string };
type GroupEntry = { readonly name: string; readonly gid: number; readonly members: readonly string[] };

export type Identity = {
  readonly uid: number;
  readonly gid: number;
  /** For setgroups(2); the primary group is the first. */
  readonly additionalGids: readonly number[];
  /** `/` when passwd does not say. */
  readonly home: string;
};

export type IdentityRequest = {
  readonly userSpec: UserSpec;
  /** The image config's User. */
  readonly imageUser: string;
  /** Those of the pod's user namespace. */
  readonly ids?: IdMap;
};

/** Null: the image has no such file. */
export type IdentityFiles = { readonly passwd: Buffer | null; readonly group: Buffer | null };

/** 2^32 - 1 means "leave as it is" in setresuid(2). */
const idMax = 0xfffffffe;
/** NGROUPS_MAX of include/uapi/linux/limits.h. */
const groupsMax = 65536;

/**
 * The identity of the first process of a container.
 *
 * The user is the request's name, else its number, else the image's User (`uid`, `uid:gid`, `name`, `name:group`), else root.
 * A name must be in passwd, a number need not. The group is the request's, else the image's when its User counts, else passwd's, else 0.
 * Text of digits is always a number, also where passwd has a user of that name: the kubelet's runAsNonRoot check takes it for one.
 * Groups: the request's and the primary one; policy `merge` adds those whose members name the user.
 *
 * @throws {BerthError} INVALID_ARGUMENT for an unknown name, an id beyond 2^32 - 2 or outside of `ids`, a group without a user, more than 65536 groups.
 */
export function resolveIdentity(request: IdentityRequest, files: IdentityFiles): Identity {
  const { userSpec } = request;
  const users = parsePasswd(files.passwd ?? Buffer.alloc(0));
  const groups = parseGroup(files.group ?? Buffer.alloc(0));
  const [user, group] = requestedNames(userSpec, request.imageUser);
  const { uid, entry } = findUser(users, user);
  const gid = group === undefined ? (entry?.gid ?? 0) : findGroup(groups, group);
  const memberships = userSpec.groupsPolicy === 'merge' && entry !== undefined ? groups.filter(({ members }) => members.includes(entry.name)) : [];
  const additional = new Set([gid, ...userSpec.supplementalGroups.map(checkedId), ...memberships.map((group) => group.gid)]);
  if (additional.size > groupsMax) throw invalidArgument(`user ${shown(user)} is in ${additional.size} groups: the kernel takes ${groupsMax}`);
  checkMapped(uid, [...additional], request.ids);
  return { uid, gid, additionalGids: [...additional], home: entry?.home || '/' };
}

function checkMapped(uid: number, gids: readonly number[], ids: IdMap | undefined): void {
  if (ids === undefined) return;
  const refuse = (what: string, { length }: IdRange) =>
    invalidArgument(`${what} is not in the pod's user namespace, which has ids 0 to ${length - 1}`);
  if (uid >= ids.uids.length) throw refuse(`user ${uid}`, ids.uids);
  const gid = gids.find((group) => group >= ids.gids.length);
  if (gid !== undefined) throw refuse(`group ${gid}`, ids.gids);
}

/** passwd(5): the lines that have a name and two ids. */
function parsePasswd(bytes: Buffer): PasswdEntry[] {
  return linesOf(bytes).flatMap(([name = '', , uidText, gidText, , home = '']) => {
    const [uid, gid] = [parseId(uidText), parseId(gidText)];
    return name === '' || uid === undefined || gid === undefined ? [] : [{ name, uid, gid, home }];
  });
}

/** group(5): the lines that have a name and an id. */
function parseGroup(bytes: Buffer): GroupEntry[] {
  return linesOf(bytes).flatMap(([name = '', , gidText, members = '']) => {
    const gid = parseId(gidText);
    return name === '' || gid === undefined ? [] : [{ name, gid, members: members.split(',').map((member) => member.trim()) }];
  });
}

/** What names the user and, if anything does, the group. */
function requestedNames(spec: UserSpec, imageUser: string): [string, string | undefined] {
  const user = spec.username || (spec.uid === undefined ? undefined : String(checkedId(spec.uid)));
  const group = spec.gid === undefined ? undefined : String(checkedId(spec.gid));
  if (user !== undefined) return [user, group];
  if (group !== undefined) throw invalidArgument(`run as group ${group}: a group is given only with a user`);
  const colon = imageUser.indexOf(':');
  if (colon === -1) return [imageUser || '0', undefined];
  return [imageUser.slice(0, colon) || '0', imageUser.slice(colon + 1) || undefined];
}

function findUser(users: readonly PasswdEntry[], user: string): { uid: number; entry: PasswdEntry | undefined } {
  if (/^\d+$/.test(user)) {
    const uid = checkedId(Number(user));
    return { uid, entry: users.find((entry) => entry.uid === uid) };
  }
  const entry = users.find(({ name }) => name === user);
  if (entry === undefined) throw invalidArgument(`user ${shown(user)} is not in the image's /etc/passwd`);
  return { uid: entry.uid, entry };
}

function findGroup(groups: readonly GroupEntry[], group: string): number {
  if (/^\d+$/.test(group)) return checkedId(Number(group));
  const entry = groups.find(({ name }) => name === group);
  if (entry === undefined) throw invalidArgument(`group ${shown(group)} is not in the image's /etc/group`);
  return entry.gid;
}

function checkedId(id: number): number {
  if (Number.isInteger(id) && id >= 0 && id <= idMax) return id;
  throw invalidArgument(`user or group id ${id}: must be from 0 to ${idMax}`);
}

/** Fields of each line; lines with NUL are left out, for no C library reads beyond it. */
function linesOf(bytes: Buffer): string[][] {
  const lines = bytes.toString('utf8').split('\n');
  return lines.filter((line) => line.includes(':') && !line.startsWith('#') && !line.includes('\0')).map((line) => line.trim().split(':'));
}

function parseId(text: string | undefined): number | undefined {
  if (text === undefined || !/^\d{1,10}$/.test(text)) return undefined;
  return Number(text) <= idMax ? Number(text) : undefined;
}

const shown = (name: string): string => JSON.stringify(name.slice(0, 64));
