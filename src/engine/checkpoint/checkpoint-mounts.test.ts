import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseMountInfo } from '../../sys/call/proc.ts';
import { externalMounts } from './checkpoint-mounts.ts';

const line = (device: string, root: string, point: string, type: string) => `70 85 ${device} ${root} ${point} rw - ${type} x rw`;

test('externalMounts() returns mounts of file systems that the host has', () => {
  const outside = parseMountInfo(
    [line('254:0', '/', '/', 'ext4'), line('0:39', '/', '/run/berth/shm', 'tmpfs'), line('0:31', '/', '/cg', 'cgroup')].join('\n'),
  );
  const inside = parseMountInfo(
    [
      line('0:41', '/', '/', 'overlay'),
      line('254:0', '/vol', '/data\\040dir', 'ext4'),
      line('254:0', '/other', '/data\\040dir', 'ext4'),
      line('0:39', '/', '/dev/shm', 'tmpfs'),
      line('0:31', '/pod', '/sys/fs/cgroup/cpu', 'cgroup'),
      line('0:50', '/', '/model', 'overlay'),
    ].join('\n'),
  );
  assert.deepEqual(externalMounts(inside, outside), ['/data dir', '/dev/shm', '/sys/fs/cgroup/cpu', '/model']);
});

test("externalMounts() excludes the container's own mounts and the kernel's file systems", () => {
  const outside = parseMountInfo(
    [line('0:5', '/', '/proc', 'proc'), line('0:6', '/', '/sys', 'sysfs'), line('0:7', '/', '/sys/fs/cgroup', 'cgroup2')].join('\n'),
  );
  const inside = [
    line('0:41', '/', '/', 'overlay'),
    line('0:44', '/', '/dev', 'tmpfs'),
    line('0:44', '/null', '/proc/keys', 'tmpfs'),
    ...[line('0:5', '/', '/proc', 'proc'), line('0:6', '/', '/sys', 'sysfs'), line('0:7', '/', '/sys/fs/cgroup', 'cgroup2')],
  ];
  assert.deepEqual(externalMounts(parseMountInfo(inside.join('\n')), outside), []);
});
