/**
 * Reads the kernel log, /dev/kmsg: existing and new records. Does not interpret the texts.
 *
 * Returns only records of the kernel: other programs can write to the log, but not with the kernel's facility.
 */
import { closeSync, constants, openSync, readlinkSync, readSync } from 'node:fs';
import { isErrno } from '../call/ffi.ts';
import { onReadable } from './processes.ts';

/** @property sequence increases with each record of this boot. @property atUs microseconds since boot. */
export type KernelRecord = { readonly sequence: number; readonly atUs: number; readonly text: string };

export type KernelLog = {
  /** Returns the records since the last call; the first call returns all that the kernel still has. Does not block. */
  readonly read: () => KernelRecord[];
  /** Calls back soon after new records have arrived, each time. */
  readonly watch: (listener: () => void) => void;
  /** Whether the pids in the log are those of this process's pid namespace. False if the daemon runs in its own pid namespace. */
  readonly hasOwnPids: boolean;
  readonly close: () => void;
};

/** A read(2) returns one complete record, or EINVAL if the buffer is too small: CONSOLE_EXT_LOG_MAX of kernel/printk. */
const recordBytesMax = 8192;
/** PROC_PID_INIT_INO of include/linux/proc_ns.h. */
const hostPidNamespace = 'pid:[4026531836]';
/** Records that arrive within this time are read together. */
const gatherMs = 200;

/** @returns null if the log does not exist or cannot be read: without CAP_SYSLOG, or in a container. */
export function openKernelLog(path = '/dev/kmsg'): KernelLog | null {
  let fd: number;
  try {
    fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch {
    return null;
  }
  const buffer = Buffer.allocUnsafe(recordBytesMax);
  let isOpen = true;
  let stopWatching = () => {};
  const read = () => (isOpen ? readRecords(fd, buffer) : []);
  const watch = (listener: () => void) => {
    stopWatching = onReadable(fd, () => {
      const timer = setTimeout(() => {
        if (!isOpen) return;
        listener();
        watch(listener);
      }, gatherMs).unref();
      stopWatching = () => clearTimeout(timer);
    });
  };
  const close = () => {
    if (!isOpen) return;
    isOpen = false;
    stopWatching();
    closeSync(fd);
  };
  return { read, watch, close, hasOwnPids: readlinkSync('/proc/self/ns/pid') === hostPidNamespace };
}

function readRecords(fd: number, buffer: Buffer): KernelRecord[] {
  const records: KernelRecord[] = [];
  for (;;) {
    try {
      const length = readSync(fd, buffer);
      if (length === 0) return records;
      const record = parseRecord(buffer.toString('latin1', 0, length));
      if (record !== null) records.push(record);
    } catch (error) {
      // EPIPE: records were overwritten before they were read; continue with the oldest one.
      if (isErrno(error, 'EPIPE')) continue;
      // EAGAIN: no more records. Other errors are ignored: the log is optional.
      return records;
    }
  }
}

/**
 * Parses `6,339,5140900,-;text`, followed by dictionary lines that start with a space: Documentation/ABI/testing/dev-kmsg.
 *
 * @returns null for a record of another program.
 */
function parseRecord(bytes: string): KernelRecord | null {
  const [, priority, sequence, atUs, text = ''] = /^(\d+),(\d+),(\d+),[^;]*;([^\n]*)/.exec(bytes) ?? [];
  // The low three bits are the level, the rest the facility; the kernel's is 0.
  if (priority === undefined || Number(priority) >> 3 !== 0) return null;
  return { sequence: Number(sequence), atUs: Number(atUs), text };
}
