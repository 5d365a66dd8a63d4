/**
 * Serves /metrics over HTTP. A program file of its own: a daemon without metrics does not even load it.
 *
 * Answers GET /metrics and nothing else, and takes nothing from a request but its path.
 */
import { createServer, type Server } from 'node:http';
import { createMetrics, type Metrics, type Sources } from '../lib/metrics.ts';

export type MetricsServer = {
  readonly observers: Metrics['observers'];
  /** Starts to answer. @param address `ADDRESS:PORT`, an IPv6 address in brackets. @throws when it cannot listen there. */
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

/** Those who ask while an answer is being made get the same: many scrapers cost no more than one. */
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
    const answer = (status: number, text: string, type = 'text/plain; charset=utf-8') =>
      response.writeHead(status, { 'content-type': type }).end(text);
    // What was asked for beside the path is nobody's business here.
    if (request.url?.split('?')[0] !== '/metrics') return void answer(404, 'berth serves /metrics\n');
    if (request.method !== 'GET' && request.method !== 'HEAD') return void answer(405, 'GET only\n');
    scrape().then(
      (text) => answer(200, text, contentType),
      () => answer(500, 'collecting the metrics failed\n'),
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
