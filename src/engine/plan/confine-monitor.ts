/**
 * Plans how a monitor gives up what it does not need once its process has started: capabilities, new privileges, and most system calls.
 *
 * Pure. The monitor reads bytes that the container wrote (output, a terminal) and requests from its socket; from then on it only moves bytes, and writes
 * the log and the exit record.
 */
import { AUDIT_ARCH, BPF, IOCTL, PR, PROT, SECCOMP_RET } from './abi.ts';
import type { Op } from './plan.ts';

/**
 * DAC_OVERRIDE: log directories may belong to another user. NET_ADMIN: a send buffer above the limit of unprivileged programs, so that an attached client
 * gets a burst of output without a gap: src/monitor/attach.c.
 */
const keptCapabilities = (1n << 1n) | (1n << 12n);

/** Numbers of the calls of src/monitor/{supervise,attach,log,process,main}.c, [x86-64, arm64]. poll(3) is ppoll(2) on arm64. */
const allowed: Readonly<Record<string, readonly [number, number]>> = {
  read: [0, 63],
  write: [1, 64],
  close: [3, 57],
  poll: [7, 73],
  lseek: [8, 62],
  rt_sigreturn: [15, 139],
  pread64: [17, 67],
  madvise: [28, 233],
  nanosleep: [35, 101],
  sendto: [44, 206],
  recvfrom: [45, 207],
  sendmsg: [46, 211],
  setsockopt: [54, 208],
  wait4: [61, 260],
  fcntl: [72, 25],
  ftruncate: [77, 46],
  restart_syscall: [219, 128],
  clock_gettime: [228, 113],
  clock_nanosleep: [230, 115],
  exit_group: [231, 94],
  openat: [257, 56],
  renameat: [264, 38],
  accept4: [288, 242],
  close_range: [436, 436],
  // What the runtime of the sanitizer builds needs to check and to report.
  open: [2, 56],
  getpid: [39, 172],
  sigaltstack: [131, 132],
  gettid: [186, 178],
};
const mmap = [9, 222] as const;
const ioctl = [16, 29] as const;

/** Returns the operations that the monitor runs after its process has started. */
export function confineMonitor(arch: NodeJS.Architecture = process.arch): Op[] {
  return [
    { call: 'prctl', option: PR.SET_NO_NEW_PRIVS, a: 1, b: 0, c: 0, d: 0, note: 'set no_new_privs for the monitor' },
    {
      call: 'capset',
      capabilities: { effective: keptCapabilities, permitted: keptCapabilities, inheritable: 0n },
      note: 'drop the capabilities of the monitor',
    },
    // Without seccomp in the kernel, containers have no filter either.
    { call: 'seccomp', flags: 0, filter: monitorFilter(arch), tolerate: ['EINVAL', 'ENOSYS'], note: 'load the seccomp filter of the monitor' },
  ];
}

/** struct seccomp_data: number, architecture, instruction pointer, six arguments of 8 bytes. Little-endian: the low word is first. */
const offsetOf = { number: 0, arch: 4, argument: (index: number) => 16 + 8 * index };

/**
 * Returns the program (struct sock_filter each). Other calls fail with EPERM: a monitor that still works loses less than one that is killed, and with it
 * the exit code. Memory can never become executable, and of ioctl(2) only the requests for terminals are allowed.
 */
function monitorFilter(arch: NodeJS.Architecture): Buffer {
  const column = arch === 'arm64' ? 1 : 0;
  const numbers = Object.values(allowed).map((each) => each[column]);
  const rows: Instruction[] = [
    load(offsetOf.arch),
    ...unlessEqual(arch === 'arm64' ? AUDIT_ARCH.AARCH64 : AUDIT_ARCH.X86_64, [ret(SECCOMP_RET.KILL_PROCESS)]),
    load(offsetOf.number),
    ...numbers.flatMap((number) => ifEqual(number, [ret(SECCOMP_RET.ALLOW)])),
    ...ifEqual(mmap[column], [load(offsetOf.argument(2)), [BPF.JSET, 1, 0, PROT.EXEC], ret(SECCOMP_RET.ALLOW), ret(SECCOMP_RET.ERRNO | 1)]),
    ...ifEqual(ioctl[column], [
      load(offsetOf.argument(1)),
      ...ifEqual(IOCTL.TIOCSWINSZ, [ret(SECCOMP_RET.ALLOW)]),
      ...ifEqual(IOCTL.TIOCGPTPEER, [ret(SECCOMP_RET.ALLOW)]),
    ]),
    ret(SECCOMP_RET.ERRNO | 1),
  ];
  return encode(rows);
}

type Instruction = readonly [code: number, jumpTrue: number, jumpFalse: number, value: number];

const load = (offset: number): Instruction => [BPF.LOAD_WORD, 0, 0, offset];
const ret = (action: number): Instruction => [BPF.RETURN, 0, 0, action];
const ifEqual = (value: number, body: readonly Instruction[]): Instruction[] => [[BPF.JEQ, 0, body.length, value], ...body];
const unlessEqual = (value: number, body: readonly Instruction[]): Instruction[] => [[BPF.JEQ, body.length, 0, value], ...body];

function encode(rows: readonly Instruction[]): Buffer {
  const bytes = Buffer.alloc(8 * rows.length);
  rows.forEach(([code, jumpTrue, jumpFalse, value], i) => {
    bytes.writeUInt16LE(code, 8 * i);
    bytes.writeUInt8(jumpTrue, 8 * i + 2);
    bytes.writeUInt8(jumpFalse, 8 * i + 3);
    bytes.writeUInt32LE(value >>> 0, 8 * i + 4);
  });
  return bytes;
}
