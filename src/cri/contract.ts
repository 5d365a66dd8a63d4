/**
 * The wire contract: loads proto/runtime-v1.proto, and our own berth-v1.proto, into definitions that grpc-js serves, and encoders for single items of lists.
 *
 * Knows how messages become bytes; nothing of what they mean.
 */
import { join } from 'node:path';
import type { ServiceDefinition } from '@grpc/grpc-js';
import { loadSync, type PackageDefinition } from '@grpc/proto-loader';
import type { ItemEncoders } from './deps.ts';
import { EncodedMessage } from './to-response/encoded.ts';

export type Contract = {
  readonly runtime: ServiceDefinition;
  readonly image: ServiceDefinition;
  /** What the CRI has no call for. */
  readonly own: ServiceDefinition;
  readonly encoders: ItemEncoders;
};

/** Unset messages and scalars stay undefined, 64-bit numbers are text, enums are names. */
const options = { keepCase: true, longs: String, enums: String, defaults: false, arrays: true, objects: false, oneofs: true } as const;

/** Reads the protos; takes some tens of milliseconds, so once at start. */
export function loadContract(): Contract {
  const definition = loadSync(join(import.meta.dirname, '../../proto/runtime-v1.proto'), options);
  const runtime = serviceOf(definition, 'runtime.v1.RuntimeService');
  const image = serviceOf(definition, 'runtime.v1.ImageService');
  return {
    runtime,
    image,
    own: loadSync(join(import.meta.dirname, '../../proto/berth-v1.proto'), options)['berth.v1.Images'] as ServiceDefinition,
    encoders: {
      sandbox: (item) => encode(runtime, 'ListPodSandbox', { items: [item] }),
      container: (item) => encode(runtime, 'ListContainers', { containers: [item] }),
      image: (item) => encode(image, 'ListImages', { images: [item] }),
    },
  };
}

/** The service, with responses that may already be bytes. */
function serviceOf(definition: PackageDefinition, name: string): ServiceDefinition {
  const service = definition[name] as ServiceDefinition;
  const methods = Object.entries(service).map(([rpc, method]) => {
    const responseSerialize = (response: unknown) => (response instanceof EncodedMessage ? response.bytes : method.responseSerialize(response));
    return [rpc, { ...method, responseSerialize }];
  });
  return Object.fromEntries(methods);
}

function encode(service: ServiceDefinition, rpc: string, message: object): Buffer {
  const method = service[rpc];
  if (method === undefined) throw new Error(`the contract has no ${rpc}`);
  return method.responseSerialize(message);
}
