/**
 * The daemon's log: JSON lines on standard error, one per operation. No secret and no environment value ever goes in.
 */
import { pino } from 'pino';

/** What the rest of berth sees of a logger. */
export type Log = {
  readonly debug: (fields: object, message: string) => void;
  readonly info: (fields: object, message: string) => void;
  readonly warn: (fields: object, message: string) => void;
  readonly error: (fields: object, message: string) => void;
};

/** One whose level may be set while it is in use. */
export type AdjustableLog = Log & { level: string };

/** @param level `trace`, `debug`, `info`, `warn`, `error`, `fatal` or `silent`. */
export function createLog(level: string): AdjustableLog {
  return pino({ level, base: null, timestamp: pino.stdTimeFunctions.isoTime }, pino.destination({ fd: 2, sync: true }));
}
