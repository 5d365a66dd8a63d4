/**
 * A CRI client for scripts, tests and benchmarks. Calls any method by name through the runtime's socket.
 *
 * Field names are those of the proto files (snake_case). 64-bit integers are strings, enums are names. Unset fields of a response have their defaults.
 */
import { readdirSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { credentials, loadPackageDefinition, Metadata, type ServiceClientConstructor, type ServiceError } from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';

/** A request or a response. */
export type Message = Readonly<Record<string, unknown>>;

export type CriClient = {
  /** Calls a method of RuntimeService or ImageService. @param headers metadata of the call. @throws ServiceError of grpc-js. */
  readonly call: <Response = Message>(
    method: string,
    request: Message,
    timeoutMs?: number,
    headers?: Readonly<Record<string, string>>,
  ) => Promise<Response>;
  readonly close: () => void;
};

type Unary = (
  request: Message,
  metadata: Metadata,
  options: { deadline: number },
  callback: (error: ServiceError | null, response: unknown) => void,
) => void;
type Services = { readonly runtime: { readonly v1: Readonly<Record<string, ServiceClientConstructor>> } };

const protoDir = resolve(import.meta.dirname, '../proto');

/** Creates a client. It connects on the first call. @param endpoint `unix:///...`. */
export function connectCri(endpoint: string): CriClient {
  const files = readdirSync(protoDir).filter((name) => name.endsWith('.proto'));
  const definition = loadSync(
    files.map((name) => join(protoDir, name)),
    { keepCase: true, longs: String, enums: String, defaults: true, includeDirs: [protoDir] },
  );
  const services = (loadPackageDefinition(definition) as unknown as Services).runtime.v1;
  const options = { 'grpc.max_receive_message_length': 16 << 20 };
  const clients = ['RuntimeService', 'ImageService'].flatMap((name) => {
    const Service = services[name];
    return Service ? [new Service(endpoint, credentials.createInsecure(), options)] : [];
  });
  const call = <Response>(method: string, request: Message, timeoutMs = 60_000, headers: Readonly<Record<string, string>> = {}) =>
    new Promise<Response>((settle, reject) => {
      const client = clients.find((candidate) => method in candidate) as unknown as Record<string, Unary> | undefined;
      if (client === undefined) return reject(new Error(`unknown CRI method ${method}`));
      const deadline = Date.now() + timeoutMs;
      client[method]?.(request, Metadata.fromHttp2Headers(headers), { deadline }, (error, response) =>
        error ? reject(error) : settle(response as Response),
      );
    });
  const close = () => {
    for (const client of clients) client.close();
  };
  return { call, close };
}
