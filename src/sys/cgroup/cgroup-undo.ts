/**
 * Computes what to write to a cgroup's file to restore its earlier content. Pure.
 *
 * Most files have one value, which is written as it was read. Some have a line per device: a write changes one line, and writing nothing does not
 * reset it. Source: the kernel's Documentation/admin-guide/cgroup-v2.rst, cgroup-v1/blkio-controller.rst and cgroup-v1/rdma.rst.
 */

/** Files with a line per device or resource, and the value of a line without a limit. */
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

/** Returns true if the file has several lines, each written separately. */
export const isKeyedFile = (file: string): boolean => file in keyedFiles;

/** @param before text of the file before `written` was written. */
export function valueBefore(file: string, written: string, before: string): string {
  const unset = keyedFiles[file];
  // An empty list (cpuset) is written as an empty line.
  if (unset === undefined) return `${before.trimEnd()}\n`;
  // A weight without a device applies to all devices.
  const key = /^\d+$/.test(written.trim()) ? 'default' : written.split(' ')[0];
  return before.split('\n').find((line) => line.split(' ')[0] === key) ?? `${key} ${unset}`;
}
