/**
 * systemd's manager over D-Bus: starts and stops units, sets their properties, and tells when it has applied all of them anew.
 *
 * Every wait has a deadline and none blocks. A connection that is lost is opened again; what was under way is asked for again, so every
 * request here is one that may be made twice.
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
  /** 252 and so on; 0 when it cannot be told. */
  readonly version: number;
  /** Puts the processes into a new transient scope. Succeeds when there is one of that name. @throws {BerthError} INTERNAL, DEADLINE_EXCEEDED. */
  readonly startScope: (name: string, properties: readonly BusProperty[]) => Promise<void>;
  /** @throws {BerthError} as above. */
  readonly startUnit: (name: string) => Promise<void>;
  /** Succeeds for a unit that is not there. */
  readonly stopUnit: (name: string) => Promise<void>;
  /** Until the unit ends. @returns when they have been applied; false when there is no such unit. */
  readonly setProperties: (name: string, properties: readonly BusProperty[]) => Promise<boolean>;
  /** Calls back whenever systemd may have written to the cgroups of all its units: after a reload of its configuration, a restart, a lost connection. */
  readonly onReset: (listener: () => void) => void;
  readonly close: () => void;
};

/** sd_booted(3). */
export const isSystemdRunning = (): boolean => existsSync('/run/systemd/system');

/** A reload of a node with many units keeps systemd busy for seconds. */
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

/** What the connection needs to know of itself. */
type State = {
  readonly sdBus: SdBus;
  readonly listeners: (() => void)[];
  /** Of jobs that somebody waits for, by path: called with the result. */
  readonly jobs: Map<string, (result: string) => void>;
  bus: Bus | null;
  isClosed: boolean;
};

/** @throws {BerthError} FAILED_PRECONDITION without libsystemd; INTERNAL or DEADLINE_EXCEEDED when systemd does not answer. */
export async function connectSystemd(): Promise<Systemd> {
  const state: State = { sdBus: createSdBus(), listeners: [], jobs: new Map(), bus: null, isClosed: false };
  const close = () => {
    state.isClosed = true;
    state.bus?.close();
  };
  let version: number;
  try {
    version = await asked('asking systemd', state, readVersion);
  } catch (error) {
    close();
    throw error;
  }
  const properties = (value: readonly BusProperty[]): BusValue => ({ type: 'a(sv)', value });
  const job = (attempt: string, member: string, values: readonly BusValue[], fine: string) =>
    asked(attempt, state, (bus) => unless(fine, awaitJob(state, bus, manager(member), values)));
  return {
    version,
    startScope: async (name, given) => {
      const values = [text(name), text('fail'), properties(given), { type: 'a(sa(sv))', value: [] } as const];
      await job(`starting ${name}`, 'StartTransientUnit', values, `${destination}.UnitExists`);
    },
    startUnit: async (name) => void (await job(`starting ${name}`, 'StartUnit', [text(name), text('replace')], '')),
    stopUnit: async (name) => void (await job(`stopping ${name}`, 'StopUnit', [text(name), text('replace')], `${destination}.NoSuchUnit`)),
    setProperties: (name, given) =>
      asked(`setting properties of ${name}`, state, (bus) =>
        unless(
          `${destination}.NoSuchUnit`,
          bus.call(manager('SetUnitProperties'), [text(name), { type: 'b', value: true }, properties(given)], ignore).then(() => settled(bus)),
        ),
      ),
    onReset: (listener) => void state.listeners.push(listener),
    close,
  };
}

/** @returns false instead of failing with this error. */
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

/** systemd answers when it has written all the cgroup values that were due before: it does so ahead of each look at the bus. */
function settled(bus: Bus): Promise<void> {
  return bus.call({ ...manager('Ping'), interface: 'org.freedesktop.DBus.Peer' }, [], ignore);
}

async function awaitJob(state: State, bus: Bus, method: BusMethod, values: readonly BusValue[]): Promise<void> {
  // Known as soon as the reply is read: the job's end may be the next message.
  const { result } = await bus.call(method, values, (reply) => {
    const path = reply.readText('o');
    return { result: new Promise<string>((resolve) => state.jobs.set(path, resolve)).finally(() => state.jobs.delete(path)) };
  });
  const word = await result;
  if (word === connectionLost) throw new BusError(connectionLost, 'the connection to D-Bus was lost');
  if (word !== 'done') throw new BusError('job', `its job ended as ${word}`);
}

/** Does a task on the bus, again when that is lost, until the deadline. */
async function asked<Result>(attempt: string, state: State, task: (bus: Bus) => Promise<Result>): Promise<Result> {
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    try {
      return await inTime(attempt, deadline - performance.now(), task(connection(state)));
    } catch (error) {
      if (error instanceof BerthError) throw error;
      const isLost = error instanceof BusError && error.busName === connectionLost;
      if (!isLost || state.isClosed || performance.now() + reconnectPauseMs >= deadline)
        throw internal(`${attempt}: systemd: ${reasonOf(error)}`, error);
    }
    await sleep(reconnectPauseMs);
  }
}

function inTime<Result>(attempt: string, ms: number, task: Promise<Result>): Promise<Result> {
  return new Promise((resolve, reject) => {
    const late = () => reject(new BerthError('DEADLINE_EXCEEDED', `${attempt}: systemd did not answer within ${timeoutMs / 1000} s`));
    const timer = setTimeout(late, ms);
    task.then(resolve, reject).finally(() => clearTimeout(timer));
  });
}

function connection(state: State): Bus {
  if (state.bus !== null) return state.bus;
  const bus = state.sdBus.open({ signal: (message) => hear(state, message), lost: () => lose(state) });
  state.bus = bus;
  for (const rule of matches) bus.call(busDaemon('AddMatch'), [text(rule)], ignore).catch(ignore);
  bus.call(manager('Subscribe'), [], ignore).catch(ignore);
  return bus;
}

function hear(state: State, message: BusMessage): void {
  if (message.member === 'JobRemoved') {
    // Its signature begins with the job's number.
    message.readNumber();
    const path = message.readText('o');
    message.readText('s');
    state.jobs.get(path)?.(message.readText('s'));
  }
  // `true` comes before it begins.
  if (message.member === 'Reloading' && !message.readBoolean()) reset(state);
  if (message.member === 'NameOwnerChanged') {
    const [, , owner] = [message.readText('s'), message.readText('s'), message.readText('s')];
    if (owner === '') return;
    state.bus?.call(manager('Subscribe'), [], ignore).catch(ignore);
    reset(state);
  }
}

/** Listeners are told when systemd has written what was due. */
function reset(state: State): void {
  asked('waiting for a reload', state, settled).then(() => {
    for (const listener of state.listeners) listener();
  }, ignore);
}

function lose(state: State): void {
  state.bus = null;
  for (const end of state.jobs.values()) end(connectionLost);
  if (!state.isClosed) regain(state);
}

/** For the signals: nobody may ask for anything for hours. */
function regain(state: State): void {
  const again = () => {
    if (state.isClosed) return;
    asked('connecting again', state, settled).then(
      () => {
        for (const listener of state.listeners) listener();
      },
      () => regain(state),
    );
  };
  setTimeout(again, reconnectPauseMs).unref();
}
