/**
 * systemd's manager over D-Bus: starts and stops units, sets their properties, and reports when systemd has reapplied all properties.
 *
 * Every wait has a timeout and none blocks. A lost connection is reopened and pending requests are repeated, so all requests must be idempotent.
 */
import { existsSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { BerthError, internal, reasonOf } from '../../lib/errors.ts';
import {
  type Bus,
  BusError,
  type BusMessage,
  type BusMethod,
  type BusProperty,
  type BusValue,
  connectionLost,
  createSdBus,
  type SdBus,
} from './sd-bus.ts';

export type Systemd = {
  /** For example, 252; 0 if unknown. */
  readonly version: number;
  /** Starts a transient scope. Succeeds if a unit of that name exists. @throws {BerthError} INTERNAL, DEADLINE_EXCEEDED. */
  readonly startScope: (name: string, properties: readonly BusProperty[]) => Promise<void>;
  /** @throws {BerthError} like startScope(). */
  readonly startUnit: (name: string) => Promise<void>;
  /** Succeeds if the unit does not exist. */
  readonly stopUnit: (name: string) => Promise<void>;
  /** Sets properties until the unit ends, and resolves when they are applied. @returns false if the unit does not exist. */
  readonly setProperties: (name: string, properties: readonly BusProperty[]) => Promise<boolean>;
  /** Calls back whenever systemd may have written to the cgroups of all its units: after a daemon-reload, a restart, or a lost connection. */
  readonly onReset: (listener: () => void) => void;
  readonly close: () => void;
};

/** sd_booted(3). */
export const isSystemdRunning = (): boolean => existsSync('/run/systemd/system');

/** A daemon-reload on a node with many units takes seconds. */
const timeoutMs = 30_000;
const reconnectPauseMs = 1_000;

const destination = 'org.freedesktop.systemd1';
const managerPath = '/org/freedesktop/systemd1';
const manager = (member: string): BusMethod => ({ destination, path: managerPath, interface: `${destination}.Manager`, member });
const busDaemon = (member: string): BusMethod => ({
  destination: 'org.freedesktop.DBus',
  path: '/org/freedesktop/DBus',
  interface: 'org.freedesktop.DBus',
  member,
});
const matches = [
  ...['JobRemoved', 'Reloading'].map((member) => `type='signal',sender='${destination}',path='${managerPath}',member='${member}'`),
  `type='signal',sender='org.freedesktop.DBus',member='NameOwnerChanged',arg0='${destination}'`,
];

const text = (value: string): BusValue => ({ type: 's', value });
const ignore = () => {};

/** State of the connection. */
type State = {
  readonly sdBus: SdBus;
  readonly listeners: (() => void)[];
  /** Callbacks for pending jobs, by path; called with the result. */
  readonly jobs: Map<string, (result: string) => void>;
  bus: Bus | null;
  isClosed: boolean;
};

/** @throws {BerthError} FAILED_PRECONDITION without libsystemd; INTERNAL or DEADLINE_EXCEEDED if systemd does not answer. */
export async function connectSystemd(): Promise<Systemd> {
  const state: State = { sdBus: createSdBus(), listeners: [], jobs: new Map(), bus: null, isClosed: false };
  const close = () => {
    state.isClosed = true;
    state.bus?.close();
  };
  let version: number;
  try {
    version = await request('connect to systemd', state, readVersion);
  } catch (error) {
    close();
    throw error;
  }
  const properties = (value: readonly BusProperty[]): BusValue => ({ type: 'a(sv)', value });
  const job = (attempt: string, member: string, values: readonly BusValue[], toleratedError: string) =>
    request(attempt, state, (bus) => unless(toleratedError, awaitJob(state, bus, manager(member), values)));
  return {
    version,
    startScope: async (name, given) => {
      const values = [text(name), text('fail'), properties(given), { type: 'a(sa(sv))', value: [] } as const];
      await job(`start ${name}`, 'StartTransientUnit', values, `${destination}.UnitExists`);
    },
    startUnit: async (name) => void (await job(`start ${name}`, 'StartUnit', [text(name), text('replace')], '')),
    stopUnit: async (name) => void (await job(`stop ${name}`, 'StopUnit', [text(name), text('replace')], `${destination}.NoSuchUnit`)),
    setProperties: (name, given) =>
      request(`set properties of ${name}`, state, (bus) =>
        unless(
          `${destination}.NoSuchUnit`,
          bus.call(manager('SetUnitProperties'), [text(name), { type: 'b', value: true }, properties(given)], ignore).then(() => settled(bus)),
        ),
      ),
    onReset: (listener) => void state.listeners.push(listener),
    close,
  };
}

/** @returns false instead of throwing the given error. */
async function unless(busName: string, task: Promise<void>): Promise<boolean> {
  try {
    await task;
    return true;
  } catch (error) {
    if (error instanceof BusError && error.busName === busName) return false;
    throw error;
  }
}

const readVersion = (bus: Bus): Promise<number> =>
  bus.call({ ...manager('Get'), interface: 'org.freedesktop.DBus.Properties' }, [text(`${destination}.Manager`), text('Version')], (reply) =>
    Number(/\d+/.exec(reply.readTextVariant())?.[0] ?? 0),
  );

/** Resolves when systemd has written all cgroup values that were pending: it does that before it processes the next message. */
function settled(bus: Bus): Promise<void> {
  return bus.call({ ...manager('Ping'), interface: 'org.freedesktop.DBus.Peer' }, [], ignore);
}

async function awaitJob(state: State, bus: Bus, method: BusMethod, values: readonly BusValue[]): Promise<void> {
  // Register the job while reading the reply: its end may be the next message.
  const { result } = await bus.call(method, values, (reply) => {
    const path = reply.readText('o');
    return { result: new Promise<string>((resolve) => state.jobs.set(path, resolve)).finally(() => state.jobs.delete(path)) };
  });
  const outcome = await result;
  if (outcome === connectionLost) throw new BusError(connectionLost, 'connection to D-Bus lost');
  if (outcome !== 'done') throw new BusError('job', `job result ${outcome}`);
}

/** Runs a task on the bus. Repeats it after a lost connection, until the timeout. */
async function request<Result>(attempt: string, state: State, task: (bus: Bus) => Promise<Result>): Promise<Result> {
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    try {
      return await withTimeout(attempt, deadline - performance.now(), task(connection(state)));
    } catch (error) {
      if (error instanceof BerthError) throw error;
      const isLost = error instanceof BusError && error.busName === connectionLost;
      if (!isLost || state.isClosed || performance.now() + reconnectPauseMs >= deadline)
        throw internal(`${attempt}: systemd: ${reasonOf(error)}`, error);
    }
    await sleep(reconnectPauseMs);
  }
}

function withTimeout<Result>(attempt: string, ms: number, task: Promise<Result>): Promise<Result> {
  return new Promise((resolve, reject) => {
    const onTimeout = () => reject(new BerthError('DEADLINE_EXCEEDED', `${attempt}: systemd did not answer within ${timeoutMs / 1000} s`));
    const timer = setTimeout(onTimeout, ms);
    task.then(resolve, reject).finally(() => clearTimeout(timer));
  });
}

function connection(state: State): Bus {
  if (state.bus !== null) return state.bus;
  const bus = state.sdBus.open({ signal: (message) => handleSignal(state, message), lost: () => handleLoss(state) });
  state.bus = bus;
  for (const rule of matches) bus.call(busDaemon('AddMatch'), [text(rule)], ignore).catch(ignore);
  bus.call(manager('Subscribe'), [], ignore).catch(ignore);
  return bus;
}

function handleSignal(state: State, message: BusMessage): void {
  if (message.member === 'JobRemoved') {
    // The first argument is the job's number.
    message.readNumber();
    const path = message.readText('o');
    message.readText('s');
    state.jobs.get(path)?.(message.readText('s'));
  }
  // `true` is sent before the reload, `false` after it.
  if (message.member === 'Reloading' && !message.readBoolean()) reset(state);
  if (message.member === 'NameOwnerChanged') {
    const [, , owner] = [message.readText('s'), message.readText('s'), message.readText('s')];
    if (owner === '') return;
    state.bus?.call(manager('Subscribe'), [], ignore).catch(ignore);
    reset(state);
  }
}

/** Notifies the listeners when systemd has written all pending values. */
function reset(state: State): void {
  request('wait for a reload', state, settled).then(() => {
    for (const listener of state.listeners) listener();
  }, ignore);
}

function handleLoss(state: State): void {
  state.bus = null;
  for (const end of state.jobs.values()) end(connectionLost);
  if (!state.isClosed) reconnect(state);
}

/** Reconnects without a pending request, so that no signal is missed. */
function reconnect(state: State): void {
  const retry = () => {
    if (state.isClosed) return;
    request('reconnect', state, settled).then(
      () => {
        for (const listener of state.listeners) listener();
      },
      () => reconnect(state),
    );
  };
  setTimeout(retry, reconnectPauseMs).unref();
}
