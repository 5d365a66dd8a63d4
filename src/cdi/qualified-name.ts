/**
 * Validates qualified device names and kinds of the Container Device Interface (CDI): `vendor.com/class=device`.
 *
 * Pure.
 */
import { invalidArgument } from '../lib/errors.ts';

/** Source: SPEC.md, "Kind" and "CDI Devices". A device name may contain colons too: names of GPU partitions do. */
const vendorPattern = /^[a-z](?:[a-z0-9._-]{0,251}[a-z0-9])?$/i;
const classPattern = /^[a-z](?:[a-z0-9._-]{0,61}[a-z0-9])?$/i;
const devicePattern = /^[a-z0-9](?:[a-z0-9._:-]*[a-z0-9])?$/i;

/** Reports whether `text` is a kind, `vendor.com/class`. */
export function isKind(text: string): boolean {
  const [vendor = '', name = '', ...rest] = text.split('/');
  return rest.length === 0 && vendorPattern.test(vendor) && classPattern.test(name);
}

/** Reports whether `text` is a device name: the part after the `=`. */
export function isDeviceName(text: string): boolean {
  return devicePattern.test(text);
}

/** Returns the names without duplicates. @throws {BerthError} INVALID_ARGUMENT with all invalid names. */
export function checkedNames(names: readonly string[]): string[] {
  const wrong = names.filter((name) => !isQualified(name));
  if (wrong.length === 0) return [...new Set(names)];
  const shown = wrong.map((name) => JSON.stringify(name.slice(0, 128))).join(', ');
  throw invalidArgument(`invalid CDI device ${shown}: want VENDOR/CLASS=DEVICE, such as vendor.com/gpu=0`);
}

function isQualified(name: string): boolean {
  const equals = name.indexOf('=');
  return equals > 0 && isKind(name.slice(0, equals)) && isDeviceName(name.slice(equals + 1));
}
