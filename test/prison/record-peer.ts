/**
 * Records the peer's rows for the comparison of test/root/prison.test.ts: peer-v1.json, or peer-v2.json where only cgroup v2 is mounted.
 *
 *   bin/node test/prison/record-peer.ts            builds the peer and records on this machine
 *   bin/node test/prison/record-peer.ts --prepare  only builds the peer
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { release } from 'node:os';
import { enterIsolation } from '../support/isolation.ts';
import { podsAt, tableFile } from './machine.ts';
import { preparePeer, runcVersions, startPeer, versions } from './peer.ts';
import { prepareProbe } from './prepare.ts';
import { openPrison, questionPrisoners, releasePrisoners, startPrisoners } from './prisoners.ts';
import { normalise } from './rows.ts';
import { buildTable, formatTable } from './table.ts';

prepareProbe();
preparePeer();
if (!process.argv.includes('--prepare')) {
  enterIsolation();
  await record();
  process.exit();
}

async function record(): Promise<void> {
  const workDir = mkdtempSync('/var/tmp/berth-prison-peer-');
  const pods = podsAt(`berth-prison-peer-${process.ppid}`);
  const prison = await openPrison();
  const peer = await startPeer(workDir, pods.hasSystemd);
  try {
    const prisoners = await startPrisoners(peer.client, peer.image, prison, pods.linux);
    const places = await questionPrisoners(peer.client, prisoners, prison);
    await releasePrisoners(peer.client, prisoners);
    const settings = Object.fromEntries([...prison.host].filter(([key]) => key.startsWith('sysctl.')));
    const recorded = { ...versions, ...runcVersions(), kernel: release(), ...settings };
    const host = normalise(prison.host, { host: prison.host, neighbour: new Map() });
    writeFileSync(tableFile(), formatTable(buildTable(recorded, host, places)));
    process.stdout.write(`${tableFile()}: ${places.size} processes\n`);
  } finally {
    await peer.end();
    prison.end();
    await pods.remove();
    rmSync(workDir, { recursive: true, force: true });
  }
}
