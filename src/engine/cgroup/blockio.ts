/**
 * Classes of block I/O: which weights and rates of disks the annotations of a pod give its containers. Pure.
 *
 * The file and the annotations are those of containerd and CRI-O (goresctrl's), the file as JSON, which they read as well:
 * `{"Classes": {"slow": [{"Weight": 50}, {"Devices": ["/dev/sd[a-z]"], "ThrottleReadBps": "10M"}]}}`.
 */
import { invalidArgument, reasonOf } from '../../lib/errors.ts';
import { parseQuantity } from '../../lib/quantity.ts';

/** For all devices, or for those that `devices` match; in the order of the file, later ones win. */
type BlockioRule = {
  readonly devices: readonly string[] | null;
  /** 10 to 1000. */
  readonly weight?: number;
  /** A second, by their names in io.max. */
  readonly rates: Readonly<Record<string, number>>;
};

export type BlockioClasses = ReadonlyMap<string, readonly BlockioRule[]>;

const rateFields: Readonly<Record<string, string>> = {
  ThrottleReadBps: 'rbps',
  ThrottleWriteBps: 'wbps',
  ThrottleReadIOPS: 'riops',
  ThrottleWriteIOPS: 'wiops',
};
const fields = new Set(['Devices', 'Weight', ...Object.keys(rateFields)]);
const [weightMin, weightMax] = [10, 1000];

/** @throws {BerthError} INVALID_ARGUMENT that says what in the text is wrong. */
export function parseBlockioClasses(text: string): BlockioClasses {
  let document: unknown;
  try {
    document = JSON.parse(text);
  } catch (error) {
    throw invalidArgument(`classes of block I/O: no JSON: ${reasonOf(error)}`, error);
  }
  const classes = isRecord(document) ? document['Classes'] : undefined;
  if (!isRecord(classes)) throw invalidArgument('classes of block I/O: there is no object Classes');
  return new Map(Object.entries(classes).map(([name, rules]) => [name, listOf(name, rules).map((rule) => toRule(name, rule))]));
}

const isRecord = (value: unknown): value is Record<string, unknown> => typeof value === 'object' && value !== null && !Array.isArray(value);

function listOf(name: string, value: unknown): readonly unknown[] {
  if (!Array.isArray(value)) throw invalidArgument(`class of block I/O ${name}: it is no list`);
  return value;
}

function toRule(name: string, value: unknown): BlockioRule {
  const refuse = (what: string, cause?: unknown) => invalidArgument(`class of block I/O ${name}: ${what}`, cause);
  if (!isRecord(value)) throw refuse('an entry is no object');
  for (const key of Object.keys(value)) if (!fields.has(key)) throw refuse(`there is no field ${key}; there are ${[...fields].join(', ')}`);
  const amountOf = (field: string): number => {
    try {
      return Number(parseQuantity(String(value[field])));
    } catch (error) {
      throw refuse(`${field}: ${reasonOf(error)}`, error);
    }
  };
  const rates = Object.entries(rateFields).flatMap(([field, rate]) => (value[field] === undefined ? [] : [[rate, amountOf(field)] as const]));
  const zero = rates.find(([, amount]) => amount <= 0);
  if (zero !== undefined) throw refuse(`a rate of ${zero[1]} would let nothing through`);
  const devices = value['Devices'] === undefined ? null : listOf(name, value['Devices']).map(String);
  if (devices === null && rates.length > 0) throw refuse('rates are given without Devices');
  if (value['Weight'] === undefined) return { devices, rates: Object.fromEntries(rates) };
  const weight = amountOf('Weight');
  if (weight < weightMin || weight > weightMax) throw refuse(`Weight ${weight} is not between ${weightMin} and ${weightMax}`);
  return { devices, weight, rates: Object.fromEntries(rates) };
}

type Annotations = Readonly<Record<string, string>>;

/** The class that a container shall have: its own annotation, the pod's for it, the pod's for all. */
export function blockioClassOf(containerName: string, container: Annotations, pod: Annotations): string | undefined {
  const prefix = 'blockio.resources.beta.kubernetes.io';
  return container['io.kubernetes.cri.blockio-class'] ?? pod[`${prefix}/container.${containerName}`] ?? pod[`${prefix}/pod`];
}

/**
 * What a class comes to, as values of cgroup v2 files by name.
 *
 * @param devicesLike numbers (`8:0`) of the disks that a pattern matches.
 * @param weightFile the kernel's: bfq's where that is loaded.
 * @throws {BerthError} INVALID_ARGUMENT for a class that is not there.
 */
export function blockioValues(
  classes: BlockioClasses,
  name: string,
  devicesLike: (pattern: string) => readonly string[],
  weightFile: 'io.bfq.weight' | 'io.weight',
): Record<string, string> {
  const rules = classes.get(name);
  if (rules === undefined)
    throw invalidArgument(`class of block I/O ${JSON.stringify(name)} is not on this node; there are ${[...classes.keys()].join(', ')}`);
  const weights = new Map<string, number>();
  const rates = new Map<string, BlockioRule['rates']>();
  for (const rule of rules) {
    for (const device of rule.devices?.flatMap(devicesLike) ?? ['default']) {
      if (rule.weight !== undefined) weights.set(device, rule.weight);
      if (Object.keys(rule.rates).length > 0) rates.set(device, { ...rates.get(device), ...rule.rates });
    }
  }
  const lines = {
    'io.max': [...rates].map(
      ([device, each]) =>
        `${device} ${Object.entries(each)
          .map(([rate, amount]) => `${rate}=${amount}`)
          .join(' ')}`,
    ),
    [weightFile]: [...weights].map(([device, weight]) => `${device} ${weightFile === 'io.weight' ? ioWeight(weight) : weight}`),
  };
  return Object.fromEntries(Object.entries(lines).flatMap(([file, each]) => (each.length === 0 ? [] : [[file, each.join('\n')]])));
}

/** io.weight goes from 1 to 10000: a line through both ends, as runc has it. */
const ioWeight = (weight: number): number => 1 + Math.floor(((weight - weightMin) * 9999) / (weightMax - weightMin));
