/**
 * Takes values of a parsed document apart, and refuses what is not as it should be, by its path in the document.
 *
 * Pure. Knows nothing of devices.
 */
import { invalidArgument } from '../lib/errors.ts';

/** Reads the fields of one object. Each throws a BerthError INVALID_ARGUMENT for a value of another type; null and what is not there are undefined. */
export type Fields = {
  readonly text: (name: string) => string | undefined;
  /** Not empty. */
  readonly requiredText: (name: string) => string;
  /** Begins with `/`. */
  readonly path: (name: string) => string;
  /** A whole number from 0 to `max`. */
  readonly number: (name: string, max: number) => number | undefined;
  readonly texts: (name: string) => string[];
  readonly numbers: (name: string, max: number) => number[];
  readonly object: (name: string, fields: readonly string[]) => Fields | undefined;
  readonly objects: (name: string, fields: readonly string[]) => Fields[];
  /** Where this object is, for messages. */
  readonly at: string;
};

/**
 * @param known names of all fields. Those of the document match without regard to case, as Go's readers have it, whose files these are.
 * @throws {BerthError} INVALID_ARGUMENT for what is no object, and for fields that are not known: half of what was meant is nobody's wish.
 */
export function fieldsOf(value: unknown, at: string, known: readonly string[]): Fields {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw wrong(at, value, 'an object');
  const values = new Map(Object.entries(value).map(([name, field]) => [knownName(name, at, known), field ?? undefined]));
  const place = (name: string) => (at === '' ? name : `${at}.${name}`);
  const list = <T>(name: string, read: (item: unknown, at: string) => T): T[] => {
    const items = values.get(name) ?? [];
    if (!Array.isArray(items)) throw wrong(place(name), items, 'a list');
    return items.map((item, i) => read(item, `${place(name)}[${i}]`));
  };
  const optional = <T>(name: string, read: (value: unknown, at: string) => T): T | undefined =>
    values.get(name) === undefined ? undefined : read(values.get(name), place(name));
  const requiredText = (name: string) => {
    const text = readText(values.get(name), place(name));
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
    texts: (name) => list(name, readText),
    numbers: (name, max) => list(name, (value, here) => readNumber(value, here, max)),
    object: (name, fields) => optional(name, (value, here) => fieldsOf(value, here, fields)),
    objects: (name, fields) => list(name, (item, here) => fieldsOf(item, here, fields)),
  };
}

function knownName(name: string, at: string, known: readonly string[]): string {
  const found = known.find((each) => each === name) ?? known.find((each) => each.toLowerCase() === name.toLowerCase());
  if (found === undefined) throw invalidArgument(`${at === '' ? 'the file' : at} has a field ${shown(name)} that berth does not know`);
  return found;
}

/** A number where a text belongs is what YAML makes of `name: 0`. */
function readText(value: unknown, at: string): string {
  if (typeof value === 'number') return String(value);
  if (typeof value !== 'string') throw wrong(at, value, 'a text');
  if (value.includes('\0')) throw invalidArgument(`${at} holds a NUL`);
  return value;
}

function readNumber(value: unknown, at: string, max: number): number {
  if (typeof value !== 'number' || !Number.isInteger(value) || value < 0 || value > max) throw wrong(at, value, `a whole number from 0 to ${max}`);
  return value;
}

function wrong(at: string, value: unknown, wanted: string): Error {
  return invalidArgument(`${at === '' ? 'the file' : at} ${value === undefined ? 'is missing' : `is ${shown(value)}`}; it must be ${wanted}`);
}

/** A value for messages: quoted, and not longer than a line. */
export function shown(value: unknown): string {
  if (typeof value === 'object') return Array.isArray(value) ? 'a list' : value === null ? 'null' : 'an object';
  return typeof value === 'string' ? JSON.stringify(value.slice(0, 96)) : String(value);
}
