/** Sysctls of a pod's interfaces, through the daemon: plugins create the interfaces, and their values are written afterwards. */
import assert from 'node:assert/strict';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { enterIsolation } from '../support/isolation.ts';
import { createWorkspace, isBuilt, startDaemon } from './support/daemon.ts';
import { exec, pullSample, runContainer, runPod } from './support/pods.ts';

const skip = !isBuilt && 'berth is not built';
if (!skip) enterIsolation();

/** A plugin that adds an interface with a dot in its name, like a VLAN's. */
const plugin = `#!${process.execPath}
const { execFileSync } = require('node:child_process');
const { prevResult } = JSON.parse(require('node:fs').readFileSync(0, 'utf8'));
if (process.env.CNI_COMMAND === 'VERSION') console.log(JSON.stringify({ cniVersion: '1.0.0', supportedVersions: ['1.0.0'] }));
if (process.env.CNI_COMMAND === 'ADD') {
  const inPod = (...args) => execFileSync('nsenter', ['--net=' + process.env.CNI_NETNS, 'ip', ...args]);
  inPod('link', 'add', 'bond1.340', 'type', 'veth', 'peer', 'name', 'peer0');
  console.log(JSON.stringify(prevResult));
}
`;

test('sysctls of interfaces are written when the network is complete, in both notations, also in a user namespace', { skip }, async () => {
  const workspace = createWorkspace();
  const plugins = join(workspace.directory, 'plugins');
  mkdirSync(plugins);
  writeFileSync(join(plugins, 'dotted'), plugin, { mode: 0o755 });
  const file = join(workspace.directory, 'net.d/10-test.conflist');
  const list = JSON.parse(readFileSync(file, 'utf8'));
  writeFileSync(file, JSON.stringify({ ...list, plugins: [...list.plugins, { type: 'dotted' }] }));
  const daemon = await startDaemon(workspace, { 'cni-bin-dir': `${plugins}:/usr/lib/cni` });
  try {
    const { client } = daemon;
    const image = await pullSample(client);
    const range = [{ host_id: 200_000, container_id: 0, length: 65_536 }];
    for (const [name, security_context] of [
      ['plain', {}],
      ['mapped', { namespace_options: { userns_options: { mode: 'POD', uids: range, gids: range } } }],
    ] as const) {
      const sysctls = {
        'net.ipv4.conf.eth0.accept_local': '1',
        'net/ipv4/conf/bond1.340/accept_local': '1',
        'net.ipv4.conf.bond1/340.log_martians': '1',
        'net.ipv4.neigh.eth0.retrans_time_ms': '2000',
        'net.ipv6.conf.eth0.accept_ra': '2',
        'net.ipv4.conf.default.rp_filter': '2',
        'net.ipv4.conf.lo.accept_local': '1',
      };
      const pod = await runPod(client, name, workspace.directory, { linux: { sysctls, security_context } });
      const id = await runContainer(client, pod, image, name, 'exec sleep 1000', { linux: { security_context } });
      const paths = ['eth0/accept_local', 'bond1.340/accept_local', 'bond1.340/log_martians', 'eth0/rp_filter', 'lo/accept_local'];
      const files = [...paths.map((path) => `ipv4/conf/${path}`), 'ipv4/neigh/eth0/retrans_time_ms', 'ipv6/conf/eth0/accept_ra'];
      const values = await exec(client, id, 'cat', ...files.map((path) => `/proc/sys/net/${path}`));
      // eth0 was created after the default had been set.
      assert.deepEqual(values.split('\n').slice(0, -1), ['1', '1', '1', '2', '1', '2000', '2'], name);
      await client.call('RemovePodSandbox', { pod_sandbox_id: pod.id });
    }
    const missing = { linux: { sysctls: { 'net.ipv4.conf.eth7.accept_local': '1' } } };
    await assert.rejects(runPod(client, 'missing', workspace.directory, missing), /set sysctl net\.ipv4\.conf\.eth7\.accept_local to 1/);
    assert.deepEqual((await client.call<{ items: readonly unknown[] }>('ListPodSandbox', {})).items, []);
  } finally {
    await daemon.end('SIGTERM');
    await workspace.remove();
  }
});
