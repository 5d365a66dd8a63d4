#!/bin/sh
# bpf(BPF_PROG_LOAD) rejects a valid program when a signal is pending, and a second try that asks for the reason hides it.
#
# The guess: BPF_PROG_LOAD fails only if the verifier rejects the program; and to learn why, one loads it again with a log buffer of a few KiB.
# What really happens: the verifier ends with EAGAIN as soon as the calling thread has a pending signal, after any number of instructions, even if
#   the signal's handler does nothing. A runtime gets a SIGCHLD whenever a container's process ends, so device rules fail now and then, under load.
#   The second try then passes the verifier, but fails all the same: with ENOSPC, because the log of a valid program (some 60 bytes for each
#   instruction on each path) does not fit into the buffer. The error that is reported says that there is no space.
# Why it matters: the device rules of cgroup v2 are such a program. A runtime that sees the error refuses to start the container. What helps: block
#   all signals of the thread around the call, or call again on EAGAIN (libbpf does so five times); and a log buffer of hundreds of KiB.
# Source: Linux, kernel/bpf/verifier.c: do_check() (signal_pending: -EAGAIN), bpf_vlog_finalize() (-ENOSPC); seen on 6.12 and 6.18 with koffi 3.3.4 (npm).
# Needs root, npm and Node on x86-64. Prints, and fails if it changes.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
npm install --silent --no-audit --no-fund koffi@3.3.4
cat >load.mjs <<'JS'
import koffi from 'koffi';
const libc = koffi.load('libc.so.6');
koffi.struct('attr', {
  prog_type: 'uint32', insn_cnt: 'uint32', insns: 'void *', license: 'void *', log_level: 'uint32', log_size: 'uint32', log_buf: 'void *', rest: koffi.array('uint32', 8),
});
koffi.struct('timeval', { seconds: 'long', micros: 'long' });
koffi.struct('itimerval', { interval: 'timeval', value: 'timeval' });
const syscall = libc.func('long syscall(long nr, long command, _In_ attr *attr, long size)');
const close = libc.func('int close(int fd)');
const setitimer = libc.func('int setitimer(int which, _In_ itimerval *next, void *old)');
const sigmask = libc.func('int pthread_sigmask(int how, _In_ void *set, _Out_ void *old)');
const [BPF, PROG_LOAD, CGROUP_DEVICE, SIG_BLOCK, SIG_SETMASK] = [321, 5, 15, 0, 2];

// r0 = 1 many times, then exit: valid, and allows every device.
const count = 3000;
const program = Buffer.concat([...Array(count - 1).fill(Buffer.from('b700000001000000', 'hex')), Buffer.from('9500000000000000', 'hex')]);
const license = Buffer.from('GPL\0');
function load(log) {
  const logging = log === undefined ? { log_level: 0, log_size: 0, log_buf: null } : { log_level: 1, log_size: log.length, log_buf: log };
  const attr = { prog_type: CGROUP_DEVICE, insn_cnt: count, insns: program, license, ...logging, rest: Array(8).fill(0) };
  const fd = Number(syscall(BPF, PROG_LOAD, attr, koffi.sizeof('attr')));
  const errno = koffi.errno();
  if (fd >= 0) close(fd);
  return fd >= 0 ? 'loaded' : (Object.entries(koffi.os.errno).find(([name, value]) => value === errno && name !== 'EWOULDBLOCK')?.[0] ?? errno);
}
const attempts = (body) => {
  const seen = {};
  for (let i = 0; i < 300; i += 1) seen[body()] = true;
  return Object.keys(seen).sort().join(' and ');
};
const every = (micros) => setitimer(0, { interval: { seconds: 0, micros }, value: { seconds: 0, micros } }, null);

console.log('no signals:', attempts(load));
process.on('SIGALRM', () => {});
every(1000);
console.log('a signal every 1 ms:', attempts(load));
const old = Buffer.alloc(128);
sigmask(SIG_BLOCK, Buffer.alloc(128, 0xff), old);
console.log('signals blocked:', attempts(load));
every(0);
sigmask(SIG_SETMASK, old, null);
console.log('no signals, a log of 4 KiB:', load(Buffer.alloc(4096)));
console.log('no signals, a log of 1 MiB:', load(Buffer.alloc(1 << 20)));
process.exit();
JS
seen=$(node load.mjs)
echo "$seen"
expected='no signals: loaded
a signal every 1 ms: EAGAIN and loaded
signals blocked: loaded
no signals, a log of 4 KiB: ENOSPC
no signals, a log of 1 MiB: loaded'
if [ "$seen" != "$expected" ]; then
	echo 'this is not what was seen before' >&2
	exit 1
fi
