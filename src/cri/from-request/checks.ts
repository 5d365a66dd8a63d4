/**
 * Small checks of what a request says, shared by the files that turn messages into specs. Pure.
 *
 * Every error is a BerthError INVALID_ARGUMENT that names the field as the CRI has it.
 */
import { posix } from 'node:path';
import { invalidArgument } from '../../lib/errors.ts';

/** `facts` of the node that decide whether a request can be served. */
export type RequestFacts = { readonly canMountRecursivelyReadonly: boolean; readonly hasAppArmor: boolean; readonly hasSelinux: boolean };

/** A value for messages: quoted, escaped and not longer than a line. */
export function quoted(text: string): string {
  return JSON.stringify(text.length > 128 ? `${text.slice(0, 128)}…` : text);
}

/** @returns the text, which is neither empty nor holds control characters. */
export function requiredName(field: string, text: string | undefined): string {
  if (text === undefined || text === '') throw invalidArgument(`${field}: it is missing`);
  return singleLine(field, text);
}

/** Refuses control characters: the text goes into files and variables where they would start something new. */
export function singleLine(field: string, text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for.
  if (/[\u0000-\u001f\u007f]/.test(text)) throw invalidArgument(`${field}: ${quoted(text)} holds a control character`);
  return text;
}

/** Refuses NUL, which ends every string that the kernel takes. The text may be an argument, and so a secret: no error shows it. */
export function withoutNul(field: string, text: string): string {
  if (text.includes('\0')) throw invalidArgument(`${field}: it holds a NUL`);
  return text;
}

/** @returns the path as it was given. */
export function absolutePath(field: string, path: string | undefined): string {
  if (path === undefined || path === '') throw invalidArgument(`${field}: it is missing`);
  if (!posix.isAbsolute(path)) throw invalidArgument(`${field}: ${quoted(path)} is not an absolute path`);
  return withoutNul(field, path);
}

/**
 * The number in a 64-bit field; 0 when it was not sent.
 * @throws {BerthError} INVALID_ARGUMENT for a number outside of the bounds, which are inclusive.
 */
export function wholeNumber(field: string, text: string | number | undefined, min: number, max: number): number {
  const number = Number(text ?? 0);
  if (!Number.isInteger(number) || number < min || number > max) throw invalidArgument(`${field}: ${text} is not between ${min} and ${max}`);
  return number;
}

/** The greatest user or group id: 2^32 - 1 means "leave as it is" in setresuid(2). */
const idMax = 0xfffffffe;

/** @throws {BerthError} INVALID_ARGUMENT for what cannot be the id of a user or a group. */
export function idNumber(field: string, text: string | undefined): number {
  return wholeNumber(field, text, 0, idMax);
}

/**
 * The same bytes in memory of their own, one piece for all. What a decoder gives are views of the whole request, and small buffers
 * share pages of 8 KiB: either would be held for as long as a single value is.
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

/** The fields that are not undefined: specs leave out what is absent. */
export function present<Fields extends object>(fields: Fields): Present<Fields> {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as Present<Fields>;
}
