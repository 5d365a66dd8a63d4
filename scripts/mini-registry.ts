/**
 * A read-only image registry on loopback that serves images from memory. `npm start` pulls the sample image from it.
 */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Image } from './image-builder.ts';

export type MiniRegistry = { readonly host: string; readonly stop: () => void };

/** Starts the registry. @param images by `repository:tag`. @returns `host` as `127.0.0.1:PORT`. */
export async function serveRegistry(images: ReadonlyMap<string, Image>): Promise<MiniRegistry> {
  const server = createServer((request, response) => handle(images, request, response));
  await new Promise<void>((settle) => server.listen(0, '127.0.0.1', settle));
  const { port } = server.address() as AddressInfo;
  const stop = () => {
    server.close();
    server.closeAllConnections();
  };
  return { host: `127.0.0.1:${port}`, stop };
}

function handle(images: ReadonlyMap<string, Image>, request: IncomingMessage, response: ServerResponse): void {
  const [, repository = '', kind, reference = ''] = /^\/v2\/(.+)\/(manifests|blobs)\/([^/?]+)(?:\?|$)/.exec(request.url ?? '') ?? [];
  if (request.url === '/v2/') return void response.writeHead(200).end('{}');
  const image = kind === 'manifests' ? findImage(images, repository, reference) : undefined;
  const data = image?.data ?? [...images.values()].map((each) => each.blobs.get(reference)).find((blob) => blob !== undefined);
  if (data === undefined || request.method === 'POST') return void response.writeHead(404).end('{"errors":[{"code":"NOT_FOUND"}]}');
  const headers = { 'content-type': image?.mediaType ?? 'application/octet-stream', 'content-length': data.length };
  response.writeHead(200, image ? { ...headers, 'docker-content-digest': image.digest } : headers);
  response.end(request.method === 'HEAD' ? undefined : data);
}

function findImage(images: ReadonlyMap<string, Image>, repository: string, reference: string): Image | undefined {
  return images.get(`${repository}:${reference}`) ?? [...images.values()].find((image) => image.digest === reference);
}
