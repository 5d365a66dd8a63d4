/**
 * A backend for the streaming server without containers: commands that are functions of this process, and ports of this network namespace.
 */
import { createHash } from 'node:crypto';
import { connect, type Socket } from 'node:net';
import { PassThrough, Readable, Writable } from 'node:stream';
import type { AttachTarget, ContainerStreams, ExecTarget, StreamingBackend } from '../../src/streaming/backend.ts';

export type FakeBackend = StreamingBackend & {
  /** What happened, in order: `exec ARGV`, `attach`, `resize WxH`, `stdin end`, `stdin closed`, `abandon`. */
  readonly events: string[];
  /** Bytes that `endless` and `generate` have given. */
  readonly producedBytes: () => number;
};

type Process = {
  readonly stdin: PassThrough;
  readonly stdout: PassThrough;
  readonly stderr: PassThrough;
  readonly exit: (exitCode: number) => void;
  /** Ends with its outputs still open. */
  readonly leave: (exitCode: number) => void;
  readonly onSize: (listener: (size: string) => void) => void;
};

const chunkBytes = 65_536;

export function createFakeBackend(): FakeBackend {
  const events: string[] = [];
  let producedBytes = 0;
  const produce = (bytes: number) => {
    producedBytes += bytes;
  };
  const start = (target: ExecTarget | AttachTarget): ContainerStreams => {
    const argv = 'argv' in target ? target.argv : ['attached'];
    events.push('argv' in target ? `exec ${argv.join(' ')}` : 'attach');
    if (argv[0] === 'missing') throw new Error('exec: "missing": no such file');
    return argv[0] === 'generate' || argv[0] === 'endless' || argv[0] === 'hash' ? bulk(argv, events, produce) : ordinary(argv, events);
  };
  return {
    events,
    producedBytes: () => producedBytes,
    exec: async (target) => start(target),
    attach: async (target) => start(target),
    connect: (_sandboxId, port) => connectTo(port),
  };
}

function connectTo(port: number): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true });
    socket.once('error', reject);
    socket.once('connect', () => {
      socket.off('error', reject);
      resolve(socket);
    });
  });
}

/** A process with pipes, and a command that works on them. */
function ordinary(argv: readonly string[], events: string[]): ContainerStreams {
  const [stdin, stdout, stderr] = [new PassThrough(), new PassThrough(), new PassThrough()];
  const exit = Promise.withResolvers<{ exitCode: number }>();
  let sizeListener = (_size: string) => {};
  stdin.on('finish', () => events.push('stdin end'));
  stdin.on('close', () => !stdin.writableFinished && events.push('stdin closed'));
  const onSize = (listener: (size: string) => void) => {
    sizeListener = listener;
  };
  const command = commands[argv[0] ?? ''] ?? (() => exit.resolve({ exitCode: 127 }));
  const end = (exitCode: number) => {
    stdout.end();
    stderr.end();
    exit.resolve({ exitCode });
  };
  command({ stdin, stdout, stderr, exit: end, leave: (exitCode) => exit.resolve({ exitCode }), onSize }, argv.slice(1));
  return {
    stdin,
    stdout,
    stderr,
    resize: (columns, rows) => {
      events.push(`resize ${columns}x${rows}`);
      sizeListener(`${columns}x${rows}`);
    },
    exited: exit.promise,
    abandon: () => {
      events.push('abandon');
      exit.resolve({ exitCode: 137 });
    },
  };
}

const commands: Readonly<Record<string, (process: Process, args: readonly string[]) => void>> = {
  echo: ({ stdout, exit }, args) => {
    stdout.write(args.join(' '));
    exit(0);
  },
  both: ({ stdout, stderr, exit }) => {
    stdout.write('to stdout');
    stderr.write('to stderr');
    exit(0);
  },
  exit: ({ exit }, [code]) => exit(Number(code)),
  cat: ({ stdin, stdout, exit }) => {
    stdin.on('data', (chunk) => stdout.write(chunk) || stdin.pause());
    stdout.on('drain', () => stdin.resume());
    stdin.on('end', () => exit(0));
  },
  /** Says the sizes it is told until there are so many. */
  sizes: ({ stdout, exit, onSize }, [count]) => {
    const seen: string[] = [];
    onSize((size) => {
      seen.push(size);
      if (seen.length < Number(count)) return;
      stdout.write(seen.join(' '));
      exit(0);
    });
  },
  sleep: () => {},
  attached: ({ stdin, stdout, exit }) => {
    stdin.once('data', (chunk) => {
      stdout.write(`you said ${chunk}`);
      exit(3);
    });
  },
  /** Leaves its output to something that lives on. */
  leaveOpen: ({ stdout, leave }) => {
    stdout.write('the last words');
    leave(7);
  },
  /** Closes its standard input, and ends a moment later. */
  closeStdin: ({ stdin, exit }) => {
    stdin.destroy();
    setTimeout(() => exit(0), 200);
  },
};

/** Commands on many bytes. */
function bulk([name, count]: readonly string[], events: string[], produce: (bytes: number) => void): ContainerStreams {
  const exit = Promise.withResolvers<{ exitCode: number }>();
  const hash = createHash('sha256');
  const digest = new PassThrough();
  const stdin = new Writable({
    highWaterMark: chunkBytes,
    write: (chunk, _encoding, done) => {
      hash.update(chunk);
      setImmediate(done);
    },
    final: (done) => {
      digest.end(hash.digest('hex'));
      exit.resolve({ exitCode: 0 });
      done();
    },
  });
  const total = name === 'endless' ? Number.POSITIVE_INFINITY : Number(count);
  const stdout = name === 'hash' ? digest : generated(total, produce, () => exit.resolve({ exitCode: 0 }));
  const abandon = () => {
    events.push('abandon');
    exit.resolve({ exitCode: 137 });
  };
  return { stdin, stdout, resize: () => {}, exited: exit.promise, abandon };
}

/** Bytes that differ from chunk to chunk, so that a lost or doubled one shows. */
function generated(total: number, produce: (bytes: number) => void, onEnd: () => void): Readable {
  let given = 0;
  // As a reader of a pipe may, it uses its buffers again: more than can be on their way at a time.
  const ring = Array.from({ length: 16 }, () => Buffer.alloc(chunkBytes));
  return new Readable({
    highWaterMark: chunkBytes,
    read() {
      if (given >= total) {
        this.push(null);
        onEnd();
        return;
      }
      const chunk = writeChunk(ring[(given / chunkBytes) % ring.length] ?? Buffer.alloc(0), given, Math.min(chunkBytes, total - given));
      given += chunk.length;
      produce(chunk.length);
      this.push(chunk);
    },
  });
}

/** The `bytes` bytes of the generated stream that begin at `offset`, a multiple of the chunk. */
export function chunkAt(offset: number, bytes: number): Buffer {
  return writeChunk(Buffer.alloc(bytes), offset, bytes);
}

function writeChunk(buffer: Buffer, offset: number, bytes: number): Buffer {
  const chunk = buffer.subarray(0, bytes).fill(offset / chunkBytes + 1);
  if (bytes >= 8) chunk.writeBigUInt64LE(BigInt(offset), 0);
  return chunk;
}

/** Digest of the first `total` bytes of the generated stream. */
export function digestOfGenerated(total: number): string {
  const hash = createHash('sha256');
  for (let at = 0; at < total; at += chunkBytes) hash.update(chunkAt(at, Math.min(chunkBytes, total - at)));
  return hash.digest('hex');
}
