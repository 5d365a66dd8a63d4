/**
 * `berth top`: shows the resource usage of pods and containers, live on a terminal or once as text. Its only source is the daemon.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { callRuntime } from '../cri/client.ts';
import { type Contract, loadContract } from '../cri/contract.ts';
import type { ListContainersResponse, ListPodSandboxResponse, ListPodSandboxStatsResponse } from '../cri/wire/messages.ts';
import { reasonOf } from '../lib/errors.ts';
import { podUses, type Sample, type SortKey, type TopOptions } from './top-rows.ts';
import { keyLine, tableLines, titleLine } from './top-view.ts';

/** Time between the two samples of a single output. */
const onceIntervalMs = 1_000;
/** If a response takes longer, the title shows that the values are old. */
const lateMs = 2_000;

const sortOfKey: Readonly<Record<string, SortKey>> = {
  c: 'cpu',
  m: 'memory',
  p: 'processes',
  n: 'network',
  r: 'restarts',
  a: 'age',
  N: 'name',
};
/** As sent by a terminal in raw mode, where ^C is a key. */
const quitKeys = ['q', 'Q', '\x03', '\x04'];
const scrollOfKey: Readonly<Record<string, number>> = { j: 1, '\x1b[B': 1, k: -1, '\x1b[A': -1, ' ': 20, '\x1b[6~': 20, '\x1b[5~': -20 };

const enterScreen = '\x1b[?1049h\x1b[?25l';
const leaveScreen = '\x1b[?25h\x1b[?1049l';

/**
 * Prints once if standard input or output is not a terminal, otherwise shows a live view until the user quits.
 *
 * @throws {BerthError} FAILED_PRECONDITION if no daemon answers at the start. Later failures are shown in the title.
 */
export async function showTop(socket: string, options: TopOptions): Promise<void> {
  const contract = loadContract();
  const takeSample = () => sampleFrom(contract, socket);
  if (options.isOnce || !process.stdout.isTTY || !process.stdin.isTTY) return printOnce(takeSample, options.sort);
  await showLive(takeSample, await takeSample(), options);
}

async function sampleFrom(contract: Contract, socket: string): Promise<Sample> {
  const [stats, sandboxes, containers] = await Promise.all([
    callRuntime<ListPodSandboxStatsResponse>(contract, socket, 'ListPodSandboxStats', {}),
    callRuntime<ListPodSandboxResponse>(contract, socket, 'ListPodSandbox', {}),
    callRuntime<ListContainersResponse>(contract, socket, 'ListContainers', {}),
  ]);
  return { atMs: performance.now(), stats, sandboxes, containers };
}

async function printOnce(takeSample: () => Promise<Sample>, sort: SortKey): Promise<void> {
  const before = await takeSample();
  await sleep(onceIntervalMs);
  const pods = podUses(before, await takeSample(), sort, Date.now());
  process.stdout.write(`${tableLines({ pods, sort, width: process.stdout.columns ?? Number.MAX_SAFE_INTEGER }).join('\n')}\n`);
}

async function showLive(takeSample: () => Promise<Sample>, first: Sample, { intervalMs, sort: firstSort }: TopOptions): Promise<void> {
  const { stdin, stdout } = process;
  let [before, sample, problem]: [Sample | undefined, Sample, string | undefined] = [undefined, first, undefined];
  let sort = firstSort;
  let scrolled = 0;
  const draw = () => {
    const pods = podUses(before, sample, sort, Date.now());
    const view = { pods, sort, width: stdout.columns };
    const [heading = '', ...rows] = tableLines(view);
    const rowsMax = Math.max(0, stdout.rows - 3);
    scrolled = Math.max(0, Math.min(scrolled, rows.length - rowsMax));
    const lines = [titleLine(view, problem), keyLine.slice(0, view.width), heading, ...rows.slice(scrolled, scrolled + rowsMax)];
    stdout.write(`\x1b[H${lines.join('\x1b[K\r\n')}\x1b[K\x1b[J`);
  };
  const refresh = async () => {
    const late = setTimeout(() => {
      problem = 'the daemon does not answer; the values below are old';
      draw();
    }, lateMs);
    try {
      const next = await takeSample();
      [before, sample, problem] = [sample, next, undefined];
    } catch (error) {
      problem = reasonOf(error);
    } finally {
      clearTimeout(late);
    }
    draw();
  };
  const quit = Promise.withResolvers<void>();
  const onKey = (bytes: Buffer) => {
    const key = bytes.toString();
    if (quitKeys.includes(key)) return quit.resolve();
    sort = sortOfKey[key] ?? sort;
    scrolled += scrollOfKey[key] ?? 0;
    draw();
  };
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) process.on(signal, quit.resolve);
  stdin.setRawMode(true).on('data', onKey).on('end', quit.resolve);
  stdout.on('resize', draw);
  stdout.write(enterScreen);
  try {
    draw();
    // Quitting does not wait for a hanging daemon.
    const quitsDuring = (work: Promise<unknown>) => Promise.race([quit.promise.then(() => true), work.then(() => false)]);
    while (!(await quitsDuring(sleep(intervalMs)))) if (await quitsDuring(refresh())) break;
  } finally {
    stdin.setRawMode(false);
    stdout.write(leaveScreen);
  }
}
