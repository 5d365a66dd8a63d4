import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { NamespaceOption } from '../../src/cri/wire/messages.ts';
import { containerWithIds, whyUnchanged } from './user-namespaces.ts';

test('whyUnchanged() leaves pods alone that use the host’s processes or IPC, or request a user namespace', () => {
  assert.equal(whyUnchanged({}), undefined);
  assert.equal(whyUnchanged({ network: 'POD', pid: 'CONTAINER', ipc: 'POD' }), undefined);
  assert.equal(whyUnchanged({ network: 'NODE' }), undefined);
  assert.equal(whyUnchanged({ network: 'NODE', pid: 'NODE', ipc: 'NODE' }), "uses the host's pid and ipc");
  assert.equal(whyUnchanged({ userns_options: { mode: 'NODE' } }), 'requests a user namespace itself');
});

test("containerWithIds() adds the pod's mappings to the container, to its volumes and to the config of the sandbox", () => {
  const ids = { uids: [{ host_id: 65536, length: 65536 }], gids: [{ host_id: 131072, length: 65536 }] };
  const userns_options = { mode: 'POD', ...ids } as const;
  const ofPod: NamespaceOption = { pid: 'CONTAINER', userns_options };
  const mounts = [{ container_path: '/v', host_path: '/srv' }];
  const { config, sandbox_config } = containerWithIds({ config: { mounts }, sandbox_config: { hostname: 'pod' } }, ofPod);
  assert.deepEqual(config?.mounts, [{ container_path: '/v', host_path: '/srv', uidMappings: ids.uids, gidMappings: ids.gids }]);
  assert.deepEqual(config?.linux?.security_context?.namespace_options, ofPod);
  assert.deepEqual(sandbox_config, { hostname: 'pod', linux: { security_context: { namespace_options: ofPod } } });
  const own: NamespaceOption = { pid: 'POD' };
  const kept = containerWithIds({ config: { linux: { security_context: { namespace_options: own } } } }, ofPod);
  assert.deepEqual(kept.config?.linux?.security_context?.namespace_options, { pid: 'POD', userns_options });
});
