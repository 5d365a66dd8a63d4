/**
 * Block devices that are files of a test.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';

/** @returns the device, as `/dev/loop0`. */
export function attachDisk(file: string, bytes: number): string {
  writeFileSync(file, Buffer.alloc(bytes));
  // Built in, or loaded already, or not there: losetup says.
  spawnSync('modprobe', ['-q', 'loop']);
  return execFileSync('losetup', ['--show', '-f', file], { encoding: 'utf8' }).trim();
}

export const detachDisk = (device: string): void => void execFileSync('losetup', ['-d', device]);
