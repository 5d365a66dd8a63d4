/**
 * Device programs of cgroup v2 with bpf(2): loads a program, attaches it, and detaches earlier ones. Makes no decisions.
 *
 * An attached program exists as long as its cgroup; no fd is kept.
 */
import { closeSync, constants, openSync } from 'node:fs';
import koffi from 'koffi';
import { checked, isErrno, libc } from '../call/ffi.ts';
import { close } from '../call/syscalls.ts';

const SYS_bpf = process.arch === 'arm64' ? 280 : 321;

/** Commands, types and flags: include/uapi/linux/bpf.h. */
const BPF_PROG_LOAD = 5;
const BPF_PROG_ATTACH = 8;
const BPF_PROG_DETACH = 9;
const BPF_PROG_GET_FD_BY_ID = 13;
const BPF_PROG_QUERY = 16;
const BPF_PROG_TYPE_CGROUP_DEVICE = 15;
const BPF_CGROUP_DEVICE = 6;
/** The programs of the cgroup and of all its ancestors must allow an access. systemd and other runtimes use this flag; it cannot be mixed with others. */
const BPF_F_ALLOW_MULTI = 2;

const instructionBytes = 8;
/** The most that a cgroup can have: kernel/bpf/cgroup.c, BPF_CGROUP_MAX_PROGS. */
const programsMax = 64;
/** Size of the verifier's log, for the error. A program fails with ENOSPC if its log does not fit: some 60 bytes an instruction on each of its paths. */
const logBytesMax = 256 << 10;

koffi.struct('bpf_load_attr', {
  prog_type: 'uint32',
  insn_cnt: 'uint32',
  insns: 'void *',
  license: 'void *',
  log_level: 'uint32',
  log_size: 'uint32',
  log_buf: 'void *',
  kern_version: 'uint32',
  prog_flags: 'uint32',
  prog_name: koffi.array('char', 16, 'String'),
});
koffi.struct('bpf_attach_attr', { target_fd: 'uint32', attach_bpf_fd: 'uint32', attach_type: 'uint32', attach_flags: 'uint32' });
koffi.struct('bpf_id_attr', { id: 'uint32', next_id: 'uint32', open_flags: 'uint32' });
koffi.struct('bpf_query_attr', {
  target_fd: 'uint32',
  attach_type: 'uint32',
  query_flags: 'uint32',
  attach_flags: 'uint32',
  prog_ids: 'void *',
  prog_cnt: 'uint32',
  // Newer kernels write results behind the fields above even if the caller's struct ends before them: `revision` since 6.6, unconditionally since 6.17.
  rest: koffi.array('uint32', 9),
});
/** A sigset_t of glibc: 1024 bits. */
const signalSetBytes = 128;
const SIG_BLOCK = 0;
const SIG_SETMASK = 2;
const c_sigmask = libc.func('int pthread_sigmask(int how, _In_ void *set, _Out_ void *oldset)');
const c_load = libc.func('long syscall(long nr, long command, _In_ bpf_load_attr *attr, long size)');
const c_attach = libc.func('long syscall(long nr, long command, _In_ bpf_attach_attr *attr, long size)');
const c_getFd = libc.func('long syscall(long nr, long command, _In_ bpf_id_attr *attr, long size)');
const c_query = libc.func('long syscall(long nr, long command, _Inout_ bpf_query_attr *attr, long size)');

/**
 * Replaces the device programs of a cgroup.
 *
 * @param directory directory of the cgroup.
 * @param program null removes all programs, so that only the programs of the ancestors apply.
 * @throws {SyscallError} with the last line of the verifier's log if the kernel rejects the program.
 */
export function setDeviceProgram(directory: string, program: Buffer | null): void {
  const cgroup = openSync(directory, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    const oldPrograms = attachedPrograms(cgroup);
    // Attach first, so that the cgroup is never without a program.
    if (program !== null) attach(cgroup, program, directory);
    for (const id of oldPrograms) detach(cgroup, id, directory);
  } finally {
    closeSync(cgroup);
  }
}

function attach(cgroup: number, program: Buffer, directory: string): void {
  const fd = load(program);
  try {
    const attr = { target_fd: cgroup, attach_bpf_fd: fd, attach_type: BPF_CGROUP_DEVICE, attach_flags: BPF_F_ALLOW_MULTI };
    checked(c_attach(SYS_bpf, BPF_PROG_ATTACH, attr, koffi.sizeof('bpf_attach_attr')), () => `attach the device program to ${directory}`);
  } finally {
    close(fd);
  }
}

function load(program: Buffer): number {
  const license = Buffer.from('Apache-2.0\0');
  const attr = {
    prog_type: BPF_PROG_TYPE_CGROUP_DEVICE,
    insn_cnt: program.length / instructionBytes,
    insns: program,
    license,
    log_level: 0,
    log_size: 0,
    log_buf: null as Buffer | null,
    kern_version: 0,
    prog_flags: 0,
    prog_name: 'berth_devices',
  };
  const size = koffi.sizeof('bpf_load_attr');
  return withoutSignals(() => {
    const fd = c_load(SYS_bpf, BPF_PROG_LOAD, attr, size);
    if (fd >= 0) return Number(fd);
    const log = Buffer.alloc(logBytesMax);
    const retried = c_load(SYS_bpf, BPF_PROG_LOAD, { ...attr, log_level: 1, log_size: log.length, log_buf: log }, size);
    return checked(retried, () => `load a device program of ${attr.insn_cnt} instructions${lastLine(log)}`);
  });
}

/** Calls with all signals of this thread blocked: the verifier fails with EAGAIN as soon as one is pending, such as the SIGCHLD of a process that ends. */
function withoutSignals<T>(call: () => T): T {
  const before = Buffer.alloc(signalSetBytes);
  c_sigmask(SIG_BLOCK, Buffer.alloc(signalSetBytes, 0xff), before);
  try {
    return call();
  } finally {
    c_sigmask(SIG_SETMASK, before, null);
  }
}

function lastLine(log: Buffer): string {
  const lines = log.toString('latin1', 0, log.indexOf(0)).trim().split('\n');
  return lines.at(-1) ? ` (${lines.at(-1)})` : '';
}

/** Returns the ids of the programs attached to this cgroup, without those of its ancestors. */
function attachedPrograms(cgroup: number): number[] {
  const ids = Buffer.alloc(4 * programsMax);
  const attr = {
    target_fd: cgroup,
    attach_type: BPF_CGROUP_DEVICE,
    query_flags: 0,
    attach_flags: 0,
    prog_ids: ids,
    prog_cnt: programsMax,
    rest: new Array(9).fill(0),
  };
  checked(c_query(SYS_bpf, BPF_PROG_QUERY, attr, koffi.sizeof('bpf_query_attr')), () => 'query the device programs of a cgroup');
  return Array.from({ length: attr.prog_cnt }, (_, index) => ids.readUInt32LE(4 * index));
}

function detach(cgroup: number, id: number, directory: string): void {
  const attempt = (): string => `detach device program ${id} from ${directory}`;
  try {
    const fd = checked(c_getFd(SYS_bpf, BPF_PROG_GET_FD_BY_ID, { id, next_id: 0, open_flags: 0 }, koffi.sizeof('bpf_id_attr')), attempt);
    try {
      const attr = { target_fd: cgroup, attach_bpf_fd: fd, attach_type: BPF_CGROUP_DEVICE, attach_flags: 0 };
      checked(c_attach(SYS_bpf, BPF_PROG_DETACH, attr, koffi.sizeof('bpf_attach_attr')), attempt);
    } finally {
      close(fd);
    }
  } catch (error) {
    // Removed since the query.
    if (!isErrno(error, 'ENOENT')) throw error;
  }
}
