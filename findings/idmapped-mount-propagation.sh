#!/bin/sh
# A mount that arrives by propagation below an ID-mapped mount is not ID-mapped.
#
# The guess: a directory that is mounted into a user-namespaced pod with ID mapping and with propagation (HostToContainer: a slave) shows what is mounted
#   below it later with the same mapping. After all, MOUNT_ATTR_IDMAP can be set for a whole tree with AT_RECURSIVE.
# What really happens: the mapping is a property of each mount, and the kernel clones the new mount from the one that was mounted on the host, which has
#   none. Its files keep the ids of the host: they are owned by nobody (65534) in the pod, and its root can neither list a directory of mode 0700 nor
#   change anything. No error is given anywhere, on the host or in the pod.
# Why it matters: a CSI driver or a node plugin mounts a volume after the pod has started. In a pod with its own users it arrives, and is unusable; pods
#   without user namespaces work. The mount must be ID-mapped by whoever makes it, or made before the container starts.
# Source: Linux, fs/pnode.c: propagate_mnt() and fs/namespace.c: clone_mnt(), which copy the source mount; mount_setattr(2), "ID-mapped mounts".
#   Seen on 6.18 with koffi 3.3.4 (npm).
# Needs root, npm, Node on x86-64 and util-linux. Prints, and fails if it changes.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
npm install --silent --no-audit --no-fund koffi@3.3.4
cat >mounts.mjs <<'JS'
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, mkdirSync, openSync, writeFileSync } from 'node:fs';
import { execFileSync } from 'node:child_process';
import koffi from 'koffi';
const libc = koffi.load('libc.so.6');
koffi.struct('mount_attr', { set: 'uint64', clear: 'uint64', propagation: 'uint64', userns: 'uint64' });
const openTree = libc.func('long syscall(long nr, long dir, const char *path, long flags)');
const setattr = libc.func('long syscall(long nr, long fd, const char *path, long flags, _In_ mount_attr *attr, long size)');
const moveMount = libc.func('long syscall(long nr, long from, const char *fromPath, long to, const char *toPath, long flags)');
const [OPEN_TREE, MOVE_MOUNT, MOUNT_SETATTR] = [428, 429, 442];
const [AT_FDCWD, AT_EMPTY_PATH, AT_RECURSIVE, OPEN_TREE_CLONE, MOVE_MOUNT_F_EMPTY_PATH] = [-100, 0x1000, 0x8000, 1, 4];
const [MOUNT_ATTR_IDMAP, MS_SLAVE] = [0x100000, 1 << 19];
function checked(result, what) {
  if (result < 0) throw new Error(`${what}: errno ${koffi.errno()}`);
  return Number(result);
}

// A user namespace like that of a pod: its root is user 100000 of the host.
const holder = spawn('unshare', ['--user', '--', 'sleep', '60']);
await once(holder, 'spawn');
while (execFileSync('readlink', [`/proc/${holder.pid}/ns/user`]).equals(execFileSync('readlink', ['/proc/self/ns/user']))) await new Promise((settle) => setTimeout(settle, 20));
for (const map of ['uid_map', 'gid_map']) writeFileSync(`/proc/${holder.pid}/${map}`, '0 100000 65536');
const userns = openSync(`/proc/${holder.pid}/ns/user`, 'r');

for (const name of ['host', 'pod']) mkdirSync(name);
execFileSync('mount', ['-t', 'tmpfs', 'volume', 'host']);
execFileSync('mount', ['--make-shared', 'host']);
for (const name of ['before', 'after']) mkdirSync(`host/${name}`);
execFileSync('mount', ['-t', 'tmpfs', '-o', 'mode=700', 'early', 'host/before']);

const tree = checked(openTree(OPEN_TREE, AT_FDCWD, 'host', OPEN_TREE_CLONE | AT_RECURSIVE), 'open_tree');
const attr = { set: MOUNT_ATTR_IDMAP, clear: 0, propagation: MS_SLAVE, userns };
checked(setattr(MOUNT_SETATTR, tree, '', AT_EMPTY_PATH | AT_RECURSIVE, attr, koffi.sizeof('mount_attr')), 'mount_setattr');
checked(moveMount(MOVE_MOUNT, tree, '', AT_FDCWD, 'pod', MOVE_MOUNT_F_EMPTY_PATH), 'move_mount');

execFileSync('mount', ['-t', 'tmpfs', '-o', 'mode=700', 'late', 'host/after']);

// What root of the pod sees: a process in its user namespace.
const asPodRoot = (...command) => execFileSync('nsenter', [`--user=/proc/${holder.pid}/ns/user`, '--setuid=0', '--setgid=0', '--', ...command], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim();
function list(directory) {
  try {
    asPodRoot('ls', directory);
    return 'can be listed';
  } catch {
    return 'cannot be listed';
  }
}
chmodSync('.', 0o755);
for (const [what, path] of [['the volume', 'pod'], ['mounted before', 'pod/before'], ['mounted after', 'pod/after']])
  console.log(`${what}: owner ${asPodRoot('stat', '-c', '%u', path)}, ${list(path)}`);
holder.kill();
process.exit();
JS
seen=$(unshare --mount --propagation private node mounts.mjs)
echo "$seen"
expected='the volume: owner 0, can be listed
mounted before: owner 0, can be listed
mounted after: owner 65534, cannot be listed'
if [ "$seen" != "$expected" ]; then
	echo 'this is not what was seen before' >&2
	exit 1
fi
