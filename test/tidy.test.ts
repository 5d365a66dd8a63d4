/**
 * Holds the sources against the project's own rules: layers, purity, cycles, dead code, size, and words that have no place in them.
 */
import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { basename, dirname, join, relative, resolve } from 'node:path';
import { test } from 'node:test';

const root = resolve(import.meta.dirname, '..');

/** Modules of src, and the modules whose functions each may use. */
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

/** Folders of a module in the order of its layers: a file may import from its own folder and from later ones. '' is the module's own folder. */
const folders: Readonly<Record<string, readonly string[]>> = {
  engine: ['', ...words('checkpoint exec lifecycle sources usage oom monitor seccomp plan cgroup rootfs state')],
  images: words('archive pull store unpack layer tar signature registry document'),
  cri: ['', ...words('rpc/runtime rpc/sandbox rpc/container rpc/stats rpc/image rpc/berth rpc to-response from-request wire')],
  sys: ['', ...words('network cgroup systemd process mount filesystem library call')],
};

/** Folders without side effects. In other folders a file without them says so in its header ("Pure"), and is held to it. */
const pureFolders: readonly string[] = [
  ...words('engine/plan engine/seccomp engine/cgroup engine/oom images/document images/tar'),
  ...words('cri/rpc cri/rpc/runtime cri/rpc/sandbox cri/rpc/container cri/rpc/stats cri/rpc/image cri/to-response cri/from-request cri/wire'),
];

/** Types that every module may take from another: they describe what the modules hand to each other. */
const sharedTypes: readonly string[] = ['src/engine/state/spec.ts', 'src/config.ts'];

/** Packages and built-in modules that only compute, so that a pure file may use them. */
const pureModules = ['node:assert/strict', 'node:assert', 'smol-toml', 'node:path', 'node:path/posix', 'node:util', 'node:buffer', 'node:zlib'];

/** Exports that no file of src uses, each with the reason why it stays. */
const usedFromOutside: readonly string[] = [];

/** Of a whole function, with the functions inside it. */
const functionLinesMax = 70;
const filesPerFolderMax = 25;

type Import = { readonly from: string; readonly names: readonly string[]; readonly isTypeOnly: boolean };
type Source = { readonly path: string; readonly text: string; readonly imports: readonly Import[] };

const everySource = ['src', 'test', 'scripts', 'bench'].flatMap((top) => listFiles(join(root, top))).filter((path) => path.endsWith('.ts'));
const sources = everySource.map(readSource);
const textOf = new Map(sources.map((source) => [source.path, source.text]));
const product = sources.filter((source) => source.path.startsWith('src/') && !source.path.endsWith('.test.ts'));

test('imports go down the layers only', () => {
  const wrong = product.flatMap((source) => {
    const own = moduleOf(source.path);
    const allowed = mayImport[own];
    assert.ok(allowed, `${source.path} is in a module that the table does not name`);
    const others = source.imports.filter((each) => each.from.startsWith('src/') && moduleOf(each.from) !== own && !isSharedType(each));
    return others.filter((each) => !allowed.includes(moduleOf(each.from))).map((each) => `${source.path} imports ${each.from}`);
  });
  assert.deepEqual(wrong, []);
});

test('folders of a module import from themselves and from later ones', () => {
  const wrong = product.flatMap((source) => {
    const own = moduleOf(source.path);
    const order = folders[own] ?? [''];
    const place = (path: string) => {
      const index = order.indexOf(folderOf(path));
      assert.ok(index >= 0, `${path} is in a folder that the table does not name`);
      return index;
    };
    const inside = source.imports.filter((each) => each.from.startsWith('src/') && moduleOf(each.from) === own && !isDepsType(each));
    return inside.filter((each) => place(each.from) < place(source.path)).map((each) => `${source.path} imports ${each.from}`);
  });
  assert.deepEqual(wrong, []);
});

test('the tables of folders name no folder that is gone', () => {
  const present = new Set(product.map((source) => dirname(source.path).slice('src/'.length)));
  const named = [...Object.entries(folders).flatMap(([module, names]) => names.map((name) => join(module, name))), ...pureFolders];
  assert.deepEqual(
    named.filter((name) => !present.has(name)),
    [],
  );
});

test(`no folder has more than ${filesPerFolderMax} files`, () => {
  const counts = new Map<string, number>();
  for (const { path } of product) counts.set(dirname(path), (counts.get(dirname(path)) ?? 0) + 1);
  assert.deepEqual(
    [...counts].filter(([, count]) => count > filesPerFolderMax),
    [],
  );
});

test('a pure file imports nothing that has side effects', () => {
  const wrong = product
    .filter((source) => isPure(source.path))
    .flatMap((source) =>
      source.imports.filter((each) => !each.isTypeOnly && !mayPureImport(each.from)).map((each) => `${source.path} imports ${each.from}`),
    );
  assert.deepEqual(wrong, []);
});

test('a file that imports no side effects says so in its header: "Pure", "Types only", "Data only" or "no I/O"', () => {
  const silent = product.filter((source) => !isPure(source.path) && !hasEffects(source.path));
  assert.deepEqual(
    silent.map((source) => source.path),
    [],
  );
});

test('only src/sys imports koffi', () => {
  const wrong = product.filter((source) => moduleOf(source.path) !== 'sys' && source.imports.some((each) => each.from === 'koffi'));
  assert.deepEqual(
    wrong.map((source) => source.path),
    [],
  );
});

test('there is no import cycle', () => {
  assert.deepEqual(findCycle(new Map(product.map((source) => [source.path, source.imports.map(({ from }) => from)]))), []);
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
  const keys = [...config.matchAll(/^ {2,4}(?:\{ )?key: '(\w+)'/gm)].map((match) => match[1] ?? '');
  const fields = keys.map((key) => key.replace(/_(\w)/g, (_, letter: string) => letter.toUpperCase()));
  const others = product
    .filter((source) => source.path !== 'src/config.ts')
    .map((source) => source.text)
    .join('\n');
  assert.ok(fields.length > 10);
  assert.deepEqual(
    fields.filter((field) => !new RegExp(`\\b${field}\\b`).test(others) && !new RegExp(`\\{ .*\\b${field}\\b.* \\}: Config\\)`).test(config)),
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

test('no file of the monitor calls one that calls it', () => {
  const files = listFiles(join(root, 'src/monitor')).filter((path) => path.endsWith('.c'));
  const texts = new Map(files.map((path) => [relative(root, path), readFileSync(path, 'utf8').replace(/\/\*[\s\S]*?\*\/|"(?:[^"\\]|\\.)*"/g, '')]));
  const definedIn = (text: string) => [...text.matchAll(/^(?!static|\s)[\w ]+?[ *](\w+)\([^;{]*\)\s*\{/gm)].map(([, name = '']) => name);
  const owner = new Map([...texts].flatMap(([path, text]) => definedIn(text).map((name): [string, string] => [name, path])));
  const callsOf = (path: string) => {
    const called = [...(texts.get(path) ?? '').matchAll(/\b(\w+)\(/g)].flatMap(([, name = '']) => owner.get(name) ?? []);
    return [...new Set(called)].filter((other) => other !== path);
  };
  assert.ok(owner.size > 10);
  assert.deepEqual(findCycle(new Map([...texts.keys()].map((path) => [path, callsOf(path)]))), []);
});

test('the functions of the monitor keep the same length', () => {
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
function moduleOf(path: string): string {
  return path.split('/').length > 2 ? (path.split('/')[1] ?? '') : '';
}

/** The folder inside its module; '' for the module's own. */
function folderOf(path: string): string {
  return path.split('/').slice(2, -1).join('/');
}

function words(text: string): string[] {
  return text.split(' ');
}

const isOwn = (path: string) => /^(src|test|scripts|bench)\//.test(path);
const isTestOf = (path: string) => path.endsWith('.test.ts') || path.startsWith('test/');
const isSharedType = (each: Import) => each.isTypeOnly && sharedTypes.includes(each.from);
/** What a module works with is built at its top and used everywhere in it. */
const isDepsType = (each: Import) => each.isTypeOnly && basename(each.from) === 'deps.ts' && folderOf(each.from) === '';

function isPure(path: string): boolean {
  const header = /^(?:#!.*\n)?\/\*\*[\s\S]*?\*\//.exec(textOf.get(path) ?? '')?.[0] ?? '';
  return pureFolders.includes(dirname(path).slice('src/'.length)) || /\b(Pure|Types only|Data only|[Nn]o I\/O)\b/.test(header);
}

function mayPureImport(from: string): boolean {
  return isOwn(from) ? isPure(from) : pureModules.includes(from);
}

/** Whether it imports, directly or not, what has side effects. */
function hasEffects(path: string, seen = new Set<string>()): boolean {
  if (seen.has(path)) return false;
  seen.add(path);
  const used = (product.find((source) => source.path === path)?.imports ?? []).filter((each) => !each.isTypeOnly);
  return used.some(({ from }) => (isOwn(from) ? hasEffects(from, seen) : !pureModules.includes(from)));
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

/** @returns the files of a cycle, types included; none when there is none. */
function findCycle(uses: ReadonlyMap<string, readonly string[]>): string[] {
  const done = new Set<string>();
  const visit = (path: string, trail: readonly string[]): string[] => {
    if (trail.includes(path)) return [...trail.slice(trail.indexOf(path)), path];
    if (done.has(path)) return [];
    done.add(path);
    for (const other of uses.get(path) ?? []) {
      const cycle = uses.has(other) ? visit(other, [...trail, path]) : [];
      if (cycle.length > 0) return cycle;
    }
    return [];
  };
  return [...uses.keys()].reduce<string[]>((found, path) => (found.length > 0 ? found : visit(path, [])), []);
}

/** Functions, methods and arrow functions, each as a whole. By indentation, which the formatter guarantees. */
function longFunctions(text: string): { name: string; lines: number }[] {
  const lines = text.split('\n');
  return lines.flatMap((line, start) => {
    const head = functionHeads.map((pattern) => pattern.exec(line)).find((match) => match !== null);
    if (!head || /[;}]\s*$/.test(line)) return [];
    const [, indent = '', name = ''] = head;
    // Parameters on lines of their own end with the body's brace; a call's arguments do not.
    const close = line.endsWith('(') ? lines.slice(start + 1).find((later) => later.startsWith(`${indent})`)) : line;
    if (!close?.endsWith('{') && !close?.endsWith('=>')) return [];
    const length = lines.slice(start + 1).findIndex((later) => later.startsWith(`${indent}}`) && !later.endsWith('{')) + 2;
    return length > functionLinesMax ? [{ name, lines: length }] : [];
  });
}

const functionHeads = [
  /^(\s*)(?:export )?(?:async )?function\*? (\w+)/,
  /^(\s*)(?:export )?(?:const (\w+) = |return )(?:async )?(?:<[^>]*>)?\(?[^=]*=>/,
  /^(\s*)(\w+): (?:async )?(?:\([^)]*\)|\w+)[^=]*=> \{$/,
  /^(\s+)(?:static |async |get |set |\*)*(#?(?!(?:if|for|while|switch|catch|return|await)\b)\w+)(?:<[^>]*>)?\((?:.*\{)?$/,
];

function longCFunctions(text: string): { name: string; lines: number }[] {
  const lines = text.split('\n');
  return lines.flatMap((line, start) => {
    const isHead = line === '{' || (/^\w.*\)\s*\{$/.test(line) && !line.includes('='));
    if (!isHead) return [];
    const length = lines.slice(start + 1).indexOf('}') + 2;
    return length > functionLinesMax ? [{ name: (line === '{' ? lines[start - 1] : line) ?? '', lines: length }] : [];
  });
}
