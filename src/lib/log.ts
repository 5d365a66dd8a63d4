/**
 * The daemon's log: JSON lines on standard error, one per operation. It never contains secrets or environment values.
 */
import { pino } from 'pino';

/** The logger interface that the rest of berth uses. */
export type Log = {
  readonly debug: (fields: object, message: string) => void;
  readonly info: (fields: object, message: string) => void;
  readonly warn: (fields: object, message: string) => void;
  readonly error: (fields: object, message: string) => void;
};

/** A logger whose level can be changed at run time. */
export type AdjustableLog = Log & { level: string };

/** @param level one of `trace`, `debug`, `info`, `warn`, `error`, `fatal`, `silent`. */
export function createLog(level: string): AdjustableLog {
  return pino({ level, base: null, timestamp: pino.stdTimeFunctions.isoTime }, pino.destination({ fd: 2, sync: true }));
}
