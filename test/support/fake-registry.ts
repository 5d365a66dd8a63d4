/**
 * A registry with one image for tests, which can be told to misbehave. Listens on loopback.
 *
 * Does not check requests: it records them for the test.
 */
import { createHash } from 'node:crypto';
import http from 'node:http';
import https from 'node:https';
import type { AddressInfo } from 'node:net';

export type RecordedRequest = { readonly method: string; readonly url: string; readonly headers: http.IncomingHttpHeaders; readonly body: string };

/** Returns true if it has sent a response; otherwise the registry responds correctly. */
export type Misbehaviour = (request: http.IncomingMessage, response: http.ServerResponse, body: string) => boolean | Promise<boolean>;

export type FakeRegistry = {
  readonly host: string;
  readonly port: number;
  readonly requests: RecordedRequest[];
  readonly server: http.Server;
  misbehave: Misbehaviour;
  close(): Promise<void>;
};

export const digestOf = (bytes: Buffer | string): string => `sha256:${createHash('sha256').update(bytes).digest('hex')}`;

export const layerBytes = Buffer.from(Array.from({ length: 300_000 }, (_, index) => (index * 7 + (index >> 8)) & 0xff));
export const configBytes = Buffer.from('{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":[]}}');
export const layer = { mediaType: 'application/vnd.oci.image.layer.v1.tar', digest: digestOf(layerBytes), sizeBytes: layerBytes.length };
export const config = { mediaType: 'application/vnd.oci.image.config.v1+json', digest: digestOf(configBytes), sizeBytes: configBytes.length };
const asJson = ({ mediaType, digest, sizeBytes }: typeof layer) => ({ mediaType, digest, size: sizeBytes });
export const manifestType = 'application/vnd.oci.image.manifest.v1+json';
export const manifestBytes = Buffer.from(
  JSON.stringify({ schemaVersion: 2, mediaType: manifestType, config: asJson(config), layers: [asJson(layer)] }),
);
export const manifestDigest = digestOf(manifestBytes);

/** Starts a fake registry. @param tls serve HTTPS with these options instead of HTTP. */
export async function startFakeRegistry(tls?: https.ServerOptions): Promise<FakeRegistry> {
  const requests: RecordedRequest[] = [];
  const listener: http.RequestListener = async (request, response) => {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk);
    const body = Buffer.concat(chunks).toString();
    requests.push({ method: request.method ?? '', url: request.url ?? '', headers: request.headers, body });
    if (!(await fake.misbehave(request, response, body))) respond(request, response);
  };
  const server = tls === undefined ? http.createServer(listener) : https.createServer(tls, listener);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  const close = async (): Promise<void> => {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  };
  const fake: FakeRegistry = { host: `127.0.0.1:${port}`, port, requests, server, misbehave: () => false, close };
  return fake;
}

/** Sends the response of a correct registry. */
export function respond(request: http.IncomingMessage, response: http.ServerResponse): void {
  const path = (request.url ?? '').replace(/\?.*/, '');
  if (path.endsWith('/manifests/1') || path.endsWith(`/manifests/${manifestDigest}`)) {
    response.writeHead(200, { 'content-type': manifestType, 'docker-content-digest': manifestDigest, 'content-length': manifestBytes.length });
    response.end(request.method === 'HEAD' ? undefined : manifestBytes);
  } else if (path.endsWith(`/blobs/${layer.digest}`)) sendBlob(request, response, layerBytes);
  else if (path.endsWith(`/blobs/${config.digest}`)) sendBlob(request, response, configBytes);
  else sendError(response, 404, 'MANIFEST_UNKNOWN', 'manifest unknown');
}

/** Sends an error response in the format of the distribution specification. @returns true, the result of a `misbehave` that has sent a response. */
export function sendError(
  response: http.ServerResponse,
  status: number,
  code: string,
  message: string,
  headers: Record<string, string> = {},
): boolean {
  response.writeHead(status, { 'content-type': 'application/json', ...headers });
  response.end(JSON.stringify({ errors: [{ code, message }] }));
  return true;
}

function sendBlob(request: http.IncomingMessage, response: http.ServerResponse, bytes: Buffer): void {
  const offset = Number(/^bytes=([0-9]+)-$/.exec(request.headers.range ?? '')?.[1] ?? 0);
  const part = bytes.subarray(offset);
  const headers = { 'content-length': part.length, 'content-type': 'application/octet-stream' };
  if (offset === 0) response.writeHead(200, headers);
  else response.writeHead(206, { ...headers, 'content-range': `bytes ${offset}-${bytes.length - 1}/${bytes.length}` });
  response.end(part);
}
