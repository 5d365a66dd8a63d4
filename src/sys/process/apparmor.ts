/**
 * AppArmor profiles of the kernel: lists loaded profiles, and loads one with apparmor_parser(8).
 */
import { existsSync, readFileSync } from 'node:fs';
import { failedPrecondition } from '../../lib/errors.ts';
import { runProgram } from './spawn.ts';

const listFile = '/sys/kernel/security/apparmor/profiles';
const parsers = ['/usr/sbin/apparmor_parser', '/sbin/apparmor_parser'];
const parseTimeoutMs = 30_000;
const outputBytesMax = 64 * 1024;

/** Returns whether a profile is loaded. Lines are `name (mode)`. */
export function isProfileLoaded(name: string): boolean {
  return readFileSync(listFile, 'utf8')
    .split('\n')
    .some((line) => line.slice(0, line.lastIndexOf(' (')) === name);
}

/** Returns the profile that confines the daemon: `unconfined`, or a name. */
export function ownProfile(): string {
  const text = readFileSync('/proc/self/attr/apparmor/current', 'utf8').trim();
  return text.replace(/ \([a-z]+\)$/, '');
}

/** Returns the path of apparmor_parser(8); undefined if it is not installed. */
export const findParser = (): string | undefined => parsers.find((candidate) => existsSync(candidate));

/** Loads or replaces a profile. @throws {BerthError} FAILED_PRECONDITION with the parser's error, or if it is not installed. */
export async function loadProfile(text: string): Promise<void> {
  const path = findParser();
  if (path === undefined) throw failedPrecondition('load AppArmor profile: apparmor_parser is not installed (Debian: apt-get install apparmor)');
  const argv = ['apparmor_parser', '--replace', '--skip-cache'];
  const result = await runProgram({
    path,
    argv,
    env: ['PATH=/usr/sbin:/usr/bin:/sbin:/bin'],
    stdin: Buffer.from(text),
    timeoutMs: parseTimeoutMs,
    outputBytesMax,
  });
  if (result.exitCode !== 0) throw failedPrecondition(`load AppArmor profile: ${result.stderr.toString('utf8').trim().replaceAll('\n', '; ')}`);
}
