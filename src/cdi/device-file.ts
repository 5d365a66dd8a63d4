/**
 * Reads a parsed CDI file: the devices of one kind, each with its container edits.
 *
 * Pure. Source: SPEC.md of the Container Device Interface 1.1.0.
 */
import { invalidArgument } from '../lib/errors.ts';
import { type ContainerEdits, editFields, readEdits } from './container-edits.ts';
import { type Fields, fieldsOf, shown } from './fields.ts';
import { isDeviceName, isKind } from './qualified-name.ts';

export type DeviceFile = {
  /** Applied once to a container that gets any device of the file. */
  readonly edits: ContainerEdits;
  /** By qualified name. */
  readonly devices: ReadonlyMap<string, ContainerEdits>;
};

/** Reads and validates a parsed file. @throws {BerthError} INVALID_ARGUMENT with the path of the field that violates the specification. */
export function readDeviceFile(document: unknown): DeviceFile {
  const file = fieldsOf(document, '', ['cdiVersion', 'kind', 'annotations', 'devices', 'containerEdits']);
  checkVersion(file.requiredText('cdiVersion'));
  const kind = file.requiredText('kind');
  if (!isKind(kind)) throw invalidArgument(`kind: ${shown(kind)} is not VENDOR/CLASS`);
  const devices = new Map<string, ContainerEdits>();
  for (const device of file.objects('devices', ['name', 'annotations', 'containerEdits'])) {
    const name = `${kind}=${deviceName(device)}`;
    if (devices.has(name)) throw invalidArgument(`${device.at}: duplicate device ${shown(name)}`);
    devices.set(name, readEdits(device.object('containerEdits', editFields)));
  }
  if (devices.size === 0) throw invalidArgument('missing devices');
  return { edits: readEdits(file.object('containerEdits', editFields)), devices };
}

function deviceName(device: Fields): string {
  const name = device.requiredText('name');
  if (!isDeviceName(name)) throw invalidArgument(`${device.at}.name: invalid device name ${shown(name)}`);
  return name;
}

/** Checks the major version only: minor versions only add fields, and fieldsOf() refuses unknown fields. */
function checkVersion(text: string): void {
  const [, major] = /^v?(\d+)\.\d+\.\d+(?:[-+].*)?$/.exec(text) ?? [];
  if (major === undefined) throw invalidArgument(`cdiVersion: invalid version ${shown(text)}`);
  if (Number(major) > 1) throw invalidArgument(`cdiVersion: unsupported version ${shown(text)}; supported are 0.x and 1.x`);
}
