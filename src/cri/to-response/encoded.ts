/**
 * Responses that are bytes already: lists of many items, put together from pieces that were encoded when an item last changed.
 *
 * Pure. A message with one repeated field is the concatenation of the messages that hold one item each: protobuf.dev, "Encoding".
 */

/** Stands in for a response message; goes on the wire as it is. */
export class EncodedMessage {
  readonly bytes: Buffer;

  constructor(pieces: readonly Buffer[]) {
    this.bytes = Buffer.concat(pieces);
  }
}

/** Bytes of one message of a streamed list, unless a single item is larger. The kubelet refuses messages above 16 MiB. */
const chunkBytesMax = 1024 * 1024;

/** Splits a list into messages of bounded size; none for an empty list. */
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
