/**
 * An OTLP/HTTP receiver on loopback, with a small protobuf decoder for spans.
 *
 * Field numbers: opentelemetry-proto, trace/v1/trace.proto, common/v1/common.proto, collector/trace/v1/trace_service.proto.
 */
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';

export type ReceivedSpan = {
  readonly traceId: string;
  readonly spanId: string;
  /** '' for a root span. */
  readonly parentId: string;
  readonly traceState: string;
  readonly name: string;
  /** 1: internal, 2: server. */
  readonly kind: number;
  readonly startNs: bigint;
  readonly endNs: bigint;
  readonly attributes: Readonly<Record<string, unknown>>;
  /** 0: unset, 1: ok, 2: error. */
  readonly status: { readonly code: number; readonly message: string };
  /** Attributes of the sending daemon. */
  readonly resource: Readonly<Record<string, unknown>>;
};

export type OtlpReceiver = {
  /** Value for the setting `tracing_endpoint`. */
  readonly url: string;
  readonly spans: readonly ReceivedSpan[];
  /** Raw request bodies. */
  readonly bodies: readonly Buffer[];
  readonly stop: () => void;
};

/** Starts a receiver. @param hangs read requests, but never send a response. */
export async function startOtlpReceiver({ hangs = false } = {}): Promise<OtlpReceiver> {
  const spans: ReceivedSpan[] = [];
  const bodies: Buffer[] = [];
  const server = createServer(async (request, response) => {
    const chunks: Buffer[] = [];
    for await (const chunk of request as AsyncIterable<Buffer>) chunks.push(chunk);
    const body = Buffer.concat(chunks);
    const isTraces = request.url === '/v1/traces' && request.headers['content-type'] === 'application/x-protobuf';
    if (!isTraces) return void response.writeHead(404).end();
    bodies.push(body);
    spans.push(...decodeRequest(body));
    if (!hangs) response.writeHead(200, { 'content-type': 'application/x-protobuf' }).end();
  });
  await new Promise<void>((settle) => server.listen(0, '127.0.0.1', settle));
  const stop = () => {
    server.close();
    server.closeAllConnections();
  };
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, spans, bodies, stop };
}

/** Fields of a message by number: bytes, or a number. */
type Fields = ReadonlyMap<number, readonly (Buffer | bigint)[]>;

function decodeRequest(body: Buffer): ReceivedSpan[] {
  return messages(fieldsOf(body), 1).flatMap((resourceSpans) => {
    const resource = attributesOf(messages(resourceSpans, 1)[0] ?? new Map(), 1);
    return messages(resourceSpans, 2).flatMap((scopeSpans) => messages(scopeSpans, 2).map((span) => spanOf(span, resource)));
  });
}

function spanOf(span: Fields, resource: ReceivedSpan['resource']): ReceivedSpan {
  const [status = new Map()] = messages(span, 15);
  return {
    traceId: bytes(span, 1).toString('hex'),
    spanId: bytes(span, 2).toString('hex'),
    traceState: bytes(span, 3).toString(),
    parentId: bytes(span, 4).toString('hex'),
    name: bytes(span, 5).toString(),
    kind: Number(number(span, 6)),
    startNs: number(span, 7),
    endNs: number(span, 8),
    attributes: attributesOf(span, 9),
    status: { code: Number(number(status, 3)), message: bytes(status, 2).toString() },
    resource,
  };
}

function attributesOf(fields: Fields, field: number): Record<string, unknown> {
  return Object.fromEntries(messages(fields, field).map((pair) => [bytes(pair, 1).toString(), anyValueOf(messages(pair, 2)[0] ?? new Map())]));
}

function anyValueOf(value: Fields): unknown {
  if (value.has(1)) return bytes(value, 1).toString();
  if (value.has(2)) return number(value, 2) === 1n;
  if (value.has(3)) return Number(number(value, 3));
  if (!value.has(4)) return undefined;
  const double = Buffer.alloc(8);
  double.writeBigUInt64LE(number(value, 4));
  return double.readDoubleLE();
}

const bytes = (fields: Fields, field: number): Buffer => (fields.get(field)?.[0] as Buffer | undefined) ?? Buffer.alloc(0);
const number = (fields: Fields, field: number): bigint => (fields.get(field)?.[0] as bigint | undefined) ?? 0n;
const messages = (fields: Fields, field: number): Fields[] => (fields.get(field) ?? []).map((value) => fieldsOf(value as Buffer));

/** The wire format: https://protobuf.dev/programming-guides/encoding/. */
function fieldsOf(message: Buffer): Fields {
  const fields = new Map<number, (Buffer | bigint)[]>();
  let at = 0;
  const varint = (): bigint => {
    for (let value = 0n, shift = 0n; ; shift += 7n) {
      const byte = message.readUInt8(at++);
      value |= BigInt(byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
  };
  const take = (length: number): Buffer => {
    at += length;
    return message.subarray(at - length, at);
  };
  const value = (wireType: number): Buffer | bigint => {
    if (wireType === 0) return varint();
    if (wireType === 1) return take(8).readBigUInt64LE();
    if (wireType === 2) return take(Number(varint()));
    return BigInt(take(4).readUInt32LE());
  };
  while (at < message.length) {
    const tag = Number(varint());
    const field = tag >> 3;
    fields.set(field, [...(fields.get(field) ?? []), value(tag & 7)]);
  }
  return fields;
}

/** Returns the spans below a parent in depth-first order, sorted by start time. `depth` is 0 for the children of the parent. */
export function treeOf(spans: readonly ReceivedSpan[], parentId: string, depth = 0): { readonly span: ReceivedSpan; readonly depth: number }[] {
  return spans
    .filter((span) => span.parentId === parentId)
    .sort((a, b) => Number(a.startNs - b.startNs) || Number(b.endNs - a.endNs))
    .flatMap((span) => [{ span, depth }, ...treeOf(spans, span.spanId, depth + 1)]);
}
