/**
 * The configuration directory: its first valid file, known again when anything changes.
 *
 * Watched, and looked at again on each question as well: a watch may miss its directory's replacement, and nodes stay "not ready" for that.
 * Never runs a plugin, never writes.
 */
import { type BigIntStats, type FSWatcher, readdirSync, readFileSync, statSync, watch } from 'node:fs';
import { dirname, join } from 'node:path';
import { reasonOf } from '../lib/errors.ts';
import { type NetworkList, parseList } from './list.ts';

/** As pino's. */
export type Log = {
  readonly info: (fields: object, message: string) => void;
  readonly warn: (fields: object, message: string) => void;
};

/** `skipped`: what is wrong with the files before the one that was taken. */
export type Loaded =
  | { readonly list: NetworkList; readonly file: string; readonly skipped: readonly string[] }
  | { readonly list: null; readonly reason: string };

export type Configuration = {
  /** What holds now. The same `list` object as long as the file says the same. */
  readonly current: () => Loaded;
  readonly close: () => void;
};

/** Files are often written in several steps; one look after the last is enough. */
const settleMs = 100;

/**
 * Starts to watch `confDir`, which need not exist yet.
 *
 * @param onChange called after the configuration became another; not for the first.
 */
export function openConfiguration(deps: { readonly confDir: string; readonly log: Log; readonly onChange: () => void }): Configuration {
  const { confDir, log } = deps;
  let mark = markOf(confDir, null);
  let loaded = load(confDir);
  report(log, loaded);

  const reload = () => {
    // The mark before the files: a change in between is seen next time.
    const nextMark = markOf(confDir, loaded);
    const next = load(confDir);
    mark = nextMark;
    if (describe(next) === describe(loaded)) return;
    loaded = next;
    mark = markOf(confDir, loaded);
    report(log, loaded);
    deps.onChange();
  };
  const watching = watchPath(confDir, reload, log);
  return {
    current: () => {
      // Synchronous on purpose: two stats when all is well, else a few small local files.
      if (loaded.list === null || markOf(confDir, loaded) !== mark) reload();
      return loaded;
    },
    close: watching.close,
  };
}

/** Same text, same configuration. */
function describe(loaded: Loaded): string {
  return loaded.list === null ? loaded.reason : JSON.stringify([loaded.file, loaded.list.raw, loaded.skipped]);
}

function report(log: Log, loaded: Loaded): void {
  if (loaded.list === null) log.warn({ reason: loaded.reason }, 'no CNI configuration');
  else log.info({ file: loaded.file, network: loaded.list.name, skipped: loaded.skipped }, 'CNI configuration loaded');
}

/** Changes when the directory's list of files does, or the file in use. */
function markOf(confDir: string, loaded: Loaded | null): string {
  const paths = loaded?.list ? [confDir, loaded.file] : [confDir];
  return paths
    .map(statOf)
    .map((found) => (found === null ? '-' : `${found.ino}:${found.mtimeNs}:${found.ctimeNs}:${found.size}`))
    .join(' ');
}

/** Null for whatever reason: load() tells it. */
function statOf(path: string): BigIntStats | null {
  try {
    return statSync(path, { bigint: true });
  } catch {
    return null;
  }
}

/**
 * The first valid list in lexical order of file names, whether its plugins are installed or not:
 * while a network is being installed its pods must not land in the next one.
 */
function load(confDir: string): Loaded {
  let names: readonly string[];
  try {
    names = readdirSync(confDir)
      .filter((name) => /\.(conflist|conf|json)$/.test(name))
      .sort();
  } catch (error) {
    return { list: null, reason: `no CNI configuration: ${reasonOf(error)}` };
  }
  if (names.length === 0) return { list: null, reason: `no CNI configuration: ${confDir} has no *.conflist, *.conf or *.json` };
  const skipped: string[] = [];
  for (const name of names) {
    const file = join(confDir, name);
    try {
      return { list: parseList(readFileSync(file, 'utf8'), name.endsWith('.conflist')), file, skipped };
    } catch (error) {
      skipped.push(`${file}: ${reasonOf(error)}`);
    }
  }
  return { list: null, reason: `no valid CNI configuration: ${skipped.join('; ')}` };
}

/** Watches a directory, or its nearest ancestor until it is there. */
function watchPath(path: string, onEvent: () => void, log: Log): { close: () => void } {
  let watcher: FSWatcher | undefined;
  let watched = '';
  let timer: NodeJS.Timeout | undefined;
  let isClosed = false;

  const arm = () => {
    // Again when it came or went between the look and the watch.
    for (let next = nearest(path); next !== watched; next = nearest(path)) {
      watcher?.close();
      watched = next;
      watcher = watchOnce(pathOf(next), settle, log);
    }
  };
  const settle = () => {
    clearTimeout(timer);
    if (isClosed) return;
    timer = setTimeout(() => {
      arm();
      onEvent();
    }, settleMs).unref();
  };
  arm();
  return {
    close: () => {
      isClosed = true;
      clearTimeout(timer);
      watcher?.close();
    },
  };
}

/** Names the directory itself too: another of the same path needs another watch. */
function nearest(path: string): string {
  const found = statOf(path);
  return found?.isDirectory() || path === dirname(path) ? `${found?.ino} ${path}` : nearest(dirname(path));
}

function pathOf(named: string): string {
  return named.slice(named.indexOf(' ') + 1);
}

function watchOnce(path: string, onEvent: () => void, log: Log): FSWatcher | undefined {
  try {
    const watcher = watch(path, { persistent: false }, onEvent);
    watcher.on('error', (error) => log.warn({ path, reason: error.message }, 'watching for CNI configuration failed'));
    return watcher;
  } catch (error) {
    // Out of inotify watches, or gone again: questions still look.
    log.warn({ path, reason: reasonOf(error) }, 'watching for CNI configuration failed');
    return undefined;
  }
}
