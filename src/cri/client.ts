/**
 * A client of the daemon's CRI socket, for berth's own commands.
 */
import { once } from 'node:events';
import { Client, type ClientDuplexStream, credentials, Metadata, type ServiceError, status } from '@grpc/grpc-js';
import { BerthError, failedPrecondition } from '../lib/errors.ts';
import type { Contract } from './contract.ts';
import { errorCodeOf } from './wire/grpc-status.ts';

const callTimeoutMs = 10_000;

/**
 * Calls a unary RPC of the CRI.
 *
 * @throws {BerthError} FAILED_PRECONDITION if no daemon answers on the socket, else the daemon's code and message.
 */
export async function callRuntime<Response>(
  contract: Contract,
  socket: string,
  rpc: string,
  request: object,
  timeoutMs = callTimeoutMs,
): Promise<Response> {
  const method = contract.runtime[rpc] ?? contract.image[rpc];
  if (method === undefined) throw new Error(`unknown RPC ${rpc}`);
  const client = new Client(`unix://${socket}`, credentials.createInsecure());
  try {
    return await new Promise<Response>((resolve, reject) => {
      const options = { deadline: Date.now() + timeoutMs };
      const { path, requestSerialize, responseDeserialize } = method;
      client.makeUnaryRequest(path, requestSerialize, responseDeserialize, request, new Metadata(), options, (error, response) => {
        if (error === null) return resolve(response as Response);
        reject(failureOf(socket, error));
      });
    });
  } finally {
    client.close();
  }
}

/**
 * Calls a streaming RPC of berth's own service. Sends requests as fast as the daemon accepts them. There is no deadline: the daemon detects stalled
 * transfers. Leaving the loop over the responses cancels the call.
 *
 * @throws {BerthError} like callRuntime(), and whatever `requests` throws.
 */
export async function* callOwn<Response>(
  contract: Contract,
  socket: string,
  rpc: string,
  requests: AsyncIterable<object> | Iterable<object>,
): AsyncGenerator<Response, undefined> {
  const method = contract.own[rpc];
  if (method === undefined) throw new Error(`unknown RPC ${rpc}`);
  const { path, requestSerialize, responseDeserialize } = method;
  const client = new Client(`unix://${socket}`, credentials.createInsecure(), { 'grpc.max_receive_message_length': -1 });
  const call = client.makeBidiStreamRequest(path, requestSerialize, responseDeserialize, new Metadata());
  const ended = new AbortController();
  let failure: unknown;
  const sending = send(call, requests, ended.signal).catch((error: unknown) => {
    if (ended.signal.aborted) return;
    failure = error;
    call.cancel();
  });
  try {
    for await (const message of call) yield message as Response;
  } catch (error) {
    throw failure ?? failureOf(socket, error as ServiceError);
  } finally {
    ended.abort();
    call.cancel();
    await sending;
    client.close();
  }
}

async function send(
  call: ClientDuplexStream<unknown, unknown>,
  requests: AsyncIterable<object> | Iterable<object>,
  signal: AbortSignal,
): Promise<void> {
  for await (const request of requests) {
    if (signal.aborted) return;
    if (!call.write(request)) await once(call, 'drain', { signal });
  }
  call.end();
}

function failureOf(socket: string, error: ServiceError): BerthError {
  return error.code === status.UNAVAILABLE
    ? failedPrecondition(`no daemon answers on ${socket}`, error)
    : new BerthError(errorCodeOf(error.code), error.details ?? error.message, error);
}
