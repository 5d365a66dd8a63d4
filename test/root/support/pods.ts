/**
 * Shorthands for CRI calls in tests of the daemon: pods and containers of the sample image, identified by name.
 */
import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { CriClient, Message } from '../../../scripts/cri-client.ts';
import type { Image, Layer } from '../../../scripts/image-builder.ts';
import { serveRegistry } from '../../../scripts/mini-registry.ts';
import { buildSampleImage } from '../../../scripts/sample-image.ts';

export type Pod = { readonly id: string; readonly config: Message; readonly logDirectory: string };

/** Pulls the sample image from a temporary registry. @param above layers to add to it. @returns its name. */
export async function pullSample(client: CriClient, above: readonly Layer[] = []): Promise<string> {
  return pullImage(client, 'berth/sample:1', await buildSampleImage(above));
}

/** Pulls an image from a temporary registry. @param name repository and tag. @returns its name with the registry. */
export async function pullImage(client: CriClient, name: string, content: Image): Promise<string> {
  const registry = await serveRegistry(new Map([[name, content]]));
  try {
    const image = `${registry.host}/${name}`;
    await client.call('PullImage', { image: { image } });
    return image;
  } finally {
    registry.stop();
  }
}

/** Runs a pod sandbox. @param changes fields of its config. */
export async function runPod(client: CriClient, name: string, directory: string, changes: Message = {}): Promise<Pod> {
  const logDirectory = join(directory, 'logs', name);
  mkdirSync(logDirectory, { recursive: true });
  const config = { metadata: { name, namespace: 'test', uid: name, attempt: 0 }, hostname: name, log_directory: logDirectory, linux: {}, ...changes };
  const { pod_sandbox_id: id } = await client.call<{ pod_sandbox_id: string }>('RunPodSandbox', { config });
  return { id, config, logDirectory };
}

/** Creates and starts a container that runs a shell script. Its log is `<name>.log`. @returns its id. */
export async function runContainer(client: CriClient, pod: Pod, image: string, name: string, script: string, changes: Message = {}): Promise<string> {
  const command = ['sh', '-c', script];
  const config = { metadata: { name, attempt: 0 }, image: { image }, command, log_path: `${name}.log`, linux: {}, ...changes };
  const creation = { pod_sandbox_id: pod.id, config, sandbox_config: pod.config };
  const { container_id } = await client.call<{ container_id: string }>('CreateContainer', creation);
  await client.call('StartContainer', { container_id });
  return container_id;
}

export type Status = {
  readonly state: string;
  readonly exit_code: number;
  readonly reason: string;
  readonly message: string;
  readonly started_at: string;
  readonly finished_at: string;
  readonly resources: { readonly linux: { readonly cpu_shares: string; readonly memory_limit_in_bytes: string } };
};

export async function statusOf(client: CriClient, container_id: string): Promise<Status> {
  return (await client.call<{ status: Status }>('ContainerStatus', { container_id })).status;
}

export type Details = { readonly pid: number; readonly monitorPid: number; readonly cgroupPath: string };

export async function detailsOf(client: CriClient, container_id: string): Promise<Details> {
  const { info } = await client.call<{ info: { info: string } }>('ContainerStatus', { container_id, verbose: true });
  return JSON.parse(info.info) as Details;
}

/** Runs a command in a container. @returns its stdout. @throws Error with stderr if its exit code is not 0. */
export async function exec(client: CriClient, container_id: string, ...cmd: string[]): Promise<string> {
  const result = await client.call<{ stdout: Buffer; stderr: Buffer; exit_code: number }>('ExecSync', { container_id, cmd, timeout: '20' });
  if (result.exit_code !== 0) throw new Error(`${cmd.join(' ')} exited with code ${result.exit_code}: ${result.stderr}`);
  return result.stdout.toString();
}

/** Runs a command with a terminal over a WebSocket. @returns its output. */
export async function execInTerminal(client: CriClient, container_id: string, cmd: readonly string[], timeoutMs = 20_000): Promise<string> {
  const { url } = await client.call<{ url: string }>('Exec', { container_id, cmd, tty: true, stdin: true, stdout: true, stderr: false }, timeoutMs);
  const socket = new WebSocket(url.replace(/^http/, 'ws'), ['v4.channel.k8s.io']);
  socket.binaryType = 'arraybuffer';
  let output = '';
  const [stdoutChannel, errorChannel] = [1, 3];
  let status = '';
  await new Promise<void>((settle, reject) => {
    const timer = setTimeout(() => reject(new Error(`no end of the terminal after ${timeoutMs} ms: ${output.slice(-200)}`)), timeoutMs);
    socket.onmessage = ({ data }) => {
      const bytes = Buffer.from(data as ArrayBuffer);
      if (bytes[0] === stdoutChannel) output += bytes.subarray(1).toString('latin1');
      if (bytes[0] === errorChannel) status += bytes.subarray(1).toString('latin1');
      if (status !== '') socket.close();
    };
    socket.onerror = () => reject(new Error(`exec with a terminal: the connection failed: ${status}`));
    socket.onclose = () => {
      clearTimeout(timer);
      settle();
    };
  });
  return output;
}

/** Waits until the condition is true. @throws Error after 20 s. */
export async function eventually(description: string, condition: () => boolean | Promise<boolean>): Promise<void> {
  for (let waits = 0; waits < 800; waits += 1) {
    if (await condition()) return;
    await sleep(25);
  }
  throw new Error(`timeout after 20 s waiting until ${description}`);
}

/** Returns the contents of the log's lines. @throws Error for an invalid or incomplete line. */
export function logLines(...files: readonly string[]): string[] {
  const text = files.map((file) => readFileSync(file, 'latin1')).join('');
  const lines = text.split('\n');
  if (lines.pop() !== '') throw new Error(`${files}: the last line is incomplete`);
  return lines.map((line) => {
    const [, content] = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z (?:stdout|stderr) [FP] ([\s\S]*)$/.exec(line) ?? [];
    if (content === undefined) throw new Error(`${files}: invalid log line: ${line}`);
    return content;
  });
}
