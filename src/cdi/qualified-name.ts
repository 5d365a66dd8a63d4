/**
 * Names of devices and of their kinds, as the Container Device Interface (CDI) writes them: `vendor.com/class=device`.
 *
 * Pure.
 */
import { invalidArgument } from '../lib/errors.ts';

/** SPEC.md, "Kind" and "CDI Devices"; a device's may hold colons too, as those of GPU partitions do. */
const vendorPattern = /^[a-z](?:[a-z0-9._-]{0,251}[a-z0-9])?$/i;
const classPattern = /^[a-z](?:[a-z0-9._-]{0,61}[a-z0-9])?$/i;
const devicePattern = /^[a-z0-9](?:[a-z0-9._:-]*[a-z0-9])?$/i;

/** `vendor.com/class`. */
export function isKind(text: string): boolean {
  const [vendor = '', name = '', ...rest] = text.split('/');
  return rest.length === 0 && vendorPattern.test(vendor) && classPattern.test(name);
}

/** The part behind the `=`. */
export function isDeviceName(text: string): boolean {
  return devicePattern.test(text);
}

/** @returns the names, each once. @throws {BerthError} INVALID_ARGUMENT naming all that are none. */
export function checkedNames(names: readonly string[]): string[] {
  const wrong = names.filter((name) => !isQualified(name));
  if (wrong.length === 0) return [...new Set(names)];
  const shown = wrong.map((name) => JSON.stringify(name.slice(0, 128))).join(', ');
  throw invalidArgument(`CDI devices: ${shown}: a name is VENDOR/CLASS=DEVICE, like vendor.com/gpu=0`);
}

function isQualified(name: string): boolean {
  const equals = name.indexOf('=');
  return equals > 0 && isKind(name.slice(0, equals)) && isDeviceName(name.slice(equals + 1));
}
