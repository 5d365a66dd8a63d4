/**
 * Checks of request fields, shared by the files that convert messages to specs. Pure.
 *
 * Every error is a BerthError INVALID_ARGUMENT with the CRI's name of the field.
 */
import { posix } from 'node:path';
import { invalidArgument } from '../../lib/errors.ts';

/** The facts about the node that decide whether a request can be served. */
export type RequestFacts = {
  readonly canMountRecursivelyReadonly: boolean;
  readonly hasAppArmor: boolean;
  readonly hasSelinux: boolean;
  /** Whether containers can have cgroup namespaces of their own; absent: no. */
  readonly hasCgroupNamespaces?: boolean;
  /** Whether the kernel protects the limits of a cgroup from the processes in its namespace: nsdelegate; absent: no. */
  readonly hasDelegatedCgroups?: boolean;
};

/** Returns a value for an error message: quoted, escaped and truncated to 128 characters. */
export function quoted(text: string): string {
  return JSON.stringify(text.length > 128 ? `${text.slice(0, 128)}…` : text);
}

/**
 * Limits of what a record keeps, because lists return it for every object: a response above 16 MiB is refused by the kubelet, which then sees no object at
 * all. Kubernetes allows 256 KiB of annotations to a pod (apimachinery, TotalAnnotationSizeLimitB) and names of 253 bytes.
 */
const textBytesMax = 4096;
const nameBytesMax = 255;
const mapBytesMax = 1024 * 1024;
const listItemsMax = 4096;

/** @throws {BerthError} INVALID_ARGUMENT for a text of more than 4096 bytes (PATH_MAX). */
export function boundedText(field: string, text: string): string {
  const bytes = Buffer.byteLength(text);
  if (bytes > textBytesMax) throw invalidArgument(`${field}: ${bytes} bytes exceed the limit of ${textBytesMax}`);
  return text;
}

/** @throws {BerthError} INVALID_ARGUMENT for keys and values of more than 1 MiB together. */
export function boundedMap(field: string, map: Readonly<Record<string, string>> | undefined): Readonly<Record<string, string>> {
  const bytes = Object.entries(map ?? {}).reduce((total, [key, value]) => total + Buffer.byteLength(key) + Buffer.byteLength(value), 0);
  if (bytes > mapBytesMax) throw invalidArgument(`${field}: ${bytes} bytes exceed the limit of ${mapBytesMax}`);
  return map ?? {};
}

/** @throws {BerthError} INVALID_ARGUMENT for more than 4096 items, before any of them is looked at. */
export function boundedList<Item>(field: string, list: readonly Item[] | undefined): readonly Item[] {
  const items = list ?? [];
  if (items.length > listItemsMax) throw invalidArgument(`${field}: ${items.length} items exceed the limit of ${listItemsMax}`);
  return items;
}

/** Checks that the text is not empty and has no control characters. */
export function requiredName(field: string, text: string | undefined): string {
  if (text === undefined || text === '') throw invalidArgument(`${field}: missing`);
  return singleLine(field, text);
}

/** Refuses control characters, which would inject lines into the files and variables that contain the text, and more than 4096 bytes. */
export function singleLine(field: string, text: string): string {
  boundedText(field, text);
  // biome-ignore lint/suspicious/noControlCharactersInRegex: this matches control characters.
  if (/[\u0000-\u001f\u007f]/.test(text)) throw invalidArgument(`${field}: ${quoted(text)} contains a control character`);
  return text;
}

/** Refuses NUL, which terminates strings in system calls. The text may be a secret argument, so the error does not contain it. */
export function withoutNul(field: string, text: string): string {
  if (text.includes('\0')) throw invalidArgument(`${field}: contains NUL`);
  return text;
}

/** Checks for an absolute path. @returns the path unchanged. */
export function absolutePath(field: string, path: string | undefined): string {
  if (path === undefined || path === '') throw invalidArgument(`${field}: missing`);
  if (!posix.isAbsolute(path)) throw invalidArgument(`${field}: ${quoted(path)} is not an absolute path`);
  return boundedPath(field, path);
}

/** @throws {BerthError} INVALID_ARGUMENT for a path that no file system can hold: NUL, more than 4096 bytes, or a name of more than 255 (NAME_MAX). */
export function boundedPath(field: string, path: string): string {
  withoutNul(field, boundedText(field, path));
  const longest = Math.max(...path.split('/').map((name) => Buffer.byteLength(name)));
  if (longest > nameBytesMax) throw invalidArgument(`${field}: a name of ${longest} bytes exceeds the limit of ${nameBytesMax}`);
  return path;
}

/**
 * Returns the number in a 64-bit field; 0 if unset.
 * @throws {BerthError} INVALID_ARGUMENT for a number below `min` or above `max`.
 */
export function wholeNumber(field: string, text: string | number | undefined, min: number, max: number): number {
  const number = Number(text ?? 0);
  if (!Number.isInteger(number) || number < min || number > max) throw invalidArgument(`${field}: ${text} is not between ${min} and ${max}`);
  return number;
}

/** The largest user or group id: setresuid(2) interprets 2^32 - 1 as "unchanged". */
const idMax = 0xfffffffe;

/** @throws {BerthError} INVALID_ARGUMENT for an invalid user or group id. */
export function idNumber(field: string, text: string | undefined): number {
  return wholeNumber(field, text, 0, idMax);
}

/**
 * Copies values into one new buffer. Decoded values are views of the whole request, and small buffers share pools of 8 KiB, so a single
 * value would keep either in memory.
 */
export function ownBytes(values: readonly Buffer[]): Buffer[] {
  const own = Buffer.allocUnsafeSlow(values.reduce((total, value) => total + value.length, 0));
  let end = 0;
  return values.map((value) => {
    const start = end;
    end += value.copy(own, start);
    return own.subarray(start, end);
  });
}

type Present<Fields> = { [Key in keyof Fields as undefined extends Fields[Key] ? never : Key]: Fields[Key] } & {
  [Key in keyof Fields as undefined extends Fields[Key] ? Key : never]?: Exclude<Fields[Key], undefined>;
};

/** Removes undefined fields: in specs, absent fields are missing. */
export function present<Fields extends object>(fields: Fields): Present<Fields> {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as Present<Fields>;
}
