/**
 * One call over a daemon's CRI socket, for berth's own commands.
 */
import { Client, credentials, Metadata, status } from '@grpc/grpc-js';
import { BerthError, failedPrecondition } from '../lib/errors.ts';
import type { Contract } from './contract.ts';

const callTimeoutMs = 10_000;

/** @param timeoutMs for calls that may take long. @throws {BerthError} FAILED_PRECONDITION when nobody answers on the socket; NOT_FOUND and the like in the daemon's own words. */
export async function callRuntime<Response>(
  contract: Contract,
  socket: string,
  rpc: string,
  request: object,
  timeoutMs = callTimeoutMs,
): Promise<Response> {
  const method = contract.runtime[rpc] ?? contract.image[rpc];
  if (method === undefined) throw new Error(`the contract has no ${rpc}`);
  const client = new Client(`unix://${socket}`, credentials.createInsecure());
  try {
    return await new Promise<Response>((resolve, reject) => {
      const options = { deadline: Date.now() + timeoutMs };
      const { path, requestSerialize, responseDeserialize } = method;
      client.makeUnaryRequest(path, requestSerialize, responseDeserialize, request, new Metadata(), options, (error, response) => {
        if (error === null) return resolve(response as Response);
        const isSilent = error.code === status.UNAVAILABLE;
        reject(isSilent ? failedPrecondition(`no daemon answers on ${socket}`, error) : new BerthError('INTERNAL', error.details, error));
      });
    });
  } finally {
    client.close();
  }
}
