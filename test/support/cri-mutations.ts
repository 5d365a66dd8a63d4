/**
 * Generates unusual CRI requests for fuzz tests, from recorded requests or from the types of the fields alone.
 *
 * Deterministic for the same random numbers. Knows the types of fields, not their meaning.
 */
import { join, resolve } from 'node:path';
import type { ServiceDefinition } from '@grpc/grpc-js';
import { loadSync, type PackageDefinition } from '@grpc/proto-loader';
import { readContract, redactedFields } from '../../scripts/generate-messages.ts';
import { pick } from './mutate.ts';

type Field = { readonly name: string; readonly label: string; readonly type: string; readonly typeName: string };
type Descriptor = { readonly name: string; readonly field: readonly Field[]; readonly nestedType: readonly NestedType[] };
type NestedType = Descriptor & { readonly options: { readonly mapEntry?: boolean } | null };

/** A message that is being modified. */
type Draft = Record<string, unknown>;

/** Values that replace the original ones. */
export type FuzzValues = {
  /** For any string field: names, paths, control characters. */
  readonly texts: readonly string[];
  /** Preferred values of a field: ids and references of existing objects. */
  readonly byField: (field: string) => readonly string[];
  /** Included in all byte fields and credentials, so that leaks can be found. */
  readonly secret: string;
};

const credentials = ['username', ...redactedFields(readContract('runtime-v1.proto')).map((field) => field.split('.').at(-1) ?? '')];
const manyMax = 3000;
/** Only items up to this size are repeated manyMax times: longer ones would exceed the maximum message size. */
const manyBytesMax = 1000;

/** Loads the CRI's services and message types. */
export function loadCriTypes(): { readonly services: readonly ServiceDefinition[]; readonly types: PackageDefinition } {
  const types = loadSync(join(resolve(import.meta.dirname, '../../proto'), 'runtime-v1.proto'), {
    keepCase: true,
    longs: String,
    enums: String,
    defaults: true,
  });
  return { types, services: ['RuntimeService', 'ImageService'].map((name) => types[`runtime.v1.${name}`] as ServiceDefinition) };
}

export type Mutator = {
  /** Returns a modified copy. @param type name of the message type. */
  readonly mutate: (type: string, message: object) => object;
  /** Returns a random message of the type. */
  readonly generate: (type: string) => object;
};

/** Creates a mutator for messages of `types`. */
export function createMutator(types: PackageDefinition, random: () => number, values: FuzzValues): Mutator {
  const chance = (probability: number): boolean => random() < probability;
  const upTo = (max: number): number => 1 + Math.floor(random() * max);
  const descriptorOf = (name: string): Descriptor => (types[`runtime.v1.${name}`] as unknown as { type: Descriptor }).type;

  const change = (descriptor: Descriptor, draft: Draft): void => {
    if (descriptor.field.length === 0) return;
    // Mostly modify fields that are set, sometimes others.
    const present = descriptor.field.filter((field) => draft[field.name] !== undefined);
    const field = pick(random, present.length > 0 && chance(0.8) ? present : descriptor.field);
    const before = draft[field.name];
    // Deleting a message deletes all fields below it: do this less often.
    const isLeaf = field.type !== 'TYPE_MESSAGE';
    if (before !== undefined && chance(isLeaf ? 0.1 : 0.03)) delete draft[field.name];
    else if (field.label === 'LABEL_REPEATED') draft[field.name] = changedList(descriptor, field, before);
    else draft[field.name] = changedValue(field, before);
  };

  const changedValue = (field: Field, before: unknown): unknown => {
    if (field.type !== 'TYPE_MESSAGE' || typeof before !== 'object' || before === null || chance(0.05)) return value(field, 3);
    change(descriptorOf(field.typeName), before as Draft);
    return before;
  };

  const changedList = (descriptor: Descriptor, field: Field, before: unknown): unknown => {
    const entry = descriptor.nestedType.find(({ name, options }) => name === field.typeName && options?.mapEntry);
    if (entry !== undefined) return changedMap(entry, (before ?? {}) as Draft);
    const list = [...((before ?? []) as unknown[])];
    const at = Math.floor(random() * list.length);
    const kind = list.length === 0 ? 1 : random();
    if (kind < 0.5) list[at] = changedValue(field, list[at]);
    else if (kind < 0.75) list.push(...copies(list[at], 0.2));
    else list.push(...copies(value(field, 2), 0.1));
    return list;
  };

  const copies = (each: unknown, probability: number): unknown[] => {
    const isMany = chance(probability) && JSON.stringify(each).length < manyBytesMax;
    return Array.from({ length: isMany ? manyMax : upTo(2) }, () => each);
  };

  const changedMap = (entry: Descriptor, before: Draft): Draft => {
    const valueField = entry.field.find(({ name }) => name === 'value') as Field;
    const more = copies(value(valueField, 1), 0.1).map((each, i, all) => [all.length > 2 ? `key-${i}` : text('key'), each]);
    return { ...before, ...Object.fromEntries(more) };
  };

  const text = (field: string): string => {
    const preferred = values.byField(field);
    const chosen = preferred.length > 0 && chance(0.7) ? pick(random, preferred) : pick(random, values.texts);
    return credentials.includes(field) ? `${values.secret}${chosen}` : chosen;
  };

  const value = (field: Field, depth: number): unknown => {
    if (field.type === 'TYPE_MESSAGE') return message(descriptorOf(field.typeName), depth - 1);
    if (field.type === 'TYPE_STRING') return text(field.name);
    if (field.type === 'TYPE_BOOL') return chance(0.7);
    if (field.type === 'TYPE_ENUM') return pick(random, [0, 1, 2, 3, 77, -1, 2 ** 31 - 1]);
    if (field.type === 'TYPE_BYTES') return Buffer.concat([Buffer.from(values.secret), pick(random, oddBytes)]);
    if (field.type === 'TYPE_DOUBLE') return pick(random, [0, -1, Number.NaN, Number.POSITIVE_INFINITY]);
    return pick<string | number>(random, /64/.test(field.type) ? oddLongs : oddIntegers);
  };

  const message = (descriptor: Descriptor, depth: number): Draft => {
    const draft: Draft = {};
    for (const field of descriptor.field) {
      if (depth < 0 || chance(0.5)) continue;
      draft[field.name] = field.label === 'LABEL_REPEATED' ? changedList(descriptor, field, undefined) : value(field, depth);
    }
    return draft;
  };

  return {
    mutate: (type, before) => {
      const draft = structuredClone(before) as Draft;
      for (let left = upTo(3); left > 0; left -= 1) change(descriptorOf(type), draft);
      return draft;
    },
    generate: (type) => message(descriptorOf(type), 4),
  };
}

const oddBytes = [Buffer.alloc(0), Buffer.from([0xff, 0xfe, 0x80]), Buffer.from('a\0b'), Buffer.from('a\nb'), Buffer.alloc(200_000, 0xc3)];
const oddIntegers = [0, 1, -1, 2, 1000, 65_535, 65_536, 2 ** 31 - 1, -(2 ** 31)];
const oddLongs = ['0', '1', '-1', '2', '1000', '4096', '100000', '4294967295', '9007199254740993', '9223372036854775807', '-9223372036854775808'];
