/**
 * The kernel's own log, /dev/kmsg: what it holds still, and what comes. Decides nothing about the texts.
 *
 * Only records of the kernel: others may write into the log too, but not as the kernel.
 */
import { closeSync, constants, openSync, readlinkSync, readSync } from 'node:fs';
import { isErrno } from '../call/ffi.ts';
import { onReadable } from './processes.ts';

/** @property sequence grows with each record of this boot. @property atUs microseconds since boot. */
export type KernelRecord = { readonly sequence: number; readonly atUs: number; readonly text: string };

export type KernelLog = {
  /** What has come since the last call; the first gives all that the kernel holds. Does not wait. */
  readonly read: () => KernelRecord[];
  /** Calls back soon after something has come, again and again. */
  readonly watch: (listener: () => void) => void;
  /** Whether the pids in it are those that this process knows: it does not know them in a pid namespace of its own. */
  readonly hasOwnPids: boolean;
  readonly close: () => void;
};

/** A read(2) gives one record whole, or EINVAL: CONSOLE_EXT_LOG_MAX of kernel/printk. */
const recordBytesMax = 8192;
/** PROC_PID_INIT_INO of include/linux/proc_ns.h. */
const hostPidNamespace = 'pid:[4026531836]';
/** What a chatty log has in so long a time is read together. */
const gatherMs = 200;

/** @returns null where there is no such log, or it may not be read: without CAP_SYSLOG, in a container. */
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
      // EPIPE: the next record was overwritten before it was read; the one after it is next.
      if (isErrno(error, 'EPIPE')) continue;
      // EAGAIN: that is all. Anything else is no reason to end: the log is a help, not a need.
      return records;
    }
  }
}

/** `6,339,5140900,-;text` and lines of a dictionary that begin with a blank: Documentation/ABI/testing/dev-kmsg. @returns null for another's. */
function parseRecord(bytes: string): KernelRecord | null {
  const [, priority, sequence, atUs, text = ''] = /^(\d+),(\d+),(\d+),[^;]*;([^\n]*)/.exec(bytes) ?? [];
  // The facility is above three bits of level; the kernel's is 0.
  if (priority === undefined || Number(priority) >> 3 !== 0) return null;
  return { sequence: Number(sequence), atUs: Number(atUs), text };
}
