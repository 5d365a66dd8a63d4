/**
 * Makes a process end by SIGKILL at its k-th step that changes the machine, for tests of what a dead daemon leaves. Loaded before all else: `node --import`.
 *
 * A step is a system call with an effect that outlives the process: of Node's file functions, and of those that src/sys makes through koffi. The process
 * ends just before it; for a write, the removal of a tree and the start of a program there is a second point, in the middle or right after.
 */
import { default as fs, type PathLike } from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
import { join } from 'node:path';
import koffi from 'koffi';

type Call = (...args: unknown[]) => unknown;

const state = { isArmed: false, count: 0, killAt: 0, onPoint: (_: string) => {} };
const original = { ...fs };

/** Counts from here on. @param killAt the first point is 1; 0 only counts. @param onPoint is told of the point that kills, or of all when none does. */
export function arm(killAt: number, onPoint: (description: string) => void): void {
  Object.assign(state, { isArmed: true, count: 0, killAt, onPoint });
}

/** @returns how many points there were since arm(). */
export function disarm(): number {
  state.isArmed = false;
  return state.count;
}

/** @param halfway what is done of the step before the process ends. */
function pass(description: string, halfway?: () => void): void {
  if (!state.isArmed) return;
  state.count += 1;
  if (state.killAt === 0) state.onPoint(description);
  if (state.count !== state.killAt) return;
  state.isArmed = false;
  halfway?.();
  state.onPoint(description);
  process.kill(process.pid, 'SIGKILL');
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
}

/** Paths of files that are open for writing: the kernel's take a value in one write only. */
const paths = new Map<unknown, string>();
const isKernels = (path: string) => path.startsWith('/sys/') || path.startsWith('/proc/');

const changing = ['mkdir', 'rename', 'rmdir', 'unlink', 'symlink', 'writeFile', 'truncate'];
const isCreation = (flags: unknown) => (typeof flags === 'string' ? /[wa]/.test(flags) : (Number(flags ?? 0) & 0o100) !== 0);

/** @param table of functions: `fs`, where their names end in Sync, or `fs.promises`. */
function wrapFiles(table: Record<string, Call>, suffix: string): void {
  const wrap = (name: string, before: (args: unknown[], call: Call) => void) => {
    const call = table[name + suffix] as Call;
    table[name + suffix] = (...args) => {
      before(args, call);
      return call(...args);
    };
  };
  for (const name of changing) wrap(name, ([path]) => pass(`${name} ${path}`));
  wrap('open', ([path, flags]) => isCreation(flags) && pass(`open ${path}`));
  wrap('rm', ([path]) => {
    pass(`rm ${path}`);
    const names = namesIn(String(path));
    if (names.length > 0) pass(`rm ${path}, half of it`, () => removeSome(String(path), names.slice(0, Math.ceil(names.length / 2))));
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
    pass(`write ${path}`);
    if (!isKernels(path) && data.length > 1) pass(`write ${path}, half of it`, () => writeSync(fd, data.slice(0, data.length / 2) as Uint8Array));
    return (writeSync as unknown as Call)(...args);
  };
}

const changingCalls = new Set(['unshare', 'setns', 'sethostname', 'mount', 'umount2', 'mkdirat', 'posix_spawn']);
/** Of syscall(2): move_mount, pidfd_send_signal. */
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
    const words = args.filter((arg) => typeof arg === 'string' && arg !== '').join(' ');
    pass(`${what} ${words}`);
    if (what === 'posix_spawn') pass(`${what} ${words}, done`, () => call(...args));
    // Who is slow must not go on behind the back of the next daemon.
    if (what === 'posix_spawn') pass(`${what} ${words}, done but slow`, () => stopBegun(args, call));
    return call(...args);
  };
  return Object.assign(wrapped, call);
}

function stopBegun(args: unknown[], call: Call): void {
  call(...args);
  const [[pid]] = args as [[number]];
  process.kill(pid, 'SIGSTOP');
}

wrapFiles(fs as unknown as Record<string, Call>, 'Sync');
wrapFiles(fs.promises as unknown as Record<string, Call>, '');
wrapWrites();
wrapLibraries();
syncBuiltinESMExports();
