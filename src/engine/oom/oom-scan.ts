/**
 * Finds OOM kills in the kernel log: the victim, the cgroup whose limit was reached, and its memory usage. Pure.
 *
 * Formats: mm/oom_kill.c (dump_oom_victim, __oom_kill_process) and mm/memcontrol.c (mem_cgroup_print_oom_meminfo) of Linux 5.14 to 6.18. The names of
 * programs and cgroups in them are untrusted, so the result is used only for reports, never for decisions.
 */

import type { MemoryUse, OomKill } from '../state/oom-kill.ts';

type LogRecord = { readonly sequence: number; readonly atUs: number; readonly text: string };

/** The data collected so far from one report of the kernel. */
type Report = { readonly usage: Map<string, number>; limitBytes: number | null; kmemBytes: number | null };

/** Limit for one report, because a forged one could be endless. */
const usageLinesMax = 128;

/** Returns a function that takes the records in order, and returns the kill that a record completes. */
export function createOomScanner(): (record: LogRecord) => OomKill | null {
  let report = emptyReport();
  /** A kill whose memory usage is in a following line. */
  let pending: OomKill | null = null;
  let last: OomKill | null = null;
  let group: string | null = null;
  const scan = (record: LogRecord): OomKill | null => {
    const { text } = record;
    if (text.includes(' invoked oom-killer: ')) {
      report = emptyReport();
      group = null;
      return null;
    }
    const kill = parseVictim(record, report);
    if (kill !== null) {
      report = emptyReport();
      pending = kill.limitedCgroup === null ? kill : null;
      if (pending !== null) return null;
      last = kill;
      return kill;
    }
    const tasks = /^Tasks in (.*) are going to be killed due to memory\.oom\.group set$/.exec(text)?.[1];
    if (tasks !== undefined) group = tasks;
    const killed = parseKilled(record);
    if (killed === null) {
      collect(report, text);
      return null;
    }
    if (pending?.pid === killed.pid) {
      last = { ...pending, memory: killed.memory };
      pending = null;
      return last;
    }
    if (last?.pid === killed.pid) return null;
    return group === null ? killed : { ...killed, cgroup: group, limitedCgroup: last?.limitedCgroup ?? null, isOfGroup: true };
  };
  return scan;
}

const emptyReport = (): Report => ({ usage: new Map(), limitBytes: null, kmemBytes: null });

/** Paths may contain anything but a line feed, so the first separator of each kind counts. The name of the program ends before the last separators. */
function parseVictim({ sequence, atUs, text }: LogRecord, report: Report): OomKill | null {
  const match = /^oom-kill:constraint=[A-Z_]+,.*?(?:,global_oom|,oom_memcg=(.*?))(?:,task_memcg=(.*?)),task=(.*),pid=(\d+),uid=\d+$/.exec(text);
  if (match === null) return null;
  const [, limitedCgroup = null, cgroup = null, command = '', pid] = match;
  const isOfCgroup = limitedCgroup !== null;
  return {
    sequence,
    atUs,
    pid: Number(pid),
    command,
    cgroup,
    limitedCgroup,
    limitBytes: isOfCgroup ? report.limitBytes : null,
    memory: isOfCgroup ? memoryOf(report) : null,
    isOfGroup: false,
  };
}

/** Parses the line that the kernel writes for every kill, even if it rate-limits the rest of the report. */
function parseKilled({ sequence, atUs, text }: LogRecord): OomKill | null {
  const match = /: Killed process (\d+) \((.*)\) total-vm:\d+kB, anon-rss:(\d+)kB, file-rss:(\d+)kB, shmem-rss:(\d+)kB,/.exec(text);
  if (match === null || !/^(Memory cgroup out|Out) of memory/.test(text)) return null;
  const [, pid, command = '', anon, file, shmem] = match;
  const memory = { anonBytes: kib(anon), fileBytes: kib(file), shmemBytes: kib(shmem) };
  return { sequence, atUs, pid: Number(pid), command, cgroup: null, limitedCgroup: null, limitBytes: null, memory, isOfGroup: false };
}

function collect(report: Report, text: string): void {
  const limit = /^memory: usage \d+kB, limit (\d+)kB, failcnt \d+$/.exec(text)?.[1];
  if (limit !== undefined) report.limitBytes = kib(limit) < 2 ** 62 ? kib(limit) : null;
  const kmem = /^kmem: usage (\d+)kB, limit /.exec(text)?.[1];
  if (kmem !== undefined) report.kmemBytes = kib(kmem);
  // Until Linux 6.5 all lines are in one record, truncated to the size of a record. Escapes: Documentation/ABI/testing/dev-kmsg of the kernel.
  for (const line of text.split('\\x0a')) {
    const [, key, value] = /^([a-z_]+) (\d+)$/.exec(line) ?? [];
    if (key !== undefined && report.usage.size < usageLinesMax) report.usage.set(key, Number(value));
  }
}

/** v1 has `total_rss` and similar keys for the cgroup and its descendants, v2 has `anon`. */
function memoryOf({ usage, kmemBytes }: Report): MemoryUse | null {
  const anonBytes = usage.get('total_rss') ?? usage.get('anon');
  if (anonBytes === undefined) return null;
  const shmemBytes = usage.get('total_shmem') ?? usage.get('shmem') ?? 0;
  const fileBytes = Math.max(0, (usage.get('total_cache') ?? usage.get('file') ?? 0) - shmemBytes);
  const kernelBytes = kmemBytes ?? usage.get('kernel');
  return { anonBytes, fileBytes, shmemBytes, ...(kernelBytes === undefined ? {} : { kernelBytes }) };
}

const kib = (digits: string | undefined): number => Number(digits) * 1024;
