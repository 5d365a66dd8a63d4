/**
 * What to write to a cgroup's file so that it says again what it said before. Pure.
 *
 * Most files hold one value, and are written as they were read. Some hold a line a device: a write changes one, and none of them is
 * emptied by writing nothing. Documentation/admin-guide/cgroup-v2.rst, cgroup-v1/blkio-controller.rst and cgroup-v1/rdma.rst of the kernel.
 */

/** Files with a line a device or resource, and what such a line says when nothing is set. */
const keyedFiles: Readonly<Record<string, string>> = {
  'io.max': 'rbps=max wbps=max riops=max wiops=max',
  'io.latency': 'target=0',
  'io.weight': 'default',
  'io.bfq.weight': 'default',
  'rdma.max': 'hca_handle=max hca_object=max',
  'misc.max': 'max',
  'blkio.bfq.weight_device': 'default',
  'blkio.throttle.read_bps_device': '0',
  'blkio.throttle.write_bps_device': '0',
  'blkio.throttle.read_iops_device': '0',
  'blkio.throttle.write_iops_device': '0',
};

/** Whether the file takes several lines, one a write. */
export const isKeyedFile = (file: string): boolean => file in keyedFiles;

/** @param before the file's text before `written` was written to it. */
export function valueBefore(file: string, written: string, before: string): string {
  const unset = keyedFiles[file];
  // An empty list (cpuset) is written as an empty line.
  if (unset === undefined) return `${before.trimEnd()}\n`;
  // A weight alone is that of all devices.
  const key = /^\d+$/.test(written.trim()) ? 'default' : written.split(' ')[0];
  return before.split('\n').find((line) => line.split(' ')[0] === key) ?? `${key} ${unset}`;
}
