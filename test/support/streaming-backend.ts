/**
 * A fake backend of the streaming server, without containers. Its commands are functions of this process; its ports are in this network namespace.
 */
import { createHash } from 'node:crypto';
import { connect, type Socket } from 'node:net';
import { PassThrough, Readable, Writable } from 'node:stream';
import type { AttachTarget, ContainerStreams, ExecTarget, StreamingBackend } from '../../src/streaming/backend.ts';

export type FakeBackend = StreamingBackend & {
  /** Events in order: `exec ARGV`, `attach`, `resize WxH`, `stdin end`, `stdin closed`, `abandon`. */
  readonly events: string[];
  /** Bytes produced by `endless` and `generate`. */
  readonly producedBytes: () => number;
};

type Process = {
  readonly stdin: PassThrough;
  readonly stdout: PassThrough;
  readonly stderr: PassThrough;
  readonly exit: (exitCode: number) => void;
  /** Exits with stdout and stderr still open. */
  readonly exitWithOpenOutput: (exitCode: number) => void;
  readonly onSize: (listener: (size: string) => void) => void;
};

const chunkBytes = 65_536;

/** Creates a fake backend. */
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
    return argv[0] === 'generate' || argv[0] === 'endless' || argv[0] === 'hash' ? runBulkCommand(argv, events, produce) : runCommand(argv, events);
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

/** Runs a command with pipes. */
function runCommand(argv: readonly string[], events: string[]): ContainerStreams {
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
  command({ stdin, stdout, stderr, exit: end, exitWithOpenOutput: (exitCode) => exit.resolve({ exitCode }), onSize }, argv.slice(1));
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
  /** Waits for `count` terminal sizes and prints them. */
  sizes: ({ stdout, exit, onSize }, [count]) => {
    const sizes: string[] = [];
    onSize((size) => {
      sizes.push(size);
      if (sizes.length < Number(count)) return;
      stdout.write(sizes.join(' '));
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
  /** Exits while another process still holds its output. */
  leaveOpen: ({ stdout, exitWithOpenOutput }) => {
    stdout.write('the last words');
    exitWithOpenOutput(7);
  },
  /** Closes its standard input, and exits 200 ms later. */
  closeStdin: ({ stdin, exit }) => {
    stdin.destroy();
    setTimeout(() => exit(0), 200);
  },
};

/** Runs a command that reads or writes a large amount of data. */
function runBulkCommand([name, count]: readonly string[], events: string[], produce: (bytes: number) => void): ContainerStreams {
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

/** Returns a stream whose bytes differ from chunk to chunk, so that a lost or duplicated chunk is detected. */
function generated(total: number, produce: (bytes: number) => void, onEnd: () => void): Readable {
  let produced = 0;
  // Reuses its buffers, as a reader of a pipe does. There are more buffers than can be in flight.
  const ring = Array.from({ length: 16 }, () => Buffer.alloc(chunkBytes));
  return new Readable({
    highWaterMark: chunkBytes,
    read() {
      if (produced >= total) {
        this.push(null);
        onEnd();
        return;
      }
      const chunk = writeChunk(ring[(produced / chunkBytes) % ring.length] ?? Buffer.alloc(0), produced, Math.min(chunkBytes, total - produced));
      produced += chunk.length;
      produce(chunk.length);
      this.push(chunk);
    },
  });
}

/** Returns `bytes` bytes of the generated stream. @param offset a multiple of the chunk size. */
export function chunkAt(offset: number, bytes: number): Buffer {
  return writeChunk(Buffer.alloc(bytes), offset, bytes);
}

function writeChunk(buffer: Buffer, offset: number, bytes: number): Buffer {
  const chunk = buffer.subarray(0, bytes).fill(offset / chunkBytes + 1);
  if (bytes >= 8) chunk.writeBigUInt64LE(BigInt(offset), 0);
  return chunk;
}

/** Returns the SHA-256 digest of the first `total` bytes of the generated stream. */
export function digestOfGenerated(total: number): string {
  const hash = createHash('sha256');
  for (let at = 0; at < total; at += chunkBytes) hash.update(chunkAt(at, Math.min(chunkBytes, total - at)));
  return hash.digest('hex');
}
