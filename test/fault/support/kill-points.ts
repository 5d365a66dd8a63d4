/**
 * Kills this process with SIGKILL at its k-th kill point, to test what a killed daemon leaves behind. Load it before any other module: `node --import`.
 *
 * There is a kill point before each call with an effect that outlives the process: Node's file functions, and the system calls of src/sys through koffi.
 * A write, the removal of a tree and the start of a program have a second point in the middle or right after it.
 */
import { default as fs, type PathLike } from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
import { join } from 'node:path';
import koffi from 'koffi';

type Call = (...args: unknown[]) => unknown;

const state = { isArmed: false, count: 0, killAt: 0, onPoint: (_: string) => {} };
const original = { ...fs };

/**
 * Starts to count kill points.
 *
 * @param killAt the point at which the process is killed. The first point is 1; 0 only counts.
 * @param onPoint is called with the kill point, or with every point if killAt is 0.
 */
export function arm(killAt: number, onPoint: (description: string) => void): void {
  Object.assign(state, { isArmed: true, count: 0, killAt, onPoint });
}

/** Stops counting. @returns the number of points since arm(). */
export function disarm(): number {
  state.isArmed = false;
  return state.count;
}

/** Marks a kill point. @param doPart performs a part of the step before the process is killed. */
function killPoint(description: string, doPart?: () => void): void {
  if (!state.isArmed) return;
  state.count += 1;
  if (state.killAt === 0) state.onPoint(description);
  if (state.count !== state.killAt) return;
  state.isArmed = false;
  doPart?.();
  state.onPoint(description);
  process.kill(process.pid, 'SIGKILL');
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
}

/** Paths of open files. */
const paths = new Map<unknown, string>();
/** A partial write to a kernel file is not possible: the kernel expects the value in one write. */
const isKernelFile = (path: string) => path.startsWith('/sys/') || path.startsWith('/proc/');

const changing = ['mkdir', 'rename', 'rmdir', 'unlink', 'symlink', 'writeFile', 'truncate'];
const isCreation = (flags: unknown) => (typeof flags === 'string' ? /[wa]/.test(flags) : (Number(flags ?? 0) & 0o100) !== 0);

/** Adds kill points to file functions. @param table `fs`, where the suffix is Sync, or `fs.promises`. */
function wrapFiles(table: Record<string, Call>, suffix: string): void {
  const wrap = (name: string, before: (args: unknown[], call: Call) => void) => {
    const call = table[name + suffix] as Call;
    table[name + suffix] = (...args) => {
      before(args, call);
      return call(...args);
    };
  };
  for (const name of changing) wrap(name, ([path]) => killPoint(`${name} ${path}`));
  wrap('open', ([path, flags]) => isCreation(flags) && killPoint(`open ${path}`));
  wrap('rm', ([path]) => {
    killPoint(`rm ${path}`);
    const names = namesIn(String(path));
    if (names.length > 0) killPoint(`rm ${path}, half of it`, () => removeSome(String(path), names.slice(0, Math.ceil(names.length / 2))));
  });
}

function namesIn(path: string): string[] {
  try {
    return original.readdirSync(path).sort();
  } catch {
    return [];
  }
}

function removeSome(path: string, names: readonly string[]): void {
  for (const name of names) original.rmSync(join(path, name), { recursive: true, force: true });
}

function wrapWrites(): void {
  const { closeSync, openSync, writeSync } = fs;
  const table = fs as unknown as Record<string, Call>;
  table['openSync'] = (...args) => {
    const fd = openSync(...(args as [PathLike, string]));
    paths.set(fd, String(args[0]));
    return fd;
  };
  table['closeSync'] = (fd) => {
    paths.delete(fd);
    closeSync(fd as number);
  };
  table['writeSync'] = (...args) => {
    const [fd, data] = args as [number, string | Uint8Array];
    const path = paths.get(fd) ?? 'a descriptor';
    killPoint(`write ${path}`);
    if (!isKernelFile(path) && data.length > 1)
      killPoint(`write ${path}, half of it`, () => writeSync(fd, data.slice(0, data.length / 2) as Uint8Array));
    return (writeSync as unknown as Call)(...args);
  };
}

const changingCalls = new Set(['unshare', 'setns', 'sethostname', 'mount', 'umount2', 'mkdirat', 'posix_spawn']);
/** Numbers of syscall(2). */
const changingNumbers = new Map([
  [429, 'move_mount'],
  [424, 'pidfd_send_signal'],
]);

function wrapLibraries(): void {
  const table = koffi as unknown as { load: Call };
  const load = table.load;
  table.load = (...args) => {
    const library = load(...args) as { func: Call };
    const func = library.func.bind(library);
    return new Proxy(library, {
      get: (target, key) => (key === 'func' ? (...of: unknown[]) => wrapCall(of, func(...of) as Call) : Reflect.get(target, key)),
    });
  };
}

function wrapCall([signature]: unknown[], call: Call): Call {
  const name = /(\w+)\(/.exec(String(signature))?.[1] ?? '';
  if (name !== 'syscall' && !changingCalls.has(name)) return call;
  const wrapped: Call = (...args) => {
    const what = name === 'syscall' ? changingNumbers.get(Number(args[0])) : name;
    if (what === undefined) return call(...args);
    const texts = args.filter((arg) => typeof arg === 'string' && arg !== '').join(' ');
    killPoint(`${what} ${texts}`);
    if (what === 'posix_spawn') killPoint(`${what} ${texts}, done`, () => call(...args));
    // A slow child of the killed daemon must not continue while the next daemon is running.
    if (what === 'posix_spawn') killPoint(`${what} ${texts}, done but slow`, () => spawnStopped(args, call));
    return call(...args);
  };
  return Object.assign(wrapped, call);
}

/** Starts the program and stops it at once. */
function spawnStopped(args: unknown[], call: Call): void {
  call(...args);
  const [[pid]] = args as [[number]];
  process.kill(pid, 'SIGSTOP');
}

wrapFiles(fs as unknown as Record<string, Call>, 'Sync');
wrapFiles(fs.promises as unknown as Record<string, Call>, '');
wrapWrites();
wrapLibraries();
syncBuiltinESMExports();
