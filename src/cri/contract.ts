/**
 * Loads proto/runtime-v1.proto and proto/berth-v1.proto into service definitions for grpc-js, and encoders for single list items.
 *
 * Independent of the meaning of the messages.
 */
import { join } from 'node:path';
import type { ServiceDefinition } from '@grpc/grpc-js';
import { loadSync, type PackageDefinition } from '@grpc/proto-loader';
import type { ItemEncoders } from './deps.ts';
import { EncodedMessage } from './to-response/encoded.ts';

export type Contract = {
  readonly runtime: ServiceDefinition;
  readonly image: ServiceDefinition;
  /** The service of proto/berth-v1.proto. */
  readonly own: ServiceDefinition;
  readonly encoders: ItemEncoders;
};

/** Unset messages and scalars stay undefined, 64-bit integers are strings, enums are names. */
const options = { keepCase: true, longs: String, enums: String, defaults: false, arrays: true, objects: false, oneofs: true } as const;

/** Loads the .proto files. Takes tens of milliseconds, so call it once at startup. */
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

/** Returns the service definition, which also accepts encoded responses. */
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
  if (method === undefined) throw new Error(`unknown RPC ${rpc}`);
  return method.responseSerialize(message);
}
