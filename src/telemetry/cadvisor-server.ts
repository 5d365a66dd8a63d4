/**
 * Serves cAdvisor's requests over HTTP on a Unix socket. Answers GET, and uses only the path of a request.
 */
import { chmodSync } from 'node:fs';
import { createServer } from 'node:http';
import { clearSocketPath } from '../lib/unix-socket.ts';
import { answerCadvisor, type CadvisorSources } from './cadvisor-answers.ts';

const connectionsMax = 16;
const requestTimeoutMs = 10_000;

/**
 * @returns a function that stops the server.
 * @throws {BerthError} FAILED_PRECONDITION if another daemon, most likely CRI-O, listens on the socket.
 */
export async function serveCadvisor(socketPath: string, sources: CadvisorSources): Promise<() => void> {
  await clearSocketPath(socketPath);
  const server = createServer({ requestTimeout: requestTimeoutMs, headersTimeout: requestTimeoutMs }, ({ method, url = '' }, response) => {
    const answer = method === 'GET' ? answerCadvisor(sources, url) : null;
    const text = JSON.stringify(answer ?? { error: 'not found' });
    response.writeHead(answer === null ? 404 : 200, { 'content-type': 'application/json' }).end(text);
  });
  server.maxConnections = connectionsMax;
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(socketPath, resolve);
  });
  // Only root may read labels and annotations, as on the CRI socket.
  chmodSync(socketPath, 0o600);
  return () => {
    server.close();
    server.closeAllConnections();
  };
}
