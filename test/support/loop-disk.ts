/**
 * Block devices for tests: loop devices with a file as backing store.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';

/** Creates the file and a loop device for it. @returns the device, for example `/dev/loop0`. */
export function attachDisk(file: string, bytes: number): string {
  writeFileSync(file, Buffer.alloc(bytes));
  // It may be built in, already loaded or missing: losetup reports it.
  spawnSync('modprobe', ['-q', 'loop']);
  return execFileSync('losetup', ['--show', '-f', file], { encoding: 'utf8' }).trim();
}

/** Detaches a loop device. */
export const detachDisk = (device: string): void => void execFileSync('losetup', ['-d', device]);
