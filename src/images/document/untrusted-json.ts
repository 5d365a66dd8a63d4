/**
 * Reads JSON that strangers wrote, and shows their text in one-line messages.
 *
 * Pure: no document is trusted to have the shape that it should have, and none is printed as it came.
 */
import { type BerthError, failedPrecondition } from '../../lib/errors.ts';

export type JsonObject = Readonly<Record<string, unknown>>;

/** Text for a message: quoted, on one line, without anything that moves a cursor or turns the direction of writing. */
export function quoted(text: string, charactersMax = 120): string {
  return JSON.stringify(shortened(text, charactersMax)).replace(unprintable, escaped);
}

/** As quoted(), without the quotes: for sentences that a server wrote. */
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
 * @param what begins the message of every error, e.g. `manifest`.
 * @throws {BerthError} FAILED_PRECONDITION unless the bytes are UTF-8 and one JSON object.
 */
export function parseJsonObject(bytes: Buffer, what: string): JsonObject {
  return toObject(parseJson(bytes, what), what);
}

/** As parseJsonObject(), for a list. */
export function parseJsonArray(bytes: Buffer, what: string, lengthMax: number): readonly unknown[] {
  return toArray(parseJson(bytes, what), what, lengthMax);
}

/** Of a document's values and levels, above those of an index of thousands of images: 8 MiB of `[],` would be 250 MiB of objects, and seconds of work. */
const jsonValuesMax = 250_000;
const jsonDepthMax = 100;

function parseJson(bytes: Buffer, what: string): unknown {
  checkExtent(bytes, what);
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  } catch (error) {
    // The parser's own message quotes the document, so it is left out.
    throw failedPrecondition(`${what}: is not JSON`, error);
  }
}

/** Before it is parsed: counts what begins a value, outside of texts. */
function checkExtent(bytes: Buffer, what: string): void {
  let [values, depth] = [0, 0];
  let isInText = false;
  for (let at = 0; at < bytes.length; at += 1) {
    const byte = bytes[at];
    if (byte === 0x22) isInText = !isInText;
    else if (isInText) at += byte === 0x5c ? 1 : 0;
    else if (byte === 0x2c) values += 1;
    else if (byte === 0x5b || byte === 0x7b) {
      values += 1;
      depth += 1;
      if (depth > jsonDepthMax) throw failedPrecondition(`${what}: has more than ${jsonDepthMax} levels`);
    } else if (byte === 0x5d || byte === 0x7d) depth -= 1;
    if (values > jsonValuesMax) throw failedPrecondition(`${what}: has more than ${jsonValuesMax} values`);
  }
}

export function toObject(value: unknown, what: string): JsonObject {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw wrongType(what, 'an object', value);
  return value as JsonObject;
}

/** @throws {BerthError} FAILED_PRECONDITION for more than `lengthMax` elements too. */
export function toArray(value: unknown, what: string, lengthMax: number): readonly unknown[] {
  if (!Array.isArray(value)) throw wrongType(what, 'a list', value);
  if (value.length > lengthMax) throw failedPrecondition(`${what}: has ${value.length} entries, more than the ${lengthMax} that are allowed`);
  return value;
}

export function toText(value: unknown, what: string): string {
  if (typeof value !== 'string') throw wrongType(what, 'a text', value);
  // A NUL ends an argument, a variable or a path of the kernel's too early.
  if (value.includes('\0')) throw failedPrecondition(`${what}: contains a NUL`);
  return value;
}

/** @throws {BerthError} FAILED_PRECONDITION naming a field that is not one of these. */
export function onlyFields(object: JsonObject, fields: readonly string[], what: string): void {
  const other = Object.keys(object).find((field) => !fields.includes(field));
  if (other !== undefined) throw failedPrecondition(`${what}: ${quoted(other)} is not known here`);
}

/** A key that one object of a JSON text has twice: JSON.parse() takes the later one and says nothing. */
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

/** '' for what is absent or null. */
export function toOptionalText(value: unknown, what: string): string {
  return value === undefined || value === null ? '' : toText(value, what);
}

/** Empty for what is absent or null. */
export function toOptionalTexts(value: unknown, what: string, lengthMax: number): readonly string[] {
  return value === undefined || value === null ? [] : toTexts(value, what, lengthMax);
}

export function toTexts(value: unknown, what: string, lengthMax: number): readonly string[] {
  return toArray(value, what, lengthMax).map((element, index) => toText(element, `${what}[${index}]`));
}

/** Names and values of an object whose values are all text; empty for what is absent or null. */
export function toOptionalTextMap(value: unknown, what: string, lengthMax: number): Readonly<Record<string, string>> {
  const entries = toOptionalEntries(value, what, lengthMax);
  return Object.fromEntries(entries.map(([key, text]) => [toText(key, what), toOptionalText(text, `${what}[${quoted(key)}]`)]));
}

export function toOptionalEntries(value: unknown, what: string, lengthMax: number): readonly (readonly [string, unknown])[] {
  if (value === undefined || value === null) return [];
  const entries = Object.entries(toObject(value, what));
  if (entries.length > lengthMax) throw failedPrecondition(`${what}: has ${entries.length} entries, more than the ${lengthMax} that are allowed`);
  return entries;
}

export function toSizeBytes(value: unknown, what: string): number {
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 0) throw wrongType(what, 'a number of bytes', value);
  return value;
}

function wrongType(what: string, expected: string, value: unknown): BerthError {
  const found = value === null ? 'null' : Array.isArray(value) ? 'a list' : typeof value === 'number' ? String(value) : typeof value;
  return failedPrecondition(`${what}: should be ${expected}, is ${found}`);
}
