/** The cgroup of monitors for each value of the setting monitor_cgroup, with the cgroup driver that berth chooses on this machine. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { after, before, test } from 'node:test';
import { createEngine, type Engine } from '../../src/engine/engine.ts';
import { prepareMonitorCgroup } from '../../src/engine/lifecycle/monitor-cgroup.ts';
import { processes } from '../../src/sys/cgroup/cgroup-processes.ts';
import { findCgroups, removeCgroup } from '../../src/sys/cgroup/cgroups.ts';
import { until } from '../support/in-cgroup.ts';
import { containerSpec, sandboxSpec, startEngine, type TestEngine } from './support/engine.ts';

let host: TestEngine;
let parent: string;
before(async () => {
  host = await startEngine(undefined, undefined, 'auto');
  parent = host.deps.cgroupDriver.name === 'systemd' ? `berthtest${process.pid}.slice` : `/berth-test-${process.pid}/named`;
});
after(async () => {
  // Also those of failed tests.
  for (const { record } of host.engine.sandboxes()) await withMonitors('pod').removeSandbox(record.id);
  if (host.deps.cgroupDriver.name === 'systemd') execFileSync('systemctl', ['stop', parent]);
  await removeCgroup(host.deps.cgroups, host.deps.cgroupDriver.parentPathOf(parent));
  await host.end();
});

const never = new AbortController().signal;
const withMonitors = (monitorCgroup: string): Engine => createEngine({ ...host.deps, settings: { ...host.deps.settings, monitorCgroup } });

async function start(engine: Engine): Promise<{ id: string; sandboxId: string; monitorPid: number }> {
  const sandboxId = await engine.runSandbox(sandboxSpec());
  const id = await engine.createContainer(sandboxId, containerSpec(['sleep', '1000']), host.image);
  await engine.startContainer(id);
  return { id, sandboxId, monitorPid: engine.container(id).status.monitor?.pid ?? 0 };
}

/** Returns the cgroup of a process in each hierarchy. */
const cgroupsOf = (pid: number | 'self') =>
  readFileSync(`/proc/${pid}/cgroup`, 'utf8')
    .trim()
    .split('\n')
    .map((line) => line.slice(line.lastIndexOf(':') + 1));

test('by default monitors are in the cgroup of the daemon', async () => {
  const { monitorPid, sandboxId } = await start(withMonitors('daemon'));
  assert.deepEqual(cgroupsOf(monitorPid), cgroupsOf('self'));
  await host.engine.removeSandbox(sandboxId);
});

test("pod: monitors are in a cgroup next to those of the pod's containers, which is removed with the pod", async () => {
  const engine = withMonitors('pod');
  const { id, sandboxId, monitorPid } = await start(engine);
  const path = host.deps.cgroupDriver.pathOf('', `monitors-${sandboxId.slice(0, 16)}`);
  assert.deepEqual(await processes(host.deps.cgroups, path), [monitorPid]);
  const { stdout } = await engine.execSync(id, ['cat', '/proc/self/cgroup'], 20_000, never);
  assert.doesNotMatch(stdout.toString(), /monitors/);
  const slow = engine.execSync(id, ['sleep', '1000'], 100_000, never);
  await until('the monitor of the exec has started', async () => (await processes(host.deps.cgroups, path)).length === 2);
  await engine.removeSandbox(sandboxId);
  await slow;
  assert.deepEqual(await findCgroups(host.deps.cgroups, path.slice(path.lastIndexOf('/') + 1)), []);
});

test('named cgroup: monitors are below it, and it is recreated after the last monitor has exited', async () => {
  await prepareMonitorCgroup(host.deps, parent);
  const path = host.deps.cgroupDriver.pathOf(parent, 'monitors');
  for (let round = 0; round < 2; round++) {
    const { sandboxId, monitorPid } = await start(withMonitors(parent));
    assert.deepEqual(await processes(host.deps.cgroups, path), [monitorPid]);
    await host.engine.removeSandbox(sandboxId);
  }
});

test('a cgroup in the format of the other driver is rejected at the start', async () => {
  const other = host.deps.cgroupDriver.name === 'systemd' ? '/monitors/of/berth' : 'berth.slice';
  await assert.rejects(prepareMonitorCgroup(host.deps, other), /^BerthError: monitor_cgroup: cgroup parent .* the cgroup driver is/);
});
