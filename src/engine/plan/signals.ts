/**
 * Converts names and numbers of signals of Linux on x86 and arm64: signal(7).
 *
 * Pure. Real-time signals are numbered as in the C library: SIGRTMIN is 34, because it uses 32 and 33 for threads.
 */
import { invalidArgument } from '../../lib/errors.ts';

/** The index is the number. */
const standardNames = [
  ...['', 'HUP', 'INT', 'QUIT', 'ILL', 'TRAP', 'ABRT', 'BUS', 'FPE', 'KILL', 'USR1', 'SEGV', 'USR2', 'PIPE', 'ALRM', 'TERM'],
  ...['STKFLT', 'CHLD', 'CONT', 'STOP', 'TSTP', 'TTIN', 'TTOU', 'URG', 'XCPU', 'XFSZ', 'VTALRM', 'PROF', 'WINCH', 'IO', 'PWR', 'SYS'],
];

const numberByName: ReadonlyMap<string, number> = new Map([
  ...standardNames.map((name, number): [string, number] => [name, number]).slice(1),
  ...Object.entries({ IOT: 6, CLD: 17, POLL: 29, INFO: 30, UNUSED: 31 }),
]);

const RTMIN = 34;
const RTMAX = 64;

/**
 * Returns the number of a signal.
 *
 * @param text as in an image's StopSignal or the CRI: `9`, `KILL`, `SIGKILL`, `SIGNAL_SIGKILL`, `SIGRTMIN+3`, `SIGRTMINPLUS3`, in any case.
 * @throws {BerthError} INVALID_ARGUMENT for any other text.
 */
export function parseSignal(text: string): number {
  const name = text
    .trim()
    .toUpperCase()
    .replace(/^SIGNAL_/, '')
    .replace(/^SIG/, '');
  const number = /^\d{1,3}$/.test(name) ? Number(name) : (numberByName.get(name) ?? realTimeNumber(name));
  if (number !== undefined && number >= 1 && number <= RTMAX) return number;
  throw invalidArgument(`unknown signal ${JSON.stringify(text.slice(0, 64))}`);
}

/** Returns `SIGTERM`, `SIGRTMIN+3`, `SIGRTMAX-2`, or the number if it has no name. Real-time signals count from the nearer end. */
export function signalName(number: number): string {
  if (number >= RTMIN && number <= RTMAX) return realTimeName(number);
  const name = standardNames[number];
  return name ? `SIG${name}` : String(number);
}

function realTimeNumber(name: string): number | undefined {
  const [, base, sign, digits] = /^RT(MIN|MAX)(?:(\+|-|PLUS|MINUS)(\d{1,2}))?$/.exec(name) ?? [];
  if (base === undefined) return undefined;
  const isUp = sign === '+' || sign === 'PLUS';
  if (sign !== undefined && isUp !== (base === 'MIN')) return undefined;
  const number = base === 'MIN' ? RTMIN + Number(digits ?? 0) : RTMAX - Number(digits ?? 0);
  return number >= RTMIN && number <= RTMAX ? number : undefined;
}

function realTimeName(number: number): string {
  if (number === RTMIN) return 'SIGRTMIN';
  if (number === RTMAX) return 'SIGRTMAX';
  return number - RTMIN <= 15 ? `SIGRTMIN+${number - RTMIN}` : `SIGRTMAX-${RTMAX - number}`;
}
