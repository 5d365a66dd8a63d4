/**
 * A connection to the system D-Bus through libsystemd, with asynchronous calls and signals.
 *
 * Knows no service. Never blocks: the library's state machine runs from the event loop whenever its socket is ready.
 */
import koffi from 'koffi';
import { failedPrecondition, reasonOf } from '../../lib/errors.ts';
import { errnoText, library } from '../call/ffi.ts';

/** A value with its D-Bus signature. */
export type BusValue =
  | { readonly type: 's'; readonly value: string }
  | { readonly type: 'b'; readonly value: boolean }
  | { readonly type: 'u'; readonly value: number }
  | { readonly type: 't'; readonly value: bigint }
  | { readonly type: 'ay'; readonly value: Uint8Array }
  | { readonly type: 'au'; readonly value: readonly number[] }
  | { readonly type: 'a(sv)'; readonly value: readonly BusProperty[] }
  /** Only the empty array is needed. */
  | { readonly type: 'a(sa(sv))'; readonly value: readonly [] };

/** A property: a name and its value. */
export type BusProperty = { readonly name: string; readonly value: BusValue };

/** Destination and method of a call. */
export type BusMethod = { readonly destination: string; readonly path: string; readonly interface: string; readonly member: string };

/** A received message. Its values are read in order. Valid only within the callback that gets it. */
export type BusMessage = {
  readonly interface: string;
  readonly member: string;
  /** An object path is an `o`. */
  readonly readText: (type: 's' | 'o') => string;
  readonly readNumber: () => number;
  readonly readBoolean: () => boolean;
  /** Reads a variant that contains a string. */
  readonly readTextVariant: () => string;
};

/** An error reply. `busName` is, for example, `org.freedesktop.systemd1.NoSuchUnit`. */
export class BusError extends Error {
  readonly busName: string;
  constructor(busName: string, message: string) {
    super(message);
    this.name = 'BusError';
    this.busName = busName;
  }
}

/** `busName` of a BusError if the connection was lost or could not be opened. It is unknown whether the call was executed. */
export const connectionLost = 'connection lost';

export type Bus = {
  /**
   * @param take reads the reply, synchronously and before the next message is processed.
   * @throws {BusError}
   */
  readonly call: <Result>(method: BusMethod, values: readonly BusValue[], take: (reply: BusMessage) => Result) => Promise<Result>;
  readonly close: () => void;
};

export type BusListener = { readonly signal: (message: BusMessage) => void; readonly lost: () => void };

export type SdBus = {
  /** Connects. @throws {BusError} connectionLost if the bus is not running. The handshake runs in the background; calls wait for it. */
  readonly open: (listener: BusListener) => Bus;
};

/** @throws {BerthError} FAILED_PRECONDITION if the library is not installed. */
export function createSdBus(): SdBus {
  const bindings = loadBindings();
  return { open: (listener) => openBus(bindings, listener) };
}

type Bindings = ReturnType<typeof loadBindings>;

function loadBindings() {
  const systemd = openLibrary();
  const text = (name: string) => systemd.func(`const char *${name}(void *message)`);
  return {
    open: systemd.func('int sd_bus_open_system(_Out_ void **bus)'),
    close: systemd.func('void *sd_bus_close_unref(void *bus)'),
    fd: systemd.func('int sd_bus_get_fd(void *bus)'),
    events: systemd.func('int sd_bus_get_events(void *bus)'),
    process: systemd.func('int sd_bus_process(void *bus, _Out_ void **message)'),
    newCall: systemd.func(
      'int sd_bus_message_new_method_call(void *bus, _Out_ void **message, const char *to, const char *path, const char *interface, const char *member)',
    ),
    appendText: systemd.func('int sd_bus_message_append_basic(void *message, int type, const char *value)'),
    appendBytes: systemd.func('int sd_bus_message_append_basic(void *message, int type, const uint8_t *value)'),
    appendArray: systemd.func('int sd_bus_message_append_array(void *message, int type, const uint8_t *values, size_t bytes)'),
    openContainer: systemd.func('int sd_bus_message_open_container(void *message, int type, const char *contents)'),
    enterContainer: systemd.func('int sd_bus_message_enter_container(void *message, int type, const char *contents)'),
    closeContainer: systemd.func('int sd_bus_message_close_container(void *message)'),
    send: systemd.func('int sd_bus_send(void *bus, void *message, _Out_ uint64_t *cookie)'),
    unref: systemd.func('void *sd_bus_message_unref(void *message)'),
    type: systemd.func('int sd_bus_message_get_type(void *message, _Out_ uint8_t *type)'),
    replyCookie: systemd.func('int sd_bus_message_get_reply_cookie(void *message, _Out_ uint64_t *cookie)'),
    interface: text('sd_bus_message_get_interface'),
    member: text('sd_bus_message_get_member'),
    error: systemd.func('void *sd_bus_message_get_error(void *message)'),
    readText: systemd.func('int sd_bus_message_read_basic(void *message, int type, _Out_ const char **value)'),
    readNumber: systemd.func('int sd_bus_message_read_basic(void *message, int type, _Out_ uint32_t *value)'),
  };
}

function openLibrary(): ReturnType<typeof library> {
  try {
    return library('libsystemd.so.0');
  } catch (error) {
    throw failedPrecondition(`load libsystemd.so.0: ${reasonOf(error)} (Debian: apt-get install libsystemd0)`, error);
  }
}

/** enum of sd-bus-protocol.h. */
const methodReturn = 2;
const methodError = 3;
const signalType = 4;
/** poll(2). */
const POLLOUT = 4;

const lostError = (reason: string) => new BusError(connectionLost, `connection to D-Bus: ${reason}`);

function checkedBus(result: number): number {
  if (result < 0) throw lostError(errnoText(-result));
  return result;
}

type Pending = { readonly settle: (reply: unknown) => void; readonly fail: (error: BusError) => void };

function openBus(bindings: Bindings, listener: BusListener): Bus {
  const out: [unknown] = [null];
  checkedBus(bindings.open(out));
  const [bus] = out;
  const pending = new Map<bigint, Pending>();
  let isOpen = true;
  let watch: ReturnType<typeof koffi.node.poll> | undefined;

  const close = (error: BusError) => {
    if (!isOpen) return;
    isOpen = false;
    watch?.close();
    bindings.close(bus);
    for (const { fail } of pending.values()) fail(error);
    pending.clear();
  };

  const processMessages = () => {
    if (!isOpen) return;
    try {
      // sd_bus_process() handles at most one message. A listener may close the bus.
      for (const message: [unknown] = [null]; isOpen && checkedBus(bindings.process(bus, message)) > 0; message[0] = null) {
        if (message[0] !== null) dispatch(bindings, message[0], pending, listener);
      }
      if (isOpen) watch = startWatch();
    } catch (error) {
      close(error instanceof BusError ? error : lostError(reasonOf(error)));
      listener.lost();
    }
  };

  const startWatch = () => {
    watch?.close();
    const wantsWrite = (checkedBus(bindings.events(bus)) & POLLOUT) !== 0;
    const handle = koffi.node.poll(checkedBus(bindings.fd(bus)), { readable: true, writable: wantsWrite, disconnect: true }, () => {
      // The poll is level-triggered: without stop() it would call back until the messages are processed.
      handle.stop();
      setImmediate(processMessages);
    });
    // Waiting for signals must not keep the process alive; calls have timers.
    handle.unref();
    return handle;
  };

  setImmediate(processMessages);
  return {
    call: (method, values, take) =>
      new Promise((resolve, fail) => {
        if (!isOpen) throw lostError('closed');
        const cookie = send(bindings, bus, method, values);
        pending.set(cookie, { settle: (reply) => resolve(take(readerOf(bindings, reply))), fail });
        setImmediate(processMessages);
      }),
    close: () => close(lostError('closed')),
  };
}

function send(bindings: Bindings, bus: unknown, method: BusMethod, values: readonly BusValue[]): bigint {
  const out: [unknown] = [null];
  checkedBus(bindings.newCall(bus, out, method.destination, method.path, method.interface, method.member));
  const [message] = out;
  try {
    for (const value of values) append(bindings, message, value);
    const cookie: [bigint | number] = [0];
    checkedBus(bindings.send(bus, message, cookie));
    return BigInt(cookie[0]);
  } finally {
    bindings.unref(message);
  }
}

const code = (type: string) => type.charCodeAt(0);

function append(bindings: Bindings, message: unknown, value: BusValue): void {
  const inside = (type: string, contents: string, write: () => void) => {
    checkedBus(bindings.openContainer(message, code(type), contents));
    write();
    checkedBus(bindings.closeContainer(message));
  };
  const bytes = (type: string, length: number, write: (buffer: Buffer) => void) => {
    const buffer = Buffer.alloc(length);
    write(buffer);
    checkedBus(bindings.appendBytes(message, code(type), buffer));
  };
  switch (value.type) {
    case 's':
      checkedBus(bindings.appendText(message, code('s'), value.value));
      return;
    case 'b':
      bytes('b', 4, (buffer) => buffer.writeInt32LE(value.value ? 1 : 0));
      return;
    case 'u':
      bytes('u', 4, (buffer) => buffer.writeUInt32LE(value.value));
      return;
    case 't':
      bytes('t', 8, (buffer) => buffer.writeBigUInt64LE(value.value));
      return;
    case 'ay':
      checkedBus(bindings.appendArray(message, code('y'), value.value, value.value.length));
      return;
    case 'au': {
      const buffer = Buffer.alloc(4 * value.value.length);
      value.value.forEach((number, i) => {
        buffer.writeUInt32LE(number, 4 * i);
      });
      checkedBus(bindings.appendArray(message, code('u'), buffer, buffer.length));
      return;
    }
    case 'a(sv)':
      inside('a', '(sv)', () => {
        for (const property of value.value) {
          inside('r', 'sv', () => {
            append(bindings, message, { type: 's', value: property.name });
            inside('v', property.value.type, () => append(bindings, message, property.value));
          });
        }
      });
      return;
    case 'a(sa(sv))':
      inside('a', '(sa(sv))', () => {});
  }
}

function dispatch(bindings: Bindings, message: unknown, pending: Map<bigint, Pending>, listener: BusListener): void {
  try {
    const type: [number] = [0];
    checkedBus(bindings.type(message, type));
    if (type[0] === signalType) {
      listener.signal(readerOf(bindings, message));
      return;
    }
    if (type[0] !== methodReturn && type[0] !== methodError) return;
    const cookie: [bigint | number] = [0];
    checkedBus(bindings.replyCookie(message, cookie));
    const waiter = pending.get(BigInt(cookie[0]));
    pending.delete(BigInt(cookie[0]));
    if (type[0] === methodError) waiter?.fail(errorOf(bindings, message));
    else waiter?.settle(message);
  } finally {
    bindings.unref(message);
  }
}

/** struct sd_bus_error starts with two strings: name and message. */
function errorOf(bindings: Bindings, message: unknown): BusError {
  const [name, text] = koffi.decode(bindings.error(message), koffi.array('const char *', 2)) as (string | null)[];
  return new BusError(name ?? 'unknown', text ?? name ?? 'no reason given');
}

function readerOf(bindings: Bindings, message: unknown): BusMessage {
  const number = (type: 'u' | 'b') => {
    const out: [number] = [0];
    checkedBus(bindings.readNumber(message, code(type), out));
    return out[0];
  };
  const readText = (type: 's' | 'o') => {
    const out: [string] = [''];
    checkedBus(bindings.readText(message, code(type), out));
    return out[0];
  };
  return {
    interface: bindings.interface(message) ?? '',
    member: bindings.member(message) ?? '',
    readText,
    readNumber: () => number('u'),
    readBoolean: () => number('b') !== 0,
    readTextVariant: () => {
      checkedBus(bindings.enterContainer(message, code('v'), 's'));
      return readText('s');
    },
  };
}
