/**
 * Serves /metrics over HTTP. A separate bundle, which is loaded only if metrics are enabled.
 *
 * Answers only GET and HEAD of /metrics, and uses only the path and method of a request.
 */
import { createServer, type Server } from 'node:http';
import { createMetrics, type Metrics, type Sources } from './metrics.ts';

export type MetricsServer = {
  readonly observers: Metrics['observers'];
  /** Starts to listen. @param address `ADDRESS:PORT`, an IPv6 address in brackets. @throws if it cannot listen on the address. */
  readonly serve: (address: string, sources: Sources) => Promise<void>;
  readonly close: () => void;
};

const connectionsMax = 16;
const requestTimeoutMs = 10_000;

/** @param version of berth. */
export function createMetricsServer(version: string): MetricsServer {
  const metrics = createMetrics({ version, node: process.versions.node });
  let containerUse: Sources['containerUse'];
  const scrape = joined(async () => (await metrics.scrape()) + ((await containerUse?.()) ?? ''));
  const server = createScrapeServer(scrape, metrics.contentType);
  return {
    observers: metrics.observers,
    serve: async (address, sources) => {
      metrics.watch(sources);
      containerUse = sources.containerUse;
      await listen(server, address);
    },
    close: () => {
      metrics.close();
      server.close();
      server.closeAllConnections();
    },
  };
}

/** Shares one scrape among concurrent requests: many scrapers cost no more than one. */
function joined(work: () => Promise<string>): () => Promise<string> {
  let inFlight: Promise<string> | null = null;
  return () => {
    inFlight ??= work().finally(() => {
      inFlight = null;
    });
    return inFlight;
  };
}

function createScrapeServer(scrape: () => Promise<string>, contentType: string): Server {
  const server = createServer({ requestTimeout: requestTimeoutMs, headersTimeout: requestTimeoutMs }, (request, response) => {
    const respond = (status: number, text: string, type = 'text/plain; charset=utf-8') =>
      response.writeHead(status, { 'content-type': type }).end(text);
    // The query string is ignored.
    if (request.url?.split('?')[0] !== '/metrics') return void respond(404, 'not found; metrics are at /metrics\n');
    if (request.method !== 'GET' && request.method !== 'HEAD') return void respond(405, 'method not allowed; use GET\n');
    scrape().then(
      (text) => respond(200, text, contentType),
      () => respond(500, 'failed to collect metrics\n'),
    );
  });
  server.maxConnections = connectionsMax;
  return server;
}

function listen(server: Server, address: string): Promise<void> {
  const [, host = '', port = ''] = /^\[?(.*?)\]?:(\d+)$/.exec(address) ?? [];
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen({ host, port: Number(port) }, resolve);
  });
}
