#!/bin/sh
# openat2(2) with RESOLVE_IN_ROOT or RESOLVE_BENEATH fails with EAGAIN because of renames anywhere on the machine.
#
# The guess: EAGAIN is about a race in the path that is resolved: someone moves one of its directories out of the root. Nobody else touches this root, so
#   it cannot happen.
# What really happens: when the path has a `..`, in itself or in a symbolic link on its way, the kernel compares two counters that belong to the whole
#   machine, one of renames and one of mounts. Renames of directories in another file system, and mounts in another mount namespace, change them. The file
#   in question and everything above it stand still. Without `..` it never happens.
# Why it matters: a container runtime resolves every path of a container with these flags, and images are full of links such as
#   `etc/mtab -> ../proc/self/mounts`. While another program renames or mounts (an image is unpacked, a build runs), containers fail to start now and then.
#   What helps: try again, as openat2(2) says.
# Source: Linux, fs/namei.c: handle_dots() (read_seqretry of mount_lock and rename_lock: -EAGAIN). Seen on 6.18 with koffi 3.3.4 (npm).
# Needs npm, Node on x86-64 and two processors. Prints, and fails if it changes.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
npm install --silent --no-audit --no-fund koffi@3.3.4
cat >open.mjs <<'JS'
import { closeSync, mkdirSync, openSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { isMainThread, Worker, workerData } from 'node:worker_threads';
if (!isMainThread) {
  for (;;) {
    renameSync(`${workerData}/a`, `${workerData}/b`);
    renameSync(`${workerData}/b`, `${workerData}/a`);
  }
}
const { default: koffi } = await import('koffi');
const libc = koffi.load('libc.so.6');
koffi.struct('open_how', { flags: 'uint64', mode: 'uint64', resolve: 'uint64' });
const openat2 = libc.func('long syscall(long nr, long dir, const char *path, _In_ open_how *how, long size)');
const [OPENAT2, O_PATH, RESOLVE_IN_ROOT] = [437, 0o10000000, 0x10];

mkdirSync('root/dir', { recursive: true });
writeFileSync('root/file', '');
// Not below the root, and on another file system.
const elsewhere = `/dev/shm/elsewhere-${process.pid}`;
mkdirSync(`${elsewhere}/a`, { recursive: true });
const root = openSync('root', 'r');

// The kernel looks at the counters for a moment only: from one call in 25 to one in many thousands meets a rename.
function outcomes(path) {
  const seen = new Set();
  const end = performance.now() + 60_000;
  for (let i = 0; i < 300_000 || (path.includes('..') && seen.size < 2 && performance.now() < end); i += 1) {
    const fd = Number(openat2(OPENAT2, root, path, { flags: O_PATH, mode: 0, resolve: RESOLVE_IN_ROOT }, 24));
    const errno = fd < 0 ? koffi.errno() : 0;
    if (fd >= 0) closeSync(fd);
    seen.add(fd >= 0 ? 'opened' : errno === 11 ? 'EAGAIN' : `errno ${errno}`);
  }
  return [...seen].sort().join(' and ');
}

const worker = new Worker(new URL(import.meta.url), { workerData: elsewhere });
await new Promise((settle) => setTimeout(settle, 200));
console.log('renames elsewhere, file:', outcomes('file'));
console.log('renames elsewhere, dir/../file:', outcomes('dir/../file'));
await worker.terminate();
rmSync(elsewhere, { recursive: true });
process.exit();
JS
seen=$(node open.mjs)
echo "$seen"
expected='renames elsewhere, file: opened
renames elsewhere, dir/../file: EAGAIN and opened'
if [ "$seen" != "$expected" ]; then
	echo 'this is not what was seen before' >&2
	exit 1
fi
