/**
 * `berth top`: what pods use, live on a terminal or once as text. Asks the running daemon over the socket and knows nothing else.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { callRuntime } from '../cri/client.ts';
import { type Contract, loadContract } from '../cri/contract.ts';
import type { ListContainersResponse, ListPodSandboxResponse, ListPodSandboxStatsResponse } from '../cri/wire/messages.ts';
import { reasonOf } from '../lib/errors.ts';
import { podUses, type Sample, type SortKey, type TopOptions } from './top-rows.ts';
import { keyLine, tableLines, titleLine } from './top-view.ts';

/** Between the two looks of one output. */
const onceIntervalMs = 1_000;
/** An answer that takes so long is told to be late. */
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
/** As terminals send them, raw: ^C is a key here. */
const quitKeys = ['q', 'Q', '\x03', '\x04'];
const scrollOfKey: Readonly<Record<string, number>> = { j: 1, '\x1b[B': 1, k: -1, '\x1b[A': -1, ' ': 20, '\x1b[6~': 20, '\x1b[5~': -20 };

const enterScreen = '\x1b[?1049h\x1b[?25l';
const leaveScreen = '\x1b[?25h\x1b[?1049l';

/**
 * Prints once where the output is no terminal or nobody is at the keys, else shows until somebody quits.
 *
 * @throws {BerthError} FAILED_PRECONDITION when no daemon answers at first; later that is shown.
 */
export async function showTop(socket: string, options: TopOptions): Promise<void> {
  const contract = loadContract();
  const look = () => lookAt(contract, socket);
  if (options.isOnce || !process.stdout.isTTY || !process.stdin.isTTY) return printOnce(look, options.sort);
  await showLive(look, await look(), options);
}

async function lookAt(contract: Contract, socket: string): Promise<Sample> {
  const [stats, sandboxes, containers] = await Promise.all([
    callRuntime<ListPodSandboxStatsResponse>(contract, socket, 'ListPodSandboxStats', {}),
    callRuntime<ListPodSandboxResponse>(contract, socket, 'ListPodSandbox', {}),
    callRuntime<ListContainersResponse>(contract, socket, 'ListContainers', {}),
  ]);
  return { atMs: performance.now(), stats, sandboxes, containers };
}

async function printOnce(look: () => Promise<Sample>, sort: SortKey): Promise<void> {
  const before = await look();
  await sleep(onceIntervalMs);
  const pods = podUses(before, await look(), sort, Date.now());
  process.stdout.write(`${tableLines({ pods, sort, width: process.stdout.columns ?? Number.MAX_SAFE_INTEGER }).join('\n')}\n`);
}

async function showLive(look: () => Promise<Sample>, first: Sample, { intervalMs, sort: firstSort }: TopOptions): Promise<void> {
  const { stdin, stdout } = process;
  let [before, sample, trouble]: [Sample | undefined, Sample, string | undefined] = [undefined, first, undefined];
  let sort = firstSort;
  let scrolled = 0;
  const draw = () => {
    const pods = podUses(before, sample, sort, Date.now());
    const view = { pods, sort, width: stdout.columns };
    const [heading = '', ...rows] = tableLines(view);
    const room = Math.max(0, stdout.rows - 3);
    scrolled = Math.max(0, Math.min(scrolled, rows.length - room));
    const lines = [titleLine(view, trouble), keyLine.slice(0, view.width), heading, ...rows.slice(scrolled, scrolled + room)];
    stdout.write(`\x1b[H${lines.join('\x1b[K\r\n')}\x1b[K\x1b[J`);
  };
  const refresh = async () => {
    const late = setTimeout(() => {
      trouble = 'the daemon does not answer; what is below is old';
      draw();
    }, lateMs);
    try {
      const next = await look();
      [before, sample, trouble] = [sample, next, undefined];
    } catch (error) {
      trouble = reasonOf(error);
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
    // Nobody who wants to leave waits for a daemon that hangs.
    const isOver = (work: Promise<unknown>) => Promise.race([quit.promise.then(() => true), work.then(() => false)]);
    while (!(await isOver(sleep(intervalMs)))) if (await isOver(refresh())) break;
  } finally {
    stdin.setRawMode(false);
    stdout.write(leaveScreen);
  }
}
