/**
 * A CRI client for scripts, tests and benchmarks: any method by name, over a runtime's socket.
 *
 * Field names are those of the contract (snake_case), 64-bit numbers are texts, enums are names; fields of an answer that are not set have their defaults.
 */
import { readdirSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { credentials, loadPackageDefinition, Metadata, type ServiceClientConstructor, type ServiceError } from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';

/** A request or an answer, as the contract has it. */
export type Message = Readonly<Record<string, unknown>>;

export type CriClient = {
  /** Calls the method, of whichever service has it; the caller says what shape the answer has. @param headers sent beside the request. @throws ServiceError of grpc-js. */
  readonly call: <Answer = Message>(
    method: string,
    request: Message,
    timeoutMs?: number,
    headers?: Readonly<Record<string, string>>,
  ) => Promise<Answer>;
  readonly close: () => void;
};

type Unary = (
  request: Message,
  metadata: Metadata,
  options: { deadline: number },
  callback: (error: ServiceError | null, answer: unknown) => void,
) => void;
type Services = { readonly runtime: { readonly v1: Readonly<Record<string, ServiceClientConstructor>> } };

const protoDir = resolve(import.meta.dirname, '../proto');

/** @param endpoint `unix:///...`. Connects at the first call. */
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
  const call = <Answer>(method: string, request: Message, timeoutMs = 60_000, headers: Readonly<Record<string, string>> = {}) =>
    new Promise<Answer>((settle, reject) => {
      const client = clients.find((candidate) => method in candidate) as unknown as Record<string, Unary> | undefined;
      if (client === undefined) return reject(new Error(`the CRI has no method ${method}`));
      const deadline = Date.now() + timeoutMs;
      client[method]?.(request, Metadata.fromHttp2Headers(headers), { deadline }, (error, answer) =>
        error ? reject(error) : settle(answer as Answer),
      );
    });
  const close = () => {
    for (const client of clients) client.close();
  };
  return { call, close };
}
