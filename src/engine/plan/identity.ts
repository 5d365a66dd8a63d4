/**
 * Resolves user, groups and home directory of a container's process from the request, the image's User, and the image's /etc/passwd and /etc/group.
 *
 * Pure. The two files are untrusted: the caller limits their size, and malformed lines are ignored.
 */
import { invalidArgument } from '../../lib/errors.ts';
import type { IdMap, IdRange, UserSpec } from '../state/spec.ts';

type PasswdEntry = { readonly name: string; readonly uid: number; readonly gid: number; readonly home: string };
type GroupEntry = { readonly name: string; readonly gid: number; readonly members: string };

export type Identity = {
  readonly uid: number;
  readonly gid: number;
  /** For setgroups(2). The first is the primary group. */
  readonly additionalGids: readonly number[];
  /** `/` if passwd has no home directory for the user. */
  readonly home: string;
};

export type IdentityRequest = {
  readonly userSpec: UserSpec;
  /** The image config's User. */
  readonly imageUser: string;
  /** The ids that are mapped in the pod's user namespace; undefined: the pod has none. */
  readonly ids?: IdMap;
};

/** Contents of the files; null: the image has no such file. */
export type IdentityFiles = { readonly passwd: Buffer | null; readonly group: Buffer | null };

/** 2^32 - 1 means "no change" in setresuid(2). */
const idMax = 0xfffffffe;
/** NGROUPS_MAX of include/uapi/linux/limits.h. */
const groupsMax = 65536;

/**
 * Returns the identity of the first process of a container.
 *
 * The user is the request's name, else its number, else the image's User (`uid`, `uid:gid`, `name`, `name:group`), else root.
 * A name must be in passwd; a number need not. The group is the request's, else the image's if its User is used, else that of passwd, else 0.
 * Digits are always a number, even if passwd has a user of that name, as in the kubelet's runAsNonRoot check.
 * The additional groups are the primary group and those of the request. Policy `merge` adds the groups that list the user as a member.
 *
 * @throws {BerthError} INVALID_ARGUMENT for an unknown name, an id above 2^32 - 2 or outside `ids`, a group without a user, more than 65536 groups.
 */
export function resolveIdentity(request: IdentityRequest, files: IdentityFiles): Identity {
  const { userSpec } = request;
  const [user, group] = selectUser(userSpec, request.imageUser);
  const { uid, entry } = findUser(files.passwd, user);
  const gid = group === undefined ? (entry?.gid ?? 0) : findGroup(files.group, group);
  const memberships = userSpec.groupsPolicy === 'merge' && entry !== undefined ? gidsOfMember(files.group, entry.name) : [];
  const additional = new Set([gid, ...userSpec.supplementalGroups.map(checkedId), ...memberships]);
  if (additional.size > groupsMax) throw invalidArgument(`user ${shown(user)} is in ${additional.size} groups: the kernel allows ${groupsMax}`);
  checkMapped(uid, [...additional], request.ids);
  return { uid, gid, additionalGids: [...additional], home: entry?.home || '/' };
}

function checkMapped(uid: number, gids: readonly number[], ids: IdMap | undefined): void {
  if (ids === undefined) return;
  const unmapped = (what: string, { length }: IdRange) =>
    invalidArgument(`${what} is not mapped in the user namespace of the pod, which has ids 0 to ${length - 1}`);
  if (uid >= ids.uids.length) throw unmapped(`user ${uid}`, ids.uids);
  const gid = gids.find((group) => group >= ids.gids.length);
  if (gid !== undefined) throw unmapped(`group ${gid}`, ids.gids);
}

/** Parses passwd(5). Ignores lines without a name and two ids. */
function* parsePasswd(bytes: Buffer | null): Generator<PasswdEntry> {
  for (const [name = '', , uidText, gidText, , home = ''] of linesOf(bytes, 6)) {
    const [uid, gid] = [parseId(uidText), parseId(gidText)];
    if (name !== '' && uid !== undefined && gid !== undefined) yield { name, uid, gid, home };
  }
}

/** Parses group(5). Ignores lines without a name and an id. */
function* parseGroup(bytes: Buffer | null): Generator<GroupEntry> {
  for (const [name = '', , gidText, members = ''] of linesOf(bytes, 4)) {
    const gid = parseId(gidText);
    if (name !== '' && gid !== undefined) yield { name, gid, members };
  }
}

/** Returns the groups that list the user. */
function gidsOfMember(groupFile: Buffer | null, name: string): number[] {
  // Not split before a search: a line may have a million members.
  const lists = (members: string) => members.includes(name) && members.split(',').some((member) => member.trim() === name);
  const gids: number[] = [];
  for (const { gid, members } of parseGroup(groupFile)) if (lists(members)) gids.push(gid);
  return gids;
}

/** Returns the name or number of the user and, if specified, of the group. */
function selectUser(spec: UserSpec, imageUser: string): [string, string | undefined] {
  const user = spec.username || (spec.uid === undefined ? undefined : String(checkedId(spec.uid)));
  const group = spec.gid === undefined ? undefined : String(checkedId(spec.gid));
  if (user !== undefined) return [user, group];
  if (group !== undefined) throw invalidArgument(`run as group ${group}: a group requires a user`);
  const colon = imageUser.indexOf(':');
  if (colon === -1) return [imageUser || '0', undefined];
  return [imageUser.slice(0, colon) || '0', imageUser.slice(colon + 1) || undefined];
}

function findUser(passwd: Buffer | null, user: string): { uid: number; entry: PasswdEntry | undefined } {
  if (/^\d+$/.test(user)) {
    const uid = checkedId(Number(user));
    return { uid, entry: firstOf(parsePasswd(passwd), (entry) => entry.uid === uid) };
  }
  const entry = firstOf(parsePasswd(passwd), ({ name }) => name === user);
  if (entry === undefined) throw invalidArgument(`user ${shown(user)} not found in /etc/passwd of the image`);
  return { uid: entry.uid, entry };
}

function findGroup(groupFile: Buffer | null, group: string): number {
  if (/^\d+$/.test(group)) return checkedId(Number(group));
  const entry = firstOf(parseGroup(groupFile), ({ name }) => name === group);
  if (entry === undefined) throw invalidArgument(`group ${shown(group)} not found in /etc/group of the image`);
  return entry.gid;
}

function firstOf<Entry>(entries: Iterable<Entry>, matches: (entry: Entry) => boolean): Entry | undefined {
  for (const entry of entries) if (matches(entry)) return entry;
  return undefined;
}

function checkedId(id: number): number {
  if (Number.isInteger(id) && id >= 0 && id <= idMax) return id;
  throw invalidArgument(`invalid user or group id ${id}: must be from 0 to ${idMax}`);
}

/**
 * Returns the first fields of each line, one line at a time: all lines of a hostile file at once would take hundreds of MiB.
 * Ignores lines with NUL, because a C library stops there.
 */
function* linesOf(bytes: Buffer | null, fields: number): Generator<string[]> {
  const text = bytes?.toString('utf8') ?? '';
  for (let start = 0; start < text.length; ) {
    const end = text.indexOf('\n', start);
    const line = text.slice(start, end === -1 ? undefined : end);
    start += line.length + 1;
    if (line.includes(':') && !line.startsWith('#') && !line.includes('\0')) yield line.trim().split(':', fields);
  }
}

function parseId(text: string | undefined): number | undefined {
  if (text === undefined || !/^\d{1,10}$/.test(text)) return undefined;
  return Number(text) <= idMax ? Number(text) : undefined;
}

const shown = (name: string): string => JSON.stringify(name.slice(0, 64));
