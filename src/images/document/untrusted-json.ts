/**
 * Parses and validates untrusted JSON, and quotes untrusted text in one-line messages.
 *
 * Pure: assumes nothing about the structure of a document, and prints none of it unescaped.
 */
import { type BerthError, failedPrecondition } from '../../lib/errors.ts';
import { goFields, type JsonObject } from '../../lib/go-json.ts';

/** Returns a text for a message: quoted, on one line, with control characters and changes of the writing direction escaped. */
export function quoted(text: string, charactersMax = 120): string {
  return JSON.stringify(shortened(text, charactersMax)).replace(unprintable, escaped);
}

/** As quoted(), but without the quotes: for messages of a server. */
export function oneLine(text: string, charactersMax = 200): string {
  return shortened(text.replace(/\s+/g, ' ').trim(), charactersMax).replace(unprintable, escaped);
}

const unprintable = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]/gu;

function shortened(text: string, charactersMax: number): string {
  return text.length > charactersMax ? `${text.slice(0, charactersMax)}…` : text;
}

function escaped(character: string): string {
  return `\\u{${(character.codePointAt(0) ?? 0).toString(16)}}`;
}

/**
 * Parses one JSON object.
 *
 * @param what the subject of all errors, such as `manifest`.
 * @throws {BerthError} FAILED_PRECONDITION unless the bytes are one JSON object in UTF-8.
 */
export function parseJsonObject(bytes: Buffer, what: string): JsonObject {
  return toObject(parseJson(bytes, what, 'refuse'), what);
}

/**
 * Parses an object that a Go program wrote or would read, and returns the named fields as goFields(). Invalid UTF-8 in strings becomes U+FFFD.
 *
 * @throws {BerthError} FAILED_PRECONDITION unless the bytes are one JSON object or null.
 */
export function parseFields<Name extends string>(bytes: Buffer, what: string, names: readonly Name[]): { readonly [N in Name]: unknown } {
  return toFields(parseJson(bytes, what, 'replace'), what, names);
}

/** As parseFields(), for a list. */
export function parseList(bytes: Buffer, what: string, lengthMax: number): readonly unknown[] {
  return toList(parseJson(bytes, what, 'replace'), what, lengthMax);
}

/** Limits above an index of thousands of images. Without them, 8 MiB of `[],` become 250 MiB of objects and take seconds. */
const jsonValuesMax = 250_000;
const jsonDepthMax = 100;

function parseJson(bytes: Buffer, what: string, invalidUtf8: 'refuse' | 'replace'): unknown {
  checkExtent(bytes, what);
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: invalidUtf8 === 'refuse' }).decode(bytes));
  } catch (error) {
    // The parser's message quotes the document and is therefore omitted.
    throw failedPrecondition(`${what}: invalid JSON`, error);
  }
}

/** Checks the limits before parsing: counts the bytes outside of strings that start a value. */
function checkExtent(bytes: Buffer, what: string): void {
  let [values, depth] = [0, 0];
  let isInString = false;
  for (let at = 0; at < bytes.length; at += 1) {
    const byte = bytes[at];
    if (byte === 0x22) isInString = !isInString;
    else if (isInString) at += byte === 0x5c ? 1 : 0;
    else if (byte === 0x2c) values += 1;
    else if (byte === 0x5b || byte === 0x7b) {
      values += 1;
      depth += 1;
      if (depth > jsonDepthMax) throw failedPrecondition(`${what}: more than ${jsonDepthMax} levels of nesting`);
    } else if (byte === 0x5d || byte === 0x7d) depth -= 1;
    if (values > jsonValuesMax) throw failedPrecondition(`${what}: more than ${jsonValuesMax} values`);
  }
}

export function toObject(value: unknown, what: string): JsonObject {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw wrongType(what, 'an object', value);
  return value as JsonObject;
}

/** Returns the named fields of an object as goFields(); all undefined for an absent or null value. */
export function toFields<Name extends string>(value: unknown, what: string, names: readonly Name[]): { readonly [N in Name]: unknown } {
  return goFields(value === undefined || value === null ? {} : toObject(value, what), names);
}

/** As toArray(), but an absent or null value is an empty list. */
export function toList(value: unknown, what: string, lengthMax: number): readonly unknown[] {
  return value === undefined || value === null ? [] : toArray(value, what, lengthMax);
}

/** @throws {BerthError} FAILED_PRECONDITION for another type, and for more than `lengthMax` elements. */
export function toArray(value: unknown, what: string, lengthMax: number): readonly unknown[] {
  if (!Array.isArray(value)) throw wrongType(what, 'a list', value);
  if (value.length > lengthMax) throw failedPrecondition(`${what}: ${value.length} entries exceed the limit of ${lengthMax}`);
  return value;
}

export function toText(value: unknown, what: string): string {
  if (typeof value !== 'string') throw wrongType(what, 'a string', value);
  // For the kernel, a NUL ends an argument, a variable or a path.
  if (value.includes('\0')) throw failedPrecondition(`${what}: contains a NUL`);
  return value;
}

/** Checks that an object has only the given fields. @throws {BerthError} FAILED_PRECONDITION with the first unknown field. */
export function onlyFields(object: JsonObject, fields: readonly string[], what: string): void {
  const unknown = Object.keys(object).find((field) => !fields.includes(field));
  if (unknown !== undefined) throw failedPrecondition(`${what}: unknown field ${quoted(unknown)}`);
}

/** Returns the first duplicate key of an object in a JSON text: JSON.parse() silently uses the last value. */
export function duplicateKey(text: string): string | undefined {
  const open: Set<string>[] = [];
  for (const [token, string, isKey] of text.matchAll(/("(?:[^"\\]|\\.)*")(\s*:)?|[{}[\]]/g)) {
    if (token === '{' || token === '[') open.push(new Set());
    if (token === '}' || token === ']') open.pop();
    if (string === undefined || isKey === undefined) continue;
    const key = JSON.parse(string) as string;
    if (open.at(-1)?.has(key)) return key;
    open.at(-1)?.add(key);
  }
  return undefined;
}

/** Returns '' for an absent or null value. */
export function toOptionalText(value: unknown, what: string): string {
  return value === undefined || value === null ? '' : toText(value, what);
}

/** Returns an empty list for an absent or null value. A null element is ''. */
export function toOptionalTexts(value: unknown, what: string, lengthMax: number): readonly string[] {
  return toList(value, what, lengthMax).map((element, index) => toOptionalText(element, `${what}[${index}]`));
}

export function toTexts(value: unknown, what: string, lengthMax: number): readonly string[] {
  return toArray(value, what, lengthMax).map((element, index) => toText(element, `${what}[${index}]`));
}

/** Returns an object whose values are all strings; an empty one for an absent or null value. */
export function toOptionalTextMap(value: unknown, what: string, lengthMax: number): Readonly<Record<string, string>> {
  const entries = toOptionalEntries(value, what, lengthMax);
  return Object.fromEntries(entries.map(([key, text]) => [toText(key, what), toOptionalText(text, `${what}[${quoted(key)}]`)]));
}

export function toOptionalEntries(value: unknown, what: string, lengthMax: number): readonly (readonly [string, unknown])[] {
  if (value === undefined || value === null) return [];
  const entries = Object.entries(toObject(value, what));
  if (entries.length > lengthMax) throw failedPrecondition(`${what}: ${entries.length} entries exceed the limit of ${lengthMax}`);
  return entries;
}

export function toSizeBytes(value: unknown, what: string): number {
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 0) throw wrongType(what, 'a size in bytes', value);
  return value;
}

/** Returns 0 for an absent or null value. */
export function toOptionalSizeBytes(value: unknown, what: string): number {
  return value === undefined || value === null ? 0 : toSizeBytes(value, what);
}

function wrongType(what: string, expected: string, value: unknown): BerthError {
  const found = value === null ? 'null' : Array.isArray(value) ? 'a list' : typeof value === 'number' ? String(value) : typeof value;
  return failedPrecondition(`${what}: must be ${expected}, not ${found}`);
}
