/**
 * Holds the sources against the project's own rules: layers, purity, cycles, dead code, size, and words that have no place in them.
 */
import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { basename, dirname, join, relative, resolve } from 'node:path';
import { test } from 'node:test';

const root = resolve(import.meta.dirname, '..');

/** Rooms of src and the rooms whose functions each may use. Types may be taken from engine/spec.ts everywhere. */
const mayImport: Readonly<Record<string, readonly string[]>> = {
  lib: [],
  sys: ['lib'],
  engine: ['sys', 'lib'],
  images: ['sys', 'lib'],
  cni: ['sys', 'lib'],
  cdi: ['lib'],
  streaming: ['engine', 'sys', 'lib'],
  cri: ['engine', 'images', 'streaming', 'lib'],
  commands: ['cri', 'engine', 'images', 'cni', 'sys', 'lib'],
  telemetry: ['cri', 'engine', 'images', 'sys', 'lib'],
  '': ['commands', 'telemetry', 'cri', 'engine', 'images', 'cni', 'cdi', 'streaming', 'sys', 'lib'],
};

/** Files with effects, by room; those of sys have them all, but for a few. Every other file is pure: it imports only pure files, of rooms its own may import, node:assert, and types. */
const effectful: Readonly<Record<string, readonly string[]>> = {
  '': ['main', 'node-images', 'serve'],
  commands: ['doctor-node', 'explain', 'image-command', 'image-transfers', 'top'],
  telemetry: ['cadvisor-server', 'metrics-server', 'observability', 'tracing'],
  cdi: ['device-files'],
  cni: ['cache', 'chain', 'config', 'invoke', 'network', 'probe'],
  cri: ['client', 'contract', 'import-images', 'methods', 'server', 'watched-pull', 'while-under-way'],
  engine: [
    'adopt-cgroup',
    'apparmor-profiles',
    'attach',
    'cgroup-driver',
    'checkpoint-archive',
    'checkpoint',
    'container-sources',
    'container',
    'criu',
    'details',
    'disk-quotas',
    'engine',
    'exec-session',
    'exec',
    'exits',
    'fuse-rootfs',
    'hooks',
    'host-devices',
    'image-volumes',
    'image-volumes',
    'inspect-root',
    'kept-plan',
    'layer-usage',
    'monitor-cgroup',
    'monitor-reports',
    'monitor',
    'native-rootfs',
    'open-pins',
    'pod-namespaces',
    'port-connect',
    'prepared-roots',
    'open-pins',
    'places',
    'pod-namespaces',
    'recover',
    'registers',
    'roots',
    'sandbox',
    'seccomp-filter',
    'stats',
    'store',
    'volumes',
    'watches',
  ],
  images: [
    'archive-documents',
    'archive-source',
    'assemble-layer',
    'authorizer',
    'blob',
    'contents',
    'decoder',
    'export-images',
    'host-client',
    'hosts-directory',
    'image-record',
    'import-images',
    'layer-failure',
    'layer-archive',
    'layer-names',
    'layer-stream',
    'layer-tree',
    'layer-writer',
    'layers',
    'obtain-image',
    'pull',
    'registry',
    'signature-policy',
    'signature',
    'spool-stream',
    'store',
    'transport',
    'unpack-worker',
    'unpack',
    'verify',
    'worker-pool',
  ],
  lib: ['log', 'metrics', 'unix-socket'],
  streaming: ['certificate', 'handshake', 'server', 'tokens'],
};
const pureInSys: readonly string[] = ['cgroup-counters', 'cgroup-details', 'cgroup-facts', 'cgroup-undo', 'net-dev', 'proc'];

/** Packages and built-in modules that compute and touch nothing, so that a pure file may use them. */
const pureModules = ['node:assert/strict', 'node:assert', 'smol-toml', 'node:path', 'node:path/posix', 'node:util', 'node:buffer'];

/** Exports that no file of src uses, each with the reason why it stays. */
const usedFromOutside: readonly string[] = [];

const functionLinesMax = 70;

type Import = { readonly from: string; readonly names: readonly string[]; readonly isTypeOnly: boolean };
type Source = { readonly path: string; readonly text: string; readonly imports: readonly Import[] };

const everySource = ['src', 'test', 'scripts', 'bench'].flatMap((top) => listFiles(join(root, top))).filter((path) => path.endsWith('.ts'));
const sources = everySource.map(readSource);
const product = sources.filter((source) => source.path.startsWith('src/') && !source.path.endsWith('.test.ts'));

test('imports go down the layers only', () => {
  const wrong = product.flatMap((source) => {
    const allowed = mayImport[roomOf(source.path)];
    assert.ok(allowed, `${source.path} lies in a room that the table does not know`);
    const own = roomOf(source.path);
    const other = source.imports.filter((each) => each.from.startsWith('src/') && roomOf(each.from) !== own && !isTypeOfSpec(each));
    return other.filter((each) => !allowed.includes(roomOf(each.from)) && !isConfigType(each)).map((each) => `${source.path} imports ${each.from}`);
  });
  assert.deepEqual(wrong, []);
});

test('a pure file imports nothing that has effects', () => {
  const wrong = product
    .filter((source) => isPure(source.path))
    .flatMap((source) =>
      source.imports
        .filter((each) => !each.isTypeOnly && !mayPureImport(source.path, each.from))
        .map((each) => `${source.path} imports ${each.from}`),
    );
  assert.deepEqual(wrong, []);
});

test('the table of files with effects names no file that is pure or gone', () => {
  const hasEffects = (path: string) =>
    product.some((source) => source.path === path && source.imports.some((each) => !each.isTypeOnly && !mayPureImport(path, each.from)));
  const files = Object.entries(effectful).flatMap(([room, names]) => names.map((name) => join('src', room, `${name}.ts`)));
  assert.deepEqual(
    files.filter((path) => !hasEffects(path)),
    [],
  );
});

test('only src/sys imports koffi', () => {
  const wrong = product.filter((source) => roomOf(source.path) !== 'sys' && source.imports.some((each) => each.from === 'koffi'));
  assert.deepEqual(
    wrong.map((source) => source.path),
    [],
  );
});

test('there is no import cycle', () => {
  assert.deepEqual(findCycle(), []);
});

test('every import leads to a file', () => {
  const wrong = sources.flatMap((source) =>
    source.imports.filter((each) => isOwn(each.from) && !existsSync(join(root, each.from))).map((each) => `${source.path}: ${each.from}`),
  );
  assert.deepEqual(wrong, []);
});

test('every file begins by saying what it is for', () => {
  const wrong = sources.filter((source) => !source.path.endsWith('.test.ts') && !/^(#!.*\n)?\/\*\*\s+(\* )?\S/.test(source.text));
  assert.deepEqual(
    wrong.map((source) => source.path),
    [],
  );
});

test('no file of the product is dead', () => {
  const wanted = new Set(
    sources.filter((source) => !isTestOf(source.path)).flatMap((source) => [...source.imports.map((each) => each.from), ...workersOf(source)]),
  );
  const dead = product.filter((source) => source.path !== 'src/main.ts' && !wanted.has(source.path));
  assert.deepEqual(
    dead.map((source) => source.path),
    [],
  );
});

test('no export is dead: nobody imports it, or tests alone do and its own file does not use it', () => {
  const importedBy = (those: readonly Source[]) =>
    new Set(those.flatMap((source) => source.imports.flatMap((each) => each.names.map((name) => `${each.from}:${name}`))));
  const used = importedBy(sources.filter((source) => !isTestOf(source.path)));
  const tested = importedBy(sources.filter((source) => isTestOf(source.path)));
  const isAlive = (source: Source, name: string) => {
    if (used.has(`${source.path}:${name}`) || used.has(`${source.path}:*`)) return true;
    return isUsedInside(source.text, name) && (isType(source.text, name) || tested.has(`${source.path}:${name}`));
  };
  const dead = product.flatMap((source) =>
    exportsOf(source.text)
      .filter((name) => !isAlive(source, name))
      .map((name) => `${source.path}:${name}`),
  );
  assert.deepEqual(
    dead.filter((name) => !usedFromOutside.includes(name)),
    [],
  );
});

test('every setting is used', () => {
  const config = product.find((source) => source.path === 'src/config.ts')?.text ?? '';
  const fields = [...(/export type Config = \{([\s\S]*?)\n\};/.exec(config)?.[1] ?? '').matchAll(/readonly (\w+):/g)].map((match) => match[1] ?? '');
  const others = product
    .filter((source) => source.path !== 'src/config.ts')
    .map((source) => source.text)
    .join('\n');
  assert.ok(fields.length > 10);
  assert.deepEqual(
    fields.filter((field) => !new RegExp(`\\b${field}\\b`).test(others)),
    [],
  );
});

test('an object that was handed in is spread before any named field, which it could overwrite', () => {
  const wrong = product.flatMap((source) =>
    [...source.text.matchAll(/\.\.\.((?:\w+\.)*(?:facts|settings|deps|config|context|timing))\b(?![.(])/g)]
      .filter((match) => !/(\{|\.\.\.[\w.]+,|const \{[^}]*)$/.test(source.text.slice(0, match.index).trimEnd()))
      .map((match) => `${source.path}: ${match[0]}`),
  );
  assert.deepEqual(wrong, []);
});

test('no type check is switched off', () => {
  const switches = /\bas any\b|@ts-(ignore|nocheck|expect-error)|biome-ignore lint\/suspicious\/noExplicitAny/;
  const wrong = sources.filter(
    (source) =>
      source.path !== 'test/tidy.test.ts' &&
      switches.test(source.text.replace(/^\s*(\*|\/\/|\/\*\*).*$/gm, (line) => (/@ts-|biome-ignore/.test(line) ? line : ''))),
  );
  assert.deepEqual(
    wrong.map((source) => source.path),
    [],
  );
});

test('no default export, re-export, index file, or inheritance except from Error', () => {
  const wrong = product.filter((source) => {
    return (
      /^export default|^export (\*|\{[^}]*\}|type \{[^}]*\}) from/m.test(source.text) ||
      /\/index\.ts$/.test(source.path) ||
      /class \w+ extends (?!Error\b)/.test(source.text)
    );
  });
  assert.deepEqual(
    wrong.map((source) => source.path),
    [],
  );
});

test('no state of a module changes', () => {
  const wrong = product.filter((source) => /^(export )?(let|var) /m.test(source.text));
  assert.deepEqual(
    wrong.map((source) => source.path),
    [],
  );
});

test(`no function is longer than ${functionLinesMax} lines`, () => {
  const wrong = product.flatMap((source) => longFunctions(source.text).map(({ name, lines }) => `${source.path}: ${name}: ${lines} lines`));
  assert.deepEqual(wrong, []);
});

test('the monitor keeps the same length of functions', () => {
  const files = listFiles(join(root, 'src/monitor')).filter((path) => path.endsWith('.c'));
  const wrong = files.flatMap((path) =>
    longCFunctions(readFileSync(path, 'utf8')).map(({ name, lines }) => `${relative(root, path)}: ${name}: ${lines} lines`),
  );
  assert.deepEqual(wrong, []);
});

test('no file names a machine, a registry of packages or an issue', () => {
  const words = ['/work' + '/', '../' + 'shared', 'deb' + '.debian.org', 'registry.' + 'npmjs', 'proxy.' + 'golang', 'py' + 'pi.org', 'issue' + ' #'];
  const files = [
    ...everySource,
    ...['README.md', 'ARCHITECTURE.md', 'package.json', 'package-lock.json', 'test/critest/images/make-parts'].map((name) => join(root, name)),
  ];
  const others = ['deploy', 'proto', 'src/monitor', 'scripts'].flatMap((top) => listFiles(join(root, top)));
  const wrong = [...files, ...others]
    .filter((path) => existsSync(path))
    .flatMap((path) => {
      const text = readFileSync(path, 'utf8');
      return words.filter((word) => text.includes(word)).map((word) => `${relative(root, path)}: ${word}`);
    });
  assert.deepEqual(wrong, []);
});

function listFiles(directory: string): string[] {
  if (!existsSync(directory)) return [];
  return readdirSync(directory, { withFileTypes: true }).flatMap((entry) => {
    const path = join(directory, entry.name);
    return entry.isDirectory() ? listFiles(path) : [path];
  });
}

function readSource(path: string): Source {
  const text = readFileSync(path, 'utf8');
  return { path: relative(root, path), text, imports: importsOf(relative(root, path), text) };
}

function importsOf(path: string, text: string): Import[] {
  const statements = [...text.matchAll(/^(?:import|export)\s+(type\s+)?([^'";]*?)\s*from\s+'([^']+)'/gm)].map(([, type, clause = '', from = '']) => ({
    type,
    clause,
    from,
  }));
  const calls = [...text.matchAll(/\bimport\('([^']+)'\)/g)].map(([, from = '']) => ({ type: undefined, clause: '', from }));
  return [...statements, ...calls].map(({ type, clause, from }) => {
    const members = (/\{([\s\S]*)\}/.exec(clause)?.[1] ?? '')
      .split(',')
      .map((name) => name.trim())
      .filter((name) => name !== '');
    const isTypeOnly = type !== undefined || (members.length > 0 && members.every((name) => name.startsWith('type ')) && /^\{/.test(clause));
    const names = members.map((name) => name.replace(/^type /, '').split(' as ')[0] ?? '');
    if (clause.includes('* as ')) names.push('*');
    return { from: from.startsWith('.') ? join(dirname(path), from) : from, names, isTypeOnly };
  });
}

/** The directory below src; '' for src itself. */
function roomOf(path: string): string {
  return path.split('/').length > 2 ? (path.split('/')[1] ?? '') : '';
}

const isOwn = (path: string) => /^(src|test|scripts|bench)\//.test(path);
const isTestOf = (path: string) => path.endsWith('.test.ts') || path.startsWith('test/');
const isTypeOfSpec = (each: Import) => each.isTypeOnly && each.from === 'src/engine/state/spec.ts';
const isConfigType = (each: Import) => each.isTypeOnly && each.from === 'src/config.ts';
const nameOf = (path: string) => basename(path, '.ts');
const isPure = (path: string) => (roomOf(path) === 'sys' ? pureInSys.includes(nameOf(path)) : !effectful[roomOf(path)]?.includes(nameOf(path)));

function mayPureImport(path: string, from: string): boolean {
  if (!isOwn(from)) return pureModules.includes(from);
  const own = roomOf(path);
  return isPure(from) && (roomOf(from) === own || (mayImport[own] ?? []).includes(roomOf(from)));
}

function workersOf(source: Source): string[] {
  return [...source.text.matchAll(/new URL\('(\.[^']+\.ts)', import\.meta\.url\)/g)].map(([, from = '']) => join(dirname(source.path), from));
}

function exportsOf(text: string): string[] {
  return [...text.matchAll(/^export (?:async )?(?:function\*?|const|class|type|interface) (\w+)/gm)].map(([, name = '']) => name);
}

/** Beside its declaration. */
function isUsedInside(text: string, name: string): boolean {
  return (text.match(new RegExp(`\\b${name}\\b`, 'g')) ?? []).length > 1;
}

function isType(text: string, name: string): boolean {
  return new RegExp(`^export (type|interface) ${name}\\b`, 'm').test(text);
}

/** @returns the files of a cycle of imports, types included; none when there is none. */
function findCycle(): string[] {
  const byPath = new Map(product.map((source) => [source.path, source]));
  const done = new Set<string>();
  const visit = (path: string, trail: readonly string[]): string[] => {
    if (trail.includes(path)) return [...trail.slice(trail.indexOf(path)), path];
    if (done.has(path)) return [];
    done.add(path);
    for (const { from } of byPath.get(path)?.imports ?? []) {
      const cycle = byPath.has(from) ? visit(from, [...trail, path]) : [];
      if (cycle.length > 0) return cycle;
    }
    return [];
  };
  return product.reduce<string[]>((found, source) => (found.length > 0 ? found : visit(source.path, [])), []);
}

/** Own lines of each function: those of functions inside it are theirs. By indentation, which the formatter guarantees. */
function longFunctions(text: string): { name: string; lines: number }[] {
  const all = functionsOf(text.split('\n'));
  return all.flatMap((each) => {
    const inside = all.filter((other) => other.start > each.start && other.end <= each.end);
    const direct = inside.filter((other) => !inside.some((outer) => outer.start < other.start && other.end <= outer.end));
    const lines = each.end - each.start + 1 - direct.reduce((sum, other) => sum + other.end - other.start + 1, 0);
    return lines > functionLinesMax ? [{ name: each.name, lines }] : [];
  });
}

function functionsOf(lines: readonly string[]): { name: string; start: number; end: number }[] {
  return lines.flatMap((line, start) => {
    const head = /^(\s*)(?:export )?(?:async )?(?:function\*? (\w+)|const (\w+) = (?:async )?(?:<[^>]*>)?(?:\([^)]*\)|\w+)[^=]*=>)/.exec(line);
    if (!head || /[;}]\s*$/.test(line)) return [];
    const [, indent = '', named, assigned] = head;
    const end = start + 1 + lines.slice(start + 1).findIndex((later) => later === `${indent}}` || later === `${indent}};`);
    return [{ name: named ?? assigned ?? '', start, end }];
  });
}

function longCFunctions(text: string): { name: string; lines: number }[] {
  const lines = text.split('\n');
  return lines.flatMap((line, start) => {
    const isHead = line === '{' || (/^\w.*\)\s*\{$/.test(line) && !line.includes('='));
    if (!isHead) return [];
    const length = lines.slice(start + 1).indexOf('}') + 2;
    return length > functionLinesMax ? [{ name: (line === '{' ? lines[start - 1] : line) ?? '', lines: length }] : [];
  });
}
