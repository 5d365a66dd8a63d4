/**
 * A process that runs only a streaming server with the fake backend, so that its memory can be measured. Its parent sends requests over IPC:
 * `{ argv }` returns a URL for an exec with stdin and stdout, `{ measure: true }` returns memory usage and the number of produced bytes.
 */
import { startStreamingServer, streamingLimits } from '../../src/streaming/server.ts';
import { createFakeBackend } from './streaming-backend.ts';

export type HostRequest = { readonly argv: readonly string[] } | { readonly measure: true };
export type HostAnswer = { readonly url?: string; readonly rssBytes: number; readonly rssBytesMax: number; readonly producedBytes: number };

const log = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };
const backend = createFakeBackend();
const server = await startStreamingServer({ backend, log, limits: streamingLimits }, { address: '127.0.0.1', port: 0 });

let rssBytesMax = 0;
const sampleMemory = () => {
  const rssBytes = process.memoryUsage.rss();
  rssBytesMax = Math.max(rssBytesMax, rssBytes);
  return rssBytes;
};
setInterval(sampleMemory, 50);

process.on('message', (request: HostRequest) => {
  const url = 'argv' in request && server.prepareExec({ containerId: 'c', argv: request.argv, tty: false, stdin: true, stdout: true, stderr: false });
  const answer: HostAnswer = { ...(url && { url }), rssBytes: sampleMemory(), rssBytesMax, producedBytes: backend.producedBytes() };
  process.send?.(answer);
  // The next measurement starts here.
  rssBytesMax = 0;
});
process.on('disconnect', () => process.exit());
