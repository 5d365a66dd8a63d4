/**
 * Runs the daemon from deploy/berth.service: containers inherit no restriction of the unit, and survive crashes and a stop of the daemon. Skipped if systemd is
 * not pid 1.
 */
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, readFileSync, readlinkSync, rmSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { type CriClient, connectCri } from '../../scripts/cri-client.ts';
import { createWorkspace, isBuilt, serveArguments } from '../root/support/daemon.ts';
import { detailsOf, eventually, exec, pullSample, runContainer, runPod } from '../root/support/pods.ts';

const canRun = isBuilt && existsSync('/run/systemd/system') && existsSync('/run/vm');
const repository = resolve(import.meta.dirname, '../..');
const unit = 'berth-unit-test.service';
const crashes = 7;

const systemctl = (...args: string[]) => execFileSync('systemctl', args, { encoding: 'utf8' }).trim();
const fieldOf = (status: string, name: string) => new RegExp(`^${name}:\\s*(.*)$`, 'm').exec(status)?.[1];

test('containers of the unit have all capabilities and no filter, and survive seven crashes and a stop', {
  skip: !canRun,
  timeout: 600_000,
}, async (t) => {
  const workspace = createWorkspace();
  const file = `/run/systemd/system/${unit}`;
  const command = [join(repository, 'bin/berth'), ...serveArguments(workspace)].join(' ');
  writeFileSync(file, readFileSync(join(repository, 'deploy/berth.service'), 'utf8').replace(/^ExecStart=.*$/m, `ExecStart=${command}`));
  systemctl('daemon-reload');
  systemctl('start', unit);
  let client: CriClient = await connected(workspace.socket);
  try {
    t.diagnostic(spawnSync('systemd-analyze', ['security', unit, '--no-pager'], { encoding: 'utf8' }).stdout.trim().split('\n').at(-1) ?? '');
    const image = await pullSample(client);
    const security_context = { namespace_options: { network: 'NODE', pid: 'CONTAINER' }, privileged: true };
    const pod = await runPod(client, 'unit', workspace.directory, { linux: { security_context } });
    const id = await runContainer(client, pod, image, 'c', 'sleep 1000', { linux: { security_context } });
    const inside = await exec(client, id, 'cat', '/proc/1/status');
    const host = readFileSync('/proc/1/status', 'utf8');
    assert.deepEqual(
      ['CapBnd', 'CapEff', 'NoNewPrivs', 'Seccomp'].map((name) => fieldOf(inside, name)),
      [fieldOf(host, 'CapBnd'), fieldOf(host, 'CapBnd'), '0', '0'],
    );
    const mainPid = () => Number(systemctl('show', '--property=MainPID', '--value', unit));
    assert.equal(readlinkSync(`/proc/${mainPid()}/ns/mnt`), readlinkSync('/proc/1/ns/mnt'));
    const { pid } = await detailsOf(client, id);
    for (let i = 0; i < crashes; i += 1) {
      const before = mainPid();
      process.kill(before, 'SIGKILL');
      await eventually('systemd has restarted the daemon', () => ![0, before].includes(mainPid()));
    }
    client.close();
    client = await connected(workspace.socket);
    assert.equal((await detailsOf(client, id)).pid, pid);
    systemctl('stop', unit);
    assert.ok(existsSync(`/proc/${pid}`), 'the container runs without the daemon');
    systemctl('start', unit);
    client.close();
    client = await connected(workspace.socket);
    for (const method of ['StopPodSandbox', 'RemovePodSandbox']) await client.call(method, { pod_sandbox_id: pod.id });
  } finally {
    client.close();
    systemctl('stop', unit);
    rmSync(file);
    systemctl('daemon-reload');
    await workspace.remove();
  }
});

/** Waits up to two minutes until the daemon serves: the virtual machine is emulated. */
async function connected(socket: string): Promise<CriClient> {
  for (let waits = 0; ; waits += 1) {
    const client = connectCri(`unix://${socket}`);
    try {
      await client.call('Version', {}, 5000);
      return client;
    } catch (error) {
      client.close();
      if (waits > 120) throw error;
      await sleep(1000);
    }
  }
}
