/**
 * Measures container logging: how fast a runtime writes lines of 100 bytes, and how much CPU all its processes use for it.
 *
 *   npm run bench:logs -- [--megabytes N] [--runtime berth|containerd] [--peer containerd]
 */
import { rmSync, statSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import type { CriClient } from '../scripts/cri-client.ts';
import { cpuMs, measureEach, printFigures, processes, readProc } from './beside-peer.ts';

type Figures = { readonly megabytesPerSecond: number; readonly cpuMsPerMegabyte: number };

const { values } = parseArgs({
  options: { megabytes: { type: 'string', default: '200' }, runtime: { type: 'string', default: 'berth' }, peer: { type: 'string' } },
});
const megabytes = Number(values.megabytes);
const line = 'x'.repeat(99);
/** Prints the lines. Its command line does not match those of the runtime's processes. */
const writer = `yes ${line} | head -c ${megabytes}000000`;

const names = [values.runtime, ...(values.peer === undefined ? [] : [values.peer])];
const figures = await measureEach(names, (client, _, image) => measure(client, image));
printFigures(`${megabytes} MB of 100-byte lines from one container`, figures, [
  ['throughput, MB/s', (each) => each.megabytesPerSecond],
  ['runtime CPU, ms per MB', (each) => each.cpuMsPerMegabyte],
]);

async function measure(client: CriClient, image: string): Promise<Figures> {
  const metadata = { name: 'log', namespace: 'bench', uid: 'log', attempt: 0 };
  const directory = `/var/tmp/bench-logs-${process.pid}`;
  const namespaces = { security_context: { namespace_options: { pid: 'CONTAINER' } } };
  const sandbox = { metadata, log_directory: directory, linux: namespaces };
  const { pod_sandbox_id } = await client.call<{ pod_sandbox_id: string }>('RunPodSandbox', { config: sandbox });
  const config = { metadata: { name: 'log', attempt: 0 }, image: { image }, command: ['sh', '-c', writer], log_path: 'log', linux: namespaces };
  const { container_id } = await client.call<{ container_id: string }>('CreateContainer', { pod_sandbox_id, config, sandbox_config: sandbox });
  const before = runtimeCpuMs();
  const startedAt = performance.now();
  await client.call('StartContainer', { container_id });
  let cpu = 0;
  for (;;) {
    // Read it while the container runs: the CPU time of an exited monitor or shim cannot be read.
    cpu = Math.max(cpu, runtimeCpuMs() - before);
    const { status } = await client.call<{ status: { state: string } }>('ContainerStatus', { container_id });
    if (status.state === 'CONTAINER_EXITED') break;
    await sleep(20);
  }
  const seconds = (performance.now() - startedAt) / 1000;
  const loggedBytes = statSync(`${directory}/log`).size;
  if (loggedBytes < megabytes * 1_000_000) throw new Error(`lines were lost: the log has only ${loggedBytes} bytes`);
  await client.call('StopPodSandbox', { pod_sandbox_id });
  await client.call('RemovePodSandbox', { pod_sandbox_id });
  rmSync(directory, { recursive: true });
  return { megabytesPerSecond: megabytes / seconds, cpuMsPerMegabyte: cpu / megabytes };
}

/** Returns the CPU time of all processes of the runtime: daemons, shims and monitors. */
function runtimeCpuMs(): number {
  return processes()
    .filter((pid) => /berth|containerd/.test(readProc(pid, 'cmdline')) && pid !== process.pid)
    .reduce((total, pid) => total + cpuMs(pid), 0);
}
