/**
 * Shared code of the benchmarks: measures one or two runtimes in separate namespaces, and prints the results side by side with their ratio.
 */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { loadavg } from 'node:os';
import { join } from 'node:path';
import { type CriClient, connectCri } from '../scripts/cri-client.ts';
import { buildDir, preparePeer, prepareTools, registryUrl, serveImages } from '../test/critest/prepare.ts';
import { enterIsolation } from '../test/support/isolation.ts';
import { type Runtime, type RuntimeName, startRuntime } from '../test/support/runtime.ts';

const image = 'registry.k8s.io/e2e-test-images/busybox:1.29-2';

/** A row of the result table: its label, and how to get its value from the measurements. */
export type Row<Figures> = readonly [label: string, value: (figures: Figures) => number];

/**
 * Measures the runtimes one after another: starts the runtime, pulls busybox, calls `measure`, stops the runtime.
 *
 * @param names the first one is the baseline of the ratio.
 */
export async function measureEach<Figures>(
  names: readonly string[],
  measure: (client: CriClient, runtime: Runtime, image: string) => Promise<Figures>,
): Promise<[RuntimeName, Figures][]> {
  mkdirSync(buildDir, { recursive: true });
  prepareTools();
  if (names.includes('containerd')) preparePeer();
  enterIsolation();
  const stopRegistry = await serveImages();
  const figures: [RuntimeName, Figures][] = [];
  for (const name of names.map(toRuntimeName)) figures.push([name, await measureOne(name, measure)]);
  stopRegistry();
  return figures;
}

function toRuntimeName(name: string): RuntimeName {
  if (name === 'berth' || name === 'containerd') return name;
  throw new Error(`unknown runtime ${name}: want berth or containerd`);
}

async function measureOne<Figures>(
  name: RuntimeName,
  measure: (client: CriClient, runtime: Runtime, image: string) => Promise<Figures>,
): Promise<Figures> {
  const workDir = mkdtempSync(join(buildDir, 'bench-'));
  const runtime = await startRuntime(name, { workDir, mirrorUrl: registryUrl });
  const client = connectCri(runtime.endpoint);
  try {
    await client.call('PullImage', { image: { image } });
    return await measure(client, runtime, image);
  } finally {
    client.close();
    await runtime.stop();
    rmSync(workDir, { recursive: true, force: true });
  }
}

/** Prints the rows: a column for each of the figures, and with two a column with the ratio of the second to the first. */
export function printFigures<Figures>(
  title: string,
  figures: readonly (readonly [string, Figures])[],
  rows: readonly Row<Figures>[],
  ratioName = 'peer/berth',
): void {
  const cells = (texts: readonly string[]) => texts.map((text) => text.padStart(13)).join('');
  const label = (text: string) => text.padEnd(52);
  say(`${title}; load average at the end ${loadavg()[0]?.toFixed(1)}`);
  say(label('figure') + cells([...figures.map(([name]) => name), ...(figures.length > 1 ? [ratioName] : [])]));
  for (const [name, value] of rows) {
    const [own = 0, other] = figures.map(([, each]) => value(each));
    const ratio = other === undefined ? [] : [other.toFixed(2), own === 0 ? '-' : (other / own).toFixed(2)];
    say(label(name) + cells([own.toFixed(2), ...ratio]));
  }
}

function say(text: string): void {
  process.stdout.write(`${text}\n`);
}

/** Returns all pids in this pid namespace. */
export function processes(): number[] {
  return readdirSync('/proc')
    .map(Number)
    .filter((pid) => Number.isInteger(pid) && pid > 0);
}

/** Returns the text of /proc/PID/FILE, or '' if the process has exited. */
export function readProc(pid: number, file: string): string {
  try {
    return readFileSync(`/proc/${pid}/${file}`, 'latin1');
  } catch {
    return '';
  }
}

const msPerTick = 10;

/** Returns the CPU time of a process in milliseconds, or 0 if it has exited: utime and stime, fields 14 and 15 of proc_pid_stat(5). */
export const cpuMs = (pid: number): number => ticksOf(pid, 2) * msPerTick;

/** Like cpuMs(), plus the CPU time of exited children that were waited for. A sum over all processes thus includes short-lived ones. */
export const cpuWithChildrenMs = (pid: number): number => ticksOf(pid, 4) * msPerTick;

function ticksOf(pid: number, fieldCount: number): number {
  const text = readProc(pid, 'stat');
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  return fields.slice(11, 11 + fieldCount).reduce((total, ticks) => total + Number(ticks), 0);
}
