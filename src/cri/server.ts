/**
 * The CRI socket: both services of the CRI, and our own, on one Unix socket, answering from listen() to close().
 *
 * Knows neither what calls mean nor what they change.
 */
import { chmodSync } from 'node:fs';
import { Server, ServerCredentials, type ServiceDefinition, type UntypedServiceImplementation } from '@grpc/grpc-js';
import { failedTo } from '../lib/errors.ts';
import { clearSocketPath } from '../lib/unix-socket.ts';
import type { Contract } from './contract.ts';
import type { CriDeps } from './deps.ts';
import { type EdgeDeps, guardDuplex, guardStreaming, guardUnary, type StreamingWork, type UnaryWork } from './interceptor.ts';
import { type AnyMethod, imageMethods, ownMethods, refuse, runtimeMethods } from './methods.ts';
import { spanAttributes } from './span-attributes.ts';

export type CriServer = {
  /** Waits for the calls in flight, at most so long; then ends them. The socket is gone afterwards. */
  readonly close: (timeoutMs: number) => Promise<void>;
};

const serverOptions = {
  /** Requests may hold large environments; grpc-js would stop at 4 MiB. */
  'grpc.max_receive_message_length': 64 * 1024 * 1024,
  'grpc.max_send_message_length': -1,
  /** Books about every call and connection that nobody here reads. */
  'grpc.enable_channelz': 0,
};

/**
 * Starts to answer: call it when recovery is done, for the kubelet acts on what it sees first.
 *
 * @throws {BerthError} FAILED_PRECONDITION when another daemon answers on the socket, or something that is no socket lies there.
 */
export async function listen(contract: Contract, socketPath: string, deps: CriDeps & EdgeDeps): Promise<CriServer> {
  await clearSocketPath(socketPath);
  const server = new Server(serverOptions);
  server.addService(contract.runtime, implementation(contract.runtime, runtimeMethods as Methods, deps));
  server.addService(contract.image, implementation(contract.image, imageMethods as Methods, deps));
  server.addService(contract.own, implementation(contract.own, ownMethods as Methods, deps));
  await bind(server, socketPath);
  // Whoever may write to it is root on this node: the group is for an administrator to give.
  chmodSync(socketPath, 0o660);
  return { close: (timeoutMs) => shutDown(server, timeoutMs) };
}

type Methods = Readonly<Record<string, AnyMethod>>;

function implementation(service: ServiceDefinition, methods: Methods, deps: CriDeps & EdgeDeps): UntypedServiceImplementation {
  const describe = (request: unknown, response: unknown) => spanAttributes(deps.engine, request, response);
  const handlers = Object.entries(service).map(([rpc, { path, requestStream, responseStream }]) => {
    const method = methods[rpc];
    if (method === undefined) throw new Error(`no method for ${rpc}`);
    const guarded = { rpc, path, isQuiet: method.kind !== 'change', describe };
    const work = async (request: unknown, signal: AbortSignal) =>
      method.kind === 'missing' ? refuse(rpc, method) : method.handle(deps, request, signal);
    if (requestStream) return [rpc, guardDuplex(deps, guarded, streamOf(work))];
    return [rpc, responseStream ? guardStreaming(deps, guarded, streamOf(work)) : guardUnary(deps, guarded, work)];
  });
  return Object.fromEntries(handlers);
}

function streamOf(work: UnaryWork): StreamingWork {
  return async function* (request, signal) {
    yield* (await work(request, signal)) as AsyncIterable<unknown>;
  };
}

function bind(server: Server, path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.bindAsync(`unix://${path}`, ServerCredentials.createInsecure(), (error) => {
      if (error) reject(failedTo(`listening on ${path}`, error));
      else resolve();
    });
  });
}

function shutDown(server: Server, timeoutMs: number): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(() => {
      server.forceShutdown();
      resolve();
    }, timeoutMs);
    server.tryShutdown(() => {
      clearTimeout(timer);
      resolve();
    });
  });
}
