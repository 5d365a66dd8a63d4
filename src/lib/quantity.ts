/**
 * Parses Kubernetes quantities: `10M`, `1.5Gi`, `2e6`.
 *
 * Pure.
 */
import { invalidArgument } from './errors.ts';

const decimal: Readonly<Record<string, number>> = { n: -9, u: -6, m: -3, '': 0, k: 3, M: 6, G: 9, T: 12, P: 15, E: 18 };
const binary: Readonly<Record<string, number>> = { Ki: 10, Mi: 20, Gi: 30, Ti: 40, Pi: 50, Ei: 60 };

/** No real quantity is longer. Large powers are expensive to compute. */
const quantityCharsMax = 64;
const exponentMax = 30;

/**
 * Returns the quantity in whole units, rounded away from zero as Kubernetes does.
 *
 * @throws {BerthError} INVALID_ARGUMENT if the text is not a quantity.
 * Source: k8s.io/apimachinery resource.Quantity, the grammar in its documentation.
 */
export function parseQuantity(text: string): bigint {
  const match = /^([+-]?)(\d+)?(?:\.(\d*))?(?:([numkMGTPE]|[KMGTPE]i)|[eE]([+-]?\d+))?$/.exec(text);
  const [, sign, whole = '', fraction = '', suffix = '', exponent] = match ?? [];
  if (match === null || text.length > quantityCharsMax || `${whole}${fraction}` === '') throw invalidQuantity(text);
  const power = exponent === undefined ? (decimal[suffix] ?? 0) : Number(exponent);
  if (Math.abs(power) > exponentMax) throw invalidQuantity(text);
  const digits = BigInt(`${whole}${fraction}`) << BigInt(binary[suffix] ?? 0);
  const magnitude = scaled(digits, power - fraction.length);
  return sign === '-' ? -magnitude : magnitude;
}

function scaled(digits: bigint, power: number): bigint {
  if (power >= 0) return digits * 10n ** BigInt(power);
  const divisor = 10n ** BigInt(-power);
  return (digits + divisor - 1n) / divisor;
}

function invalidQuantity(text: string): Error {
  return invalidArgument(`"${text.slice(0, quantityCharsMax)}" is not a quantity such as 10M or 1.5Gi`);
}
