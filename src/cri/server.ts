/**
 * The gRPC server: both CRI services and berth's own service on one Unix socket.
 *
 * Independent of what the calls do.
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
  /** Waits for calls in flight with a timeout, then cancels them and removes the socket. */
  readonly close: (timeoutMs: number) => Promise<void>;
};

const serverOptions = {
  /** Requests may contain large environments; the default of grpc-js is 4 MiB. containerd's and the kubelet's limit for a message. */
  'grpc.max_receive_message_length': 16 * 1024 * 1024,
  'grpc.max_send_message_length': -1,
  /** Channelz records every call and connection; nothing here reads it. */
  'grpc.enable_channelz': 0,
};

/**
 * Starts the server. Call it after recovery, because the kubelet acts on the first state that it sees.
 *
 * @throws {BerthError} FAILED_PRECONDITION if another daemon answers on the socket, or the path is not a socket.
 */
export async function listen(contract: Contract, socketPath: string, deps: CriDeps & EdgeDeps): Promise<CriServer> {
  await clearSocketPath(socketPath);
  const server = new Server(serverOptions);
  server.addService(contract.runtime, implementation(contract.runtime, runtimeMethods as Methods, deps));
  server.addService(contract.image, implementation(contract.image, imageMethods as Methods, deps));
  server.addService(contract.own, implementation(contract.own, ownMethods as Methods, deps));
  await bind(server, socketPath);
  // Write access is equivalent to root on this node. An administrator may grant it to the socket's group.
  chmodSync(socketPath, 0o660);
  return { close: (timeoutMs) => shutDown(server, timeoutMs) };
}

type Methods = Readonly<Record<string, AnyMethod>>;

function implementation(service: ServiceDefinition, methods: Methods, deps: CriDeps & EdgeDeps): UntypedServiceImplementation {
  const describe = (request: unknown, response: unknown) => spanAttributes(deps.engine, request, response);
  const handlers = Object.entries(service).map(([rpc, { path, requestStream, responseStream }]) => {
    const method = methods[rpc];
    if (method === undefined) throw new Error(`missing method ${rpc}`);
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
      if (error) reject(failedTo(`listen on ${path}`, error));
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
