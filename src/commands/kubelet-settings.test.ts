import assert from 'node:assert/strict';
import { test } from 'node:test';
import { kubeletSettings } from './kubelet-settings.ts';

const nothing = { endpoint: null, cgroupDriver: null, failSwapOn: null };

test('kubeletSettings() reads a KubeletConfiguration as YAML and as JSON', () => {
  const yaml =
    'kind: KubeletConfiguration\ncgroupDriver: systemd # as the node\ncontainerRuntimeEndpoint: "unix:///run/berth/berth.sock"\nfailSwapOn: false\n';
  const found = { endpoint: 'unix:///run/berth/berth.sock', cgroupDriver: 'systemd', failSwapOn: false };
  assert.deepEqual(kubeletSettings(yaml, ''), found);
  const { endpoint, ...others } = found;
  assert.deepEqual(kubeletSettings(JSON.stringify({ containerRuntimeEndpoint: endpoint, ...others }, null, 2), ''), found);
});

test('kubeletSettings() prefers flags, in both spellings and in the file of kubeadm', () => {
  const flags = 'KUBELET_KUBEADM_ARGS="--container-runtime-endpoint=unix:///run/a.sock --fail-swap-on=true"\n';
  assert.deepEqual(kubeletSettings('containerRuntimeEndpoint: unix:///run/b.sock\n', flags), {
    ...nothing,
    endpoint: 'unix:///run/a.sock',
    failSwapOn: true,
  });
  assert.equal(kubeletSettings('', '/usr/bin/kubelet --v 2 --cgroup-driver cgroupfs').cgroupDriver, 'cgroupfs');
});

test('kubeletSettings() returns null for missing settings', () => {
  assert.deepEqual(kubeletSettings('', ''), nothing);
  assert.deepEqual(kubeletSettings('# cgroupDriver: systemd\nlogging:\n    cgroupDriver: x\n', ''), nothing);
});
