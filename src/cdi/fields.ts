/**
 * Reads typed fields of a parsed document. An error names the path of the invalid value in the document.
 *
 * Pure. Knows nothing about devices.
 */
import { invalidArgument } from '../lib/errors.ts';
import { foldKey, goFields, type JsonObject } from '../lib/go-json.ts';

/**
 * Readers of one object's fields. Each throws a BerthError INVALID_ARGUMENT for a value of another type. Null and absent fields are undefined; null
 * elements of lists are the zero value of Go.
 */
export type Fields = {
  readonly text: (name: string) => string | undefined;
  /** Not empty. */
  readonly requiredText: (name: string) => string;
  /** An absolute path. */
  readonly path: (name: string) => string;
  /** An integer from 0 to `max`. */
  readonly number: (name: string, max: number) => number | undefined;
  readonly texts: (name: string) => string[];
  readonly numbers: (name: string, max: number) => number[];
  readonly object: (name: string, fields: readonly string[]) => Fields | undefined;
  readonly objects: (name: string, fields: readonly string[]) => Fields[];
  /** Path of this object in the document, for messages. */
  readonly at: string;
};

/**
 * Returns readers for the fields of `value`.
 *
 * @param known names of all fields. The document's names match as in Go, because Go programs write these files.
 * @throws {BerthError} INVALID_ARGUMENT when `value` is not an object or has an unknown field: a device must not be applied partially.
 */
export function fieldsOf(value: unknown, at: string, known: readonly string[]): Fields {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw wrong(at, value, 'an object');
  checkNames(value, at, known);
  const values: Readonly<Record<string, unknown>> = goFields(value as JsonObject, known);
  const place = (name: string) => (at === '' ? name : `${at}.${name}`);
  const list = <T>(name: string, read: (item: unknown, at: string) => T): T[] => {
    const items = values[name] ?? [];
    if (!Array.isArray(items)) throw wrong(place(name), items, 'a list');
    return items.map((item, i) => read(item, `${place(name)}[${i}]`));
  };
  const optional = <T>(name: string, read: (value: unknown, at: string) => T): T | undefined =>
    values[name] === undefined ? undefined : read(values[name], place(name));
  const requiredText = (name: string) => {
    const text = readText(values[name], place(name));
    if (text === '') throw invalidArgument(`${place(name)} is empty`);
    return text;
  };
  return {
    at,
    requiredText,
    text: (name) => optional(name, readText),
    path: (name) => {
      const path = requiredText(name);
      if (!path.startsWith('/')) throw wrong(place(name), path, 'an absolute path');
      return path;
    },
    number: (name, max) => optional(name, (value, here) => readNumber(value, here, max)),
    texts: (name) => list(name, (value, here) => readText(value ?? '', here)),
    numbers: (name, max) => list(name, (value, here) => readNumber(value ?? 0, here, max)),
    object: (name, fields) => optional(name, (value, here) => fieldsOf(value, here, fields)),
    objects: (name, fields) => list(name, (item, here) => fieldsOf(item ?? {}, here, fields)),
  };
}

function checkNames(value: object, at: string, known: readonly string[]): void {
  const folded = new Set(known.map(foldKey));
  const unknown = Object.keys(value).find((name) => !folded.has(foldKey(name)));
  if (unknown !== undefined) throw invalidArgument(`${at === '' ? '' : `${at}: `}unknown field ${shown(unknown)}`);
}

/** Accepts a number: YAML parses `name: 0` as one. */
function readText(value: unknown, at: string): string {
  if (typeof value === 'number') return String(value);
  if (typeof value !== 'string') throw wrong(at, value, 'a string');
  if (value.includes('\0')) throw invalidArgument(`${at} contains NUL`);
  return value;
}

function readNumber(value: unknown, at: string, max: number): number {
  if (typeof value !== 'number' || !Number.isInteger(value) || value < 0 || value > max) throw wrong(at, value, `an integer from 0 to ${max}`);
  return value;
}

function wrong(at: string, value: unknown, expected: string): Error {
  return invalidArgument(`${at === '' ? 'the file' : at} ${value === undefined ? 'is missing' : `is ${shown(value)}`}; it must be ${expected}`);
}

/** Returns a value for messages: quoted, and at most one line. */
export function shown(value: unknown): string {
  if (typeof value === 'object') return Array.isArray(value) ? 'a list' : value === null ? 'null' : 'an object';
  return typeof value === 'string' ? JSON.stringify(value.slice(0, 96)) : String(value);
}
