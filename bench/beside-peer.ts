/**
 * What the benchmarks share: runtimes measured one after the other in namespaces of their own, and figures beside each other with ratios.
 */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { loadavg } from 'node:os';
import { join } from 'node:path';
import { type CriClient, connectCri } from '../scripts/cri-client.ts';
import { buildDir, preparePeer, prepareTools, registryUrl, serveImages } from '../test/critest/prepare.ts';
import { enterIsolation } from '../test/support/isolation.ts';
import { type Runtime, type RuntimeName, startRuntime } from '../test/support/runtime.ts';

const image = 'registry.k8s.io/e2e-test-images/busybox:1.29-2';

/** A line of the result: its label, and its value from what was measured. */
export type Row<Figures> = readonly [label: string, value: (figures: Figures) => number];

/**
 * Measures each runtime: busybox is pulled, `measure` runs, the runtime goes.
 *
 * @param names the first is what the others are held against.
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
  throw new Error(`no runtime ${name}: berth or containerd`);
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

/** Prints the rows, one column a runtime and the last one the ratio of the second to the first. */
export function printFigures<Figures>(title: string, figures: readonly [RuntimeName, Figures][], rows: readonly Row<Figures>[]): void {
  const cells = (texts: readonly string[]) => texts.map((text) => text.padStart(12)).join('');
  const label = (text: string) => text.padEnd(52);
  say(`${title}; load average at the end ${loadavg()[0]?.toFixed(1)}`);
  say(label('figure') + cells([...figures.map(([name]) => name), ...(figures.length > 1 ? ['peer/berth'] : [])]));
  for (const [name, value] of rows) {
    const [own = 0, other] = figures.map(([, each]) => value(each));
    const ratio = other === undefined ? [] : [other.toFixed(2), own === 0 ? '-' : (other / own).toFixed(1)];
    say(label(name) + cells([own.toFixed(2), ...ratio]));
  }
}

function say(text: string): void {
  process.stdout.write(`${text}\n`);
}

/** All pids in this pid namespace. */
export function processes(): number[] {
  return readdirSync('/proc')
    .map(Number)
    .filter((pid) => Number.isInteger(pid) && pid > 0);
}

/** Text of a file of /proc/PID; '' for a process that has ended. */
export function readProc(pid: number, file: string): string {
  try {
    return readFileSync(`/proc/${pid}/${file}`, 'latin1');
  } catch {
    return '';
  }
}

const msPerTick = 10;

/** CPU time of a process in milliseconds, 0 when it has ended: utime and stime, fields 14 and 15 of proc_pid_stat(5). */
export const cpuMs = (pid: number): number => ticksOf(pid, 2) * msPerTick;

/** With that of its children that have ended and were waited for: summed over all processes, what short ones took is not lost. */
export const cpuWithChildrenMs = (pid: number): number => ticksOf(pid, 4) * msPerTick;

function ticksOf(pid: number, fieldCount: number): number {
  const text = readProc(pid, 'stat');
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  return fields.slice(11, 11 + fieldCount).reduce((total, ticks) => total + Number(ticks), 0);
}
