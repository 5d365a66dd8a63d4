/**
 * Loads the first valid file of the CNI configuration directory and reloads it when anything changes.
 *
 * Watches the directory and also checks it on each call of current(): a watch may miss the replacement of its directory, and the node would stay
 * "not ready". Never runs a plugin, never writes.
 */
import { type BigIntStats, existsSync, type FSWatcher, readdirSync, readFileSync, statSync, watch } from 'node:fs';
import { dirname, join } from 'node:path';
import { reasonOf } from '../lib/errors.ts';
import { type NetworkList, type PluginFile, parseList } from './list.ts';

/** The signature of pino's methods. */
export type Log = {
  readonly info: (fields: object, message: string) => void;
  readonly warn: (fields: object, message: string) => void;
};

/** `skipped`: invalid files before `file`, each with the reason. `beside`: the files with further plugins of the list. */
export type Loaded =
  | { readonly list: NetworkList; readonly file: string; readonly beside: readonly string[]; readonly skipped: readonly string[] }
  | { readonly list: null; readonly reason: string };

export type Configuration = {
  /** Returns the configuration in effect. The `list` object stays the same while the content of the file does. */
  readonly current: () => Loaded;
  readonly close: () => void;
};

/** Files are often written in several steps: reload once, after the last one. */
const settleMs = 100;

/**
 * Loads and watches `confDir`, which need not exist yet.
 *
 * @param onChange called after each change of the configuration, but not for the first load.
 */
export function openConfiguration(deps: { readonly confDir: string; readonly log: Log; readonly onChange: () => void }): Configuration {
  const { confDir, log } = deps;
  let fingerprint = fingerprintOf(confDir, null);
  let loaded = load(confDir);
  report(log, loaded);

  const reload = () => {
    // Before load(): a change in between is noticed by the next call.
    const nextFingerprint = fingerprintOf(confDir, loaded);
    const next = load(confDir);
    fingerprint = nextFingerprint;
    if (describe(next) === describe(loaded)) return;
    loaded = next;
    fingerprint = fingerprintOf(confDir, loaded);
    report(log, loaded);
    deps.onChange();
  };
  const watching = watchPath(confDir, reload, log);
  return {
    current: () => {
      // Synchronous on purpose: two stat calls in the normal case, else a few small local files.
      if (loaded.list === null || fingerprintOf(confDir, loaded) !== fingerprint) reload();
      return loaded;
    },
    close: watching.close,
  };
}

/** Returns a text that is equal for equal configurations. */
function describe(loaded: Loaded): string {
  return loaded.list === null ? loaded.reason : JSON.stringify([loaded.file, loaded.list.raw, loaded.skipped]);
}

function report(log: Log, loaded: Loaded): void {
  if (loaded.list === null) log.warn({ reason: loaded.reason }, 'no CNI configuration');
  else log.info({ file: loaded.file, network: loaded.list.name, skipped: loaded.skipped }, 'CNI configuration loaded');
}

/** Returns a text that changes with the directory's entries, with the file in use, and with the files beside it. */
function fingerprintOf(confDir: string, loaded: Loaded | null): string {
  const paths = loaded?.list ? [confDir, loaded.file, join(confDir, loaded.list.name), ...loaded.beside] : [confDir];
  return paths
    .map(statOf)
    .map((found) => (found === null ? '-' : `${found.ino}:${found.mtimeNs}:${found.ctimeNs}:${found.size}`))
    .join(' ');
}

/** @returns null on any error: load() reports the reason. */
function statOf(path: string): BigIntStats | null {
  try {
    return statSync(path, { bigint: true });
  } catch {
    return null;
  }
}

/**
 * Loads the first valid list in lexical order of file names, even if its plugins are not installed yet:
 * while a network is being installed, pods must not be attached to the next one.
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
    let beside: readonly PluginFile[] = [];
    const readBeside = (network: string) => {
      beside = readPluginFiles(join(confDir, network));
      return beside;
    };
    try {
      const list = parseList(readFileSync(file, 'utf8'), name.endsWith('.conflist'), readBeside);
      return { list, file, beside: beside.map((each) => each.file), skipped };
    } catch (error) {
      skipped.push(`${file}: ${reasonOf(error)}`);
    }
  }
  return { list: null, reason: `no valid CNI configuration: ${skipped.join('; ')}` };
}

/** Reads `<directory>/*.conf` in lexical order. Source: libcni 1.3, NetworkPluginConfsFromFiles(). @throws when one cannot be read. */
function readPluginFiles(directory: string): readonly PluginFile[] {
  if (!existsSync(directory)) return [];
  const names = readdirSync(directory, { withFileTypes: true }).filter((each) => !each.isDirectory() && each.name.endsWith('.conf'));
  const files = names.map(({ name }) => join(directory, name)).sort();
  return files.map((file) => ({ file, text: readFileSync(file, 'utf8') }));
}

/** Watches a directory, or its nearest existing ancestor until the directory exists. */
function watchPath(path: string, onEvent: () => void, log: Log): { close: () => void } {
  let watcher: FSWatcher | undefined;
  let watched = '';
  let timer: NodeJS.Timeout | undefined;
  let isClosed = false;

  const arm = () => {
    // Repeated when the directory was created or removed between stat and watch.
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

/** Returns the inode and path of the nearest existing directory. The inode is included because a replaced directory needs a new watch. */
function nearest(path: string): string {
  const found = statOf(path);
  return found?.isDirectory() || path === dirname(path) ? `${found?.ino} ${path}` : nearest(dirname(path));
}

function pathOf(inodeAndPath: string): string {
  return inodeAndPath.slice(inodeAndPath.indexOf(' ') + 1);
}

function watchOnce(path: string, onEvent: () => void, log: Log): FSWatcher | undefined {
  try {
    const watcher = watch(path, { persistent: false }, onEvent);
    watcher.on('error', (error) => log.warn({ path, reason: error.message }, 'failed to watch the CNI configuration'));
    return watcher;
  } catch (error) {
    // No inotify watches left, or the directory was removed: current() still notices changes.
    log.warn({ path, reason: reasonOf(error) }, 'failed to watch the CNI configuration');
    return undefined;
  }
}
