/**
 * Encoded responses: lists that are assembled from cached encoded items.
 *
 * Pure. A message with one repeated field is the concatenation of the messages that hold one item each: protobuf.dev, "Encoding".
 */

/** An encoded response message, sent without further encoding. */
export class EncodedMessage {
  readonly bytes: Buffer;

  constructor(pieces: readonly Buffer[]) {
    this.bytes = Buffer.concat(pieces);
  }
}

/** The maximum size of one message of a streamed list, unless a single item is larger. The kubelet refuses messages above 16 MiB. */
const chunkBytesMax = 1024 * 1024;

/** Splits a list into messages of limited size; none for an empty list. */
export function* encodedChunks(pieces: readonly Buffer[]): Generator<EncodedMessage> {
  let chunk: Buffer[] = [];
  let bytes = 0;
  for (const piece of pieces) {
    if (chunk.length > 0 && bytes + piece.length > chunkBytesMax) {
      yield new EncodedMessage(chunk);
      [chunk, bytes] = [[], 0];
    }
    chunk.push(piece);
    bytes += piece.length;
  }
  if (chunk.length > 0) yield new EncodedMessage(chunk);
}
