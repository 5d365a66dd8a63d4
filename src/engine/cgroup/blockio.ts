/**
 * Parses block I/O classes, which annotations of a pod select, and converts a class to cgroup values: weights and rate limits of disks. Pure.
 *
 * The file and the annotations are those of containerd and CRI-O (goresctrl). The file must be JSON, which they accept as well:
 * `{"Classes": {"slow": [{"Weight": 50}, {"Devices": ["/dev/sd[a-z]"], "ThrottleReadBps": "10M"}]}}`.
 */
import { invalidArgument, reasonOf } from '../../lib/errors.ts';
import { parseQuantity } from '../../lib/quantity.ts';

/** An entry of a class. Later entries of the file win. */
type BlockioRule = {
  /** Patterns of devices; null: all devices. */
  readonly devices: readonly string[] | null;
  /** 10 to 1000. */
  readonly weight?: number;
  /** Bytes or operations per second, by their names in io.max. */
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

/** Parses the file. @throws {BerthError} INVALID_ARGUMENT for invalid text. */
export function parseBlockioClasses(text: string): BlockioClasses {
  let document: unknown;
  try {
    document = JSON.parse(text);
  } catch (error) {
    throw invalidArgument(`block I/O classes: invalid JSON: ${reasonOf(error)}`, error);
  }
  const classes = isRecord(document) ? document['Classes'] : undefined;
  if (!isRecord(classes)) throw invalidArgument('block I/O classes: missing field Classes');
  return new Map(Object.entries(classes).map(([name, rules]) => [name, listOf(name, rules).map((rule) => toRule(name, rule))]));
}

const isRecord = (value: unknown): value is Record<string, unknown> => typeof value === 'object' && value !== null && !Array.isArray(value);

function listOf(name: string, value: unknown): readonly unknown[] {
  if (!Array.isArray(value)) throw invalidArgument(`block I/O class ${name}: must be a list`);
  return value;
}

function toRule(name: string, value: unknown): BlockioRule {
  const invalid = (reason: string, cause?: unknown) => invalidArgument(`block I/O class ${name}: ${reason}`, cause);
  if (!isRecord(value)) throw invalid('entries must be objects');
  for (const key of Object.keys(value)) if (!fields.has(key)) throw invalid(`unknown field ${key}; want one of ${[...fields].join(', ')}`);
  const amountOf = (field: string): number => {
    try {
      return Number(parseQuantity(String(value[field])));
    } catch (error) {
      throw invalid(`${field}: ${reasonOf(error)}`, error);
    }
  };
  const rates = Object.entries(rateFields).flatMap(([field, rate]) => (value[field] === undefined ? [] : [[rate, amountOf(field)] as const]));
  const zero = rates.find(([, amount]) => amount <= 0);
  if (zero !== undefined) throw invalid(`rate ${zero[1]} must be greater than 0`);
  const devices = value['Devices'] === undefined ? null : listOf(name, value['Devices']).map(String);
  if (devices === null && rates.length > 0) throw invalid('a rate requires the field Devices');
  if (value['Weight'] === undefined) return { devices, rates: Object.fromEntries(rates) };
  const weight = amountOf('Weight');
  if (weight < weightMin || weight > weightMax) throw invalid(`invalid Weight ${weight}: must be from ${weightMin} to ${weightMax}`);
  return { devices, weight, rates: Object.fromEntries(rates) };
}

type Annotations = Readonly<Record<string, string>>;

/** Returns the class of a container: its own annotation, else the pod's for this container, else the pod's for all containers. */
export function blockioClassOf(containerName: string, container: Annotations, pod: Annotations): string | undefined {
  const prefix = 'blockio.resources.beta.kubernetes.io';
  return container['io.kubernetes.cri.blockio-class'] ?? pod[`${prefix}/container.${containerName}`] ?? pod[`${prefix}/pod`];
}

/**
 * Returns the values of a class by cgroup v2 file.
 *
 * @param devicesLike returns the numbers (`8:0`) of the disks that match a pattern.
 * @param weightFile `io.bfq.weight` if the BFQ scheduler is loaded.
 * @throws {BerthError} INVALID_ARGUMENT for an unknown class.
 */
export function blockioValues(
  classes: BlockioClasses,
  name: string,
  devicesLike: (pattern: string) => readonly string[],
  weightFile: 'io.bfq.weight' | 'io.weight',
): Record<string, string> {
  const rules = classes.get(name);
  if (rules === undefined)
    throw invalidArgument(`unknown block I/O class ${JSON.stringify(name)}; the classes of this node are ${[...classes.keys()].join(', ')}`);
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

/** Maps the weight linearly to the range of io.weight, 1 to 10000, as in runc. */
const ioWeight = (weight: number): number => 1 + Math.floor(((weight - weightMin) * 9999) / (weightMax - weightMin));
