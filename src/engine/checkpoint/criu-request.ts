/**
 * Encodes requests to criu and decodes its responses: protocol buffers, `images/rpc.proto` of criu. Field names are in the comments. Pure.
 */

export type DumpRequest = {
  /** fd in the daemon: the directory for the images. */
  readonly imagesDirFd: number;
  /** fd in the daemon: the directory for the log and the statistics. */
  readonly workDirFd: number;
  /** Root of the process tree. */
  readonly pid: number;
  /** Directory of the cgroup whose freezer freezes the processes. */
  readonly freezerDirectory: string;
  /** Mount points of external mounts, as paths in the container. */
  readonly externalMounts: readonly string[];
  /** External namespaces: `net[INODE]:KEY`. */
  readonly externalNamespaces: readonly string[];
};

/** `criu_req_type` */
const dump = 1;
/** `criu_cg_mode`: a restore decides what it does with cgroups. */
const softCgroups = 3;
const informativeLogLevel = 4;

export const dumpLogFile = 'dump.log';

/**
 * Encodes a dump request. The processes keep running afterwards. Open connections, file locks and external sockets are saved, so that none of them
 * fails the dump.
 */
export function encodeDumpRequest(request: DumpRequest): Buffer {
  const options = Buffer.concat([
    number(1, request.imagesDirFd),
    number(2, request.pid),
    flag(3), // leave_running
    flag(4), // ext_unix_sk
    flag(5), // tcp_established
    flag(8), // file_locks
    number(9, informativeLogLevel),
    text(10, dumpLogFile),
    number(17, request.workDirFd),
    ...request.externalMounts.map((point) => bytes(23, Buffer.concat([text(1, point), text(2, point)]))),
    flag(24), // manage_cgroups (deprecated)
    flag(29), // ext_sharing
    flag(30), // ext_masters
    number(34, softCgroups),
    ...request.externalNamespaces.map((external) => text(37, external)),
    text(44, request.freezerDirectory),
    flag(50), // orphan_pts_master: the monitor holds the terminal's master
  ]);
  return Buffer.concat([number(1, dump), bytes(2, options)]);
}

/** The response of criu. `message` is '' if it contains none. */
export type DumpAnswer = { readonly isDone: boolean; readonly message: string };

/** @returns null for an invalid response. */
export function decodeDumpAnswer(answer: Uint8Array): DumpAnswer | null {
  const fields = new Map<number, number | Buffer>();
  const at = { offset: 0 };
  const view = Buffer.from(answer);
  while (at.offset < view.length) {
    const key = readVarint(view, at);
    if (key === null) return null;
    const value = readVarint(view, at);
    if (value === null) return null;
    if ((key & 7) === 0) fields.set(key >> 3, value);
    else if ((key & 7) === 2 && at.offset + value <= view.length) {
      fields.set(key >> 3, view.subarray(at.offset, at.offset + value));
      at.offset += value;
    } else return null;
  }
  const [isDone, message] = [fields.get(2), fields.get(9)];
  if (typeof isDone !== 'number') return null;
  return { isDone: isDone === 1, message: Buffer.isBuffer(message) ? message.toString() : '' };
}

/**
 * Returns the last errors in the log of a dump: at most three, each at most 200 characters, without the prefix (`Error (criu/tty.c:2399): tty: …`
 * becomes `tty: …`).
 */
export function errorsOfLog(log: string): string {
  const errors = log.split('\n').flatMap((line) => /Error \([^)]*\): (.*)$/.exec(line)?.[1] ?? []);
  const informative = errors.filter((error) => !/^(rlimit: |Dumping FAILED)/.test(error));
  return informative
    .slice(-3)
    .map((error) => error.slice(0, 200).replace(/\.$/, ''))
    .join('; ');
}

const varintType = 0;
const bytesType = 2;

const number = (field: number, value: number): Buffer => Buffer.concat([varint((field << 3) | varintType), varint(value)]);
const flag = (field: number): Buffer => number(field, 1);
const bytes = (field: number, value: Buffer): Buffer => Buffer.concat([varint((field << 3) | bytesType), varint(value.length), value]);
const text = (field: number, value: string): Buffer => bytes(field, Buffer.from(value));

/** Seven bits per byte, least significant first; the eighth bit is set if more bytes follow. @param value below 2^31. */
function varint(value: number): Buffer {
  const out: number[] = [];
  let rest = value;
  for (; rest > 0x7f; rest >>>= 7) out.push((rest & 0x7f) | 0x80);
  return Buffer.from([...out, rest]);
}

/** @returns null at the end of the data, and for more than 64 bits. Negative numbers are not decoded correctly; no field that is used has one. */
function readVarint(view: Buffer, at: { offset: number }): number | null {
  let value = 0;
  for (let i = 0; i < 10; i++) {
    const byte = view[at.offset++];
    if (byte === undefined) return null;
    if (i < 4) value |= (byte & 0x7f) << (7 * i);
    if (byte < 0x80) return value;
  }
  return null;
}
