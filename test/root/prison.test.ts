/**
 * The prison: what processes in containers of every mode are, see, reach and may do, compared with the same processes of containerd and runc. No row may be
 * looser. The peer's rows are data, recorded by test/prison/record-peer.ts.
 */
import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { test } from 'node:test';
import { compare, type Difference, describe } from '../prison/compare.ts';
import { podsAt, tableFile } from '../prison/machine.ts';
import { openPrison, type Prison, questionPrisoners, releasePrisoners, startPrisoners } from '../prison/prisoners.ts';
import type { Places, Table } from '../prison/table.ts';
import { enterIsolation } from '../support/isolation.ts';
import { createWorkspace, type Daemon, isBuilt, startDaemon } from './support/daemon.ts';
import { pullSample } from './support/pods.ts';

const skip = whyNot() ?? false;
if (!skip) enterIsolation();

function whyNot(): string | undefined {
  if (!isBuilt) return 'berth is not built';
  if (process.arch !== 'x64') return 'the probe is for x86-64';
  return existsSync(tableFile()) ? undefined : `${tableFile()} is not recorded: see test/prison/record-peer.ts`;
}

test('no process in a container is looser than with containerd and runc, before and after a restart of the daemon', { skip }, async () => {
  const table = JSON.parse(readFileSync(tableFile(), 'utf8')) as Table;
  const workspace = createWorkspace();
  const pods = podsAt(workspace.cgroup);
  const prison = await openPrison();
  let daemon: Daemon = await startDaemon(workspace);
  try {
    const prisoners = await startPrisoners(daemon.client, await pullSample(daemon.client), prison, pods.linux);
    const before = await questionPrisoners(daemon.client, prisoners, prison);
    await daemon.end('SIGKILL');
    daemon = await startDaemon(workspace);
    const after = await questionPrisoners(daemon.client, prisoners, prison, true);
    await releasePrisoners(daemon.client, prisoners);
    const looser = [...report('before a restart', before, table, prison), ...report('after a restart', after, table, prison)];
    assert.deepEqual(looser, []);
  } finally {
    await daemon.end('SIGTERM');
    await pods.remove();
    prison.end();
    await workspace.remove();
  }
});

/** Prints the comparison. @returns the rows that are looser. */
function report(title: string, places: Places, table: Table, { host }: Prison): string[] {
  const { rows, equal, incomparable, ...differences } = compare(places, table, host);
  const { looser, tighter, other } = differences;
  const counts = `${rows} rows of ${places.size} processes: ${equal} equal, ${tighter.length} tighter, ${looser.length} looser`;
  console.log(`${title}: ${counts}, ${other.length} refused differently, ${incomparable} not comparable`);
  const lines = (found: readonly Difference[]) => describe(found, [...places.keys()]);
  for (const [kind, found] of Object.entries(differences)) for (const line of lines(found)) console.log(`  ${kind}: ${line}`);
  return lines(looser).map((line) => `${title}: ${line}`);
}
