/**
 * The numbers of system calls on each ABI that a seccomp program can see, also of calls that the node's libseccomp does not know.
 *
 * Pure. libseccomp 2.5.4 (Debian 12) knows system calls up to Linux 5.17.
 */
import assert from 'node:assert/strict';

/**
 * Returns the number of a system call on an architecture (libseccomp's name), on x32 with its bit.
 * Undefined: libseccomp does not know the call, or the architecture does not have it.
 */
export type SyscallNumber = (name: string, architecture: string) => number | undefined;

export type Abi = {
  /** AUDIT_ARCH value: include/uapi/linux/audit.h. */
  readonly auditArch: number;
  /** Set in the numbers of x32, which has the AUDIT_ARCH of x86_64. */
  readonly bit: number;
  /** The part of an argument that is compared, as in libseccomp. */
  readonly argumentBits: 32 | 64;
  /** Calls that libseccomp may not know. Maps, because names come from profiles: `toString` is no call. */
  readonly added: ReadonlyMap<string, number>;
  /** First and last of the numbers outside of the common sequence. */
  readonly separate?: readonly [number, number];
  readonly multiplexed: ReadonlyMap<string, Multiplexed>;
};

/** A call that is an operation of another call, its first argument, and in newer kernels also a call of its own. */
type Multiplexed = { readonly call: number; readonly operation: number; readonly direct?: number };

/** Where a program meets a system call: its number without the bit of the ABI, and the first argument if it is an operation of that call. */
export type Place = { readonly number: number; readonly operation?: number };

export const x32Bit = 0x40000000;

/** System calls since Linux 5.18: arch/x86/entry/syscalls/syscall_64.tbl. From 424 on, numbers are the same on all supported architectures. */
const newSyscalls = {
  cachestat: 451,
  fchmodat2: 452,
  map_shadow_stack: 453,
  futex_wake: 454,
  futex_wait: 455,
  futex_requeue: 456,
  statmount: 457,
  listmount: 458,
  lsm_get_self_attr: 459,
  lsm_set_self_attr: 460,
  lsm_list_modules: 461,
  mseal: 462,
  setxattrat: 463,
  getxattrat: 464,
  listxattrat: 465,
  removexattrat: 466,
  open_tree_attr: 467,
  file_getattr: 468,
  file_setattr: 469,
  listns: 470,
};

/** New system calls that only the 64-bit ABIs of x86 have. */
const newX86Syscalls = { uretprobe: 335, uprobe: 336 };

const socketcall = (operation: number, direct?: number): Multiplexed => ({ call: 102, operation, ...(direct === undefined ? {} : { direct }) });
const ipc = (operation: number, direct?: number): Multiplexed => ({ call: 117, operation, ...(direct === undefined ? {} : { direct }) });

/** Operations of include/uapi/linux/net.h and include/uapi/linux/ipc.h, calls of arch/x86/entry/syscalls/syscall_32.tbl. */
const multiplexedX86 = {
  socket: socketcall(1, 359),
  bind: socketcall(2, 361),
  connect: socketcall(3, 362),
  listen: socketcall(4, 363),
  accept: socketcall(5),
  getsockname: socketcall(6, 367),
  getpeername: socketcall(7, 368),
  socketpair: socketcall(8, 360),
  send: socketcall(9),
  recv: socketcall(10),
  sendto: socketcall(11, 369),
  recvfrom: socketcall(12, 371),
  shutdown: socketcall(13, 373),
  setsockopt: socketcall(14, 366),
  getsockopt: socketcall(15, 365),
  sendmsg: socketcall(16, 370),
  recvmsg: socketcall(17, 372),
  accept4: socketcall(18, 364),
  recvmmsg: socketcall(19, 337),
  sendmmsg: socketcall(20, 345),
  semop: ipc(1),
  semget: ipc(2, 393),
  semctl: ipc(3, 394),
  semtimedop: ipc(4),
  msgsnd: ipc(11, 400),
  msgrcv: ipc(12, 401),
  msgget: ipc(13, 399),
  msgctl: ipc(14, 402),
  shmat: ipc(21, 397),
  shmdt: ipc(22, 398),
  shmget: ipc(23, 395),
  shmctl: ipc(24, 396),
};

const common = { bit: 0, added: new Map(Object.entries(newSyscalls)), multiplexed: new Map<string, Multiplexed>() };
const x86 = { ...common, added: new Map(Object.entries({ ...newSyscalls, ...newX86Syscalls })), auditArch: 0xc000003e };

/** By libseccomp's names. The separate numbers are x32's variants of older calls, and __ARM_NR_BASE of arch/arm/include/uapi/asm/unistd.h. */
const abis: Readonly<Record<string, Abi>> = {
  x86_64: { ...x86, argumentBits: 64 },
  x32: { ...x86, bit: x32Bit, argumentBits: 32, separate: [512, 547] },
  x86: { ...common, auditArch: 0x40000003, argumentBits: 32, multiplexed: new Map(Object.entries(multiplexedX86)) },
  aarch64: { ...common, auditArch: 0xc00000b7, argumentBits: 64 },
  arm: { ...common, auditArch: 0x40000028, argumentBits: 32, separate: [0xf0000, 0xfffff] },
};

/** @param architecture libseccomp's name. */
export function abiOf(architecture: string): Abi {
  const abi = abis[architecture];
  assert(abi !== undefined, `unknown architecture ${architecture}`);
  return abi;
}

/** Returns where a program meets a system call; empty if the ABI does not have it, or nothing here knows its number. */
export function placesOf(abi: Abi, name: string, libraryNumber: (name: string) => number | undefined): Place[] {
  const multiplexed = abi.multiplexed.get(name);
  if (multiplexed !== undefined) {
    const { call, operation, direct } = multiplexed;
    return [{ number: call, operation }, ...(direct === undefined ? [] : [{ number: direct }])];
  }
  const number = libraryNumber(name);
  if (number !== undefined) return [{ number: number & ~abi.bit }];
  const added = abi.added.get(name);
  return added === undefined ? [] : [{ number: added }];
}

/** Returns true for a number whose neighbors are no older and no newer calls. */
export const isSeparate = ({ separate }: Abi, number: number): boolean => separate !== undefined && number >= separate[0] && number <= separate[1];
