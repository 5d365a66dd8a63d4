/** Fuzzes the output of CNI plugins: parsing it returns valid IP addresses or throws a BerthError. */
import assert from 'node:assert/strict';
import { isIP } from 'node:net';
import { test } from 'node:test';
import { addressesOf, parseError, parseResult, parseSupportedVersions } from '../../src/cni/result.ts';
import { BerthError } from '../../src/lib/errors.ts';

const roundsMax = 20_000;
const seeds = [
  '{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"/n"}],"ips":[{"address":"10.0.0.2/16","interface":0},{"address":"fd00::2/64"}]}',
  '{"cniVersion":"0.2.0","ip4":{"ip":"10.0.0.2/16"},"ip6":{"ip":"fd00::2/64"}}',
  '{"cniVersion":"0.4.0","code":7,"msg":"no","details":"x","supportedVersions":["0.4.0"]}',
];
const pieces = ['null', '""', '[]', '{}', '-1', '1e999', '"eth0"', '/', ':', '.', '9', '"', ',', '\u0000', '"__proto__":{}', '\ud800'];

/** Returns a deterministic generator of integers in [0, below). Source of the constants: Numerical Recipes. */
function randomFrom(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

function mutated(text: string, random: (below: number) => number): string {
  const [from, length] = [random(text.length), random(4)];
  return text.slice(0, from) + (pieces[random(pieces.length)] ?? '') + text.slice(from + length);
}

test('mutated results return addresses or throw a BerthError', () => {
  const random = randomFrom(1);
  let accepted = 0;
  for (let round = 0; round < roundsMax; round += 1) {
    let text = seeds[random(seeds.length)] as string;
    for (let left = random(4); left > 0; left -= 1) text = mutated(text, random);
    parseError(text);
    parseSupportedVersions(text);
    try {
      const addresses = addressesOf(parseResult(text, '1.0.0'), 'eth0');
      assert.ok(addresses.length > 0 && addresses.every((address) => isIP(address) !== 0), text);
      accepted += 1;
    } catch (error) {
      assert.ok(error instanceof BerthError && !error.message.includes('\n'), `${text}: ${error}`);
    }
  }
  // Otherwise the test covers only the JSON parser.
  assert.ok(accepted > roundsMax / 20, `only ${accepted} were accepted`);
});
