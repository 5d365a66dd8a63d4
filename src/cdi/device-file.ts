/**
 * Reads a CDI file that has been parsed: the devices of one kind, each with what it changes about a container.
 *
 * Pure. Source: SPEC.md of the Container Device Interface 1.1.0.
 */
import { invalidArgument } from '../lib/errors.ts';
import { type ContainerEdits, editFields, readEdits } from './container-edits.ts';
import { type Fields, fieldsOf, shown } from './fields.ts';
import { isDeviceName, isKind } from './qualified-name.ts';

export type DeviceFile = {
  /** For a container that has any of the devices, once. */
  readonly edits: ContainerEdits;
  /** By qualified name. */
  readonly devices: ReadonlyMap<string, ContainerEdits>;
};

/** @throws {BerthError} INVALID_ARGUMENT naming the place of what is not as the specification has it. */
export function readDeviceFile(document: unknown): DeviceFile {
  const file = fieldsOf(document, '', ['cdiVersion', 'kind', 'annotations', 'devices', 'containerEdits']);
  checkVersion(file.requiredText('cdiVersion'));
  const kind = file.requiredText('kind');
  if (!isKind(kind)) throw invalidArgument(`kind: ${shown(kind)} is not VENDOR/CLASS`);
  const devices = new Map<string, ContainerEdits>();
  for (const device of file.objects('devices', ['name', 'annotations', 'containerEdits'])) {
    const name = `${kind}=${deviceName(device)}`;
    if (devices.has(name)) throw invalidArgument(`${device.at}: there is another device ${shown(name)} in the file`);
    devices.set(name, readEdits(device.object('containerEdits', editFields)));
  }
  if (devices.size === 0) throw invalidArgument('devices: there are none');
  return { edits: readEdits(file.object('containerEdits', editFields)), devices };
}

function deviceName(device: Fields): string {
  const name = device.requiredText('name');
  if (!isDeviceName(name)) throw invalidArgument(`${device.at}.name: ${shown(name)} is no name of a device`);
  return name;
}

/** Within a major version fields are only added, and a field that is not known is refused where it stands. */
function checkVersion(text: string): void {
  const [, major] = /^v?(\d+)\.\d+\.\d+(?:[-+].*)?$/.exec(text) ?? [];
  if (major === undefined) throw invalidArgument(`cdiVersion: ${shown(text)} is not a version`);
  if (Number(major) > 1) throw invalidArgument(`cdiVersion: berth reads versions 0 and 1, and not ${shown(text)}`);
}
