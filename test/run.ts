/**
 * Runs the tests, one part after the other, and counts them: `npm test`.
 *
 *   bin/node test/run.ts                       all parts
 *   bin/node test/run.ts unit|fuzz|root|fault  all parts of a kind; `unit` needs neither root nor Go nor apt
 *   bin/node test/run.ts PART ...              parts by name, such as root/pull
 *   bin/node test/run.ts WORD ...              every test file whose path contains the word, such as spdy
 *
 * Ends with the failures and `N passed, N failed, N skipped` over all parts; exits with 1 when anything failed. A part that this machine cannot run is
 * skipped, with the reason.
 */
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { delimiter, dirname, join, resolve } from 'node:path';
import { hasTools, prepareTools } from './critest/prepare.ts';
import { whyNoFreshRoot } from './fresh/root.ts';
import { prepareFor } from './preparations.ts';
import { whyNoVm } from './vm/image.ts';
import { vmParts, vmSpecs } from './vm/parts.ts';

type Counts = { readonly passed: number; readonly failed: number; readonly skipped: number };

/** Failures, repeated at the end of the output. */
const failures: string[] = [];

type Part = {
  readonly name: string;
  /** Why this machine cannot run it; undefined when it can. */
  readonly lacks?: string | undefined;
  /** Downloads and builds what the part needs; the part itself runs without a network. */
  readonly prepare?: () => void;
  readonly run: () => Promise<Counts>;
};

const root = resolve(import.meta.dirname, '..');
const outputDir = join(root, 'build/test');
/**
 * Node removes types with WebAssembly. V8's change to the optimizing compiler in the middle of it costs more time than it saves, and ended a test in the
 * virtual machine with a failed check in Runtime_WasmTriggerTierUp (Node 24.21).
 */
const node = [process.execPath, '--liftoff-only'];

/** Programs that tests start as `node` are this one; tsc and biome are those of the project. */
const env = { ...process.env, PATH: [dirname(process.execPath), join(root, 'node_modules/.bin'), process.env['PATH']].join(delimiter) };

const minute = 60_000;
const notRoot = process.getuid?.() === 0 ? undefined : 'not root';
const hasGo = spawnSync('go', ['version']).status === 0;
const noGo = hasGo || hasTools() ? undefined : 'no Go to build critest and crictl with (Debian: a golang of 1.26 or newer)';
const noDaemon = existsSync(join(root, 'dist/berth.mjs')) ? undefined : 'the daemon is not built: npm run build';
const noMonitor = existsSync(join(root, 'build/monitor')) ? undefined : 'the monitor is not built: npm run build';

/** A mount and a network namespace of its own. */
const isolated = ['unshare', '--mount', '--net', '--propagation', 'private'];

/** The tests of modules, which need nothing but Node. */
const unitFiles = testsBelow('src', 'test/critest', 'test/prison', 'scripts', 'bench', 'test/tidy.test.ts', 'test/docs.test.ts');
const isolatedParts = [...testsBelow('test/fuzz'), ...testsBelow('test/root'), ...testsBelow('test/fault')].map((file): Part => {
  return {
    name: nameOf(file),
    lacks: notRoot ?? noMonitor,
    prepare: () => prepareFor(file),
    run: () => nodeTests(file, [file], isolated, 15 * minute),
  };
});

const parts: readonly Part[] = [
  { name: 'types', run: () => one('types', ['tsc', '-p', '.'], 5 * minute) },
  { name: 'lint', run: () => one('lint', ['biome', 'ci', '--error-on-warnings'], 5 * minute) },
  { name: 'unit', run: () => unitTests('unit', unitFiles) },
  ...isolatedParts,
  { name: 'walk', lacks: notRoot ?? noGo ?? noDaemon, prepare: tools, run: () => counting('walk', [...node, 'test/critest/walk.ts'], 15 * minute) },
  {
    name: 'critest',
    lacks: notRoot ?? noGo ?? noDaemon,
    prepare: tools,
    run: () => counting('critest', [...node, 'test/critest/run.ts'], 25 * minute),
  },
  {
    name: 'critest/user-namespaces',
    lacks: notRoot ?? noGo ?? noDaemon,
    prepare: tools,
    run: () => counting('critest/user-namespaces', [...node, 'test/critest/run.ts', '--user-namespaces', ...userNamespaceSpecs], 10 * minute),
  },
  { name: 'fresh', lacks: whyNoFreshRoot(), run: () => counting('fresh', [...node, 'test/fresh/run.ts'], 20 * minute) },
  {
    name: 'vm',
    lacks: whyNoVm() ?? noDaemon,
    prepare: () => {
      tools();
      for (const name of vmParts) prepareFor(`test/${name}.test.ts`);
    },
    run: () => counting('vm', [...inVm, ...node, 'test/run.ts', ...vmParts, ...partsOfVm.map((part) => part.name)], 30 * minute),
  },
];

/** Specs whose objects a user namespace changes most. All specs take three minutes. */
const userNamespaceSpecs = ['Networking', 'Streaming', 'NamespaceOption', 'Container Mount', 'SupplementalGroups', 'support exec'];

/** A node as most clusters have it: systemd, cgroup v2, AppArmor. */
const inVm = [...node, 'test/vm/run.ts', '--systemd', '--apparmor', '--timeout', '1740'];

/** Parts that need that machine: the part `vm` names them there. */
const partsOfVm: readonly Part[] = [
  ...testsBelow('test/vm').map((file): Part => {
    return { name: nameOf(file), run: () => nodeTests(file, [file], [], 10 * minute) };
  }),
  {
    // Not isolated: systemd knows processes by their pids outside.
    name: 'vm/critest',
    lacks: noGo,
    prepare: tools,
    run: () => counting('vm/critest', ['env', 'BERTH_TEST_ISOLATED=machine', ...node, 'test/critest/run.ts', '--all', ...vmSpecs], 15 * minute),
  },
];

/** Ten minutes of emulation: only when named, in that machine. */
const prisonOfVm: Part = {
  name: 'vm/prison',
  run: () => nodeTests('vm/prison', ['test/root/prison.test.ts'], ['env', 'BERTH_TEST_ISOLATED=machine'], 30 * minute),
};

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  process.stderr.write(`test: ${(error as Error).message}\n`);
  process.exitCode = 1;
}

async function main(names: readonly string[]): Promise<number> {
  if (names[0] === '--one' && names.length === 1) throw new Error('name a part or a word of a file path: npm run test:one -- spdy');
  const chosen = names.length === 0 ? parts : [...new Set(names.filter((name) => name !== '--one').flatMap(partsCalled))];
  mkdirSync(outputDir, { recursive: true });
  const cgroupsBefore = cgroups();
  const results: Counts[] = [];
  for (const part of chosen) results.push(await runPart(part));
  if (chosen.some(({ name }) => !/^(types|lint|unit)/.test(name))) results.push(leftovers(cgroupsBefore));
  const sum = (key: keyof Counts) => results.reduce((total, counts) => total + counts[key], 0);
  if (failures.length > 0) say(`\nfailed:\n${failures.join('\n')}`);
  say(`\n${sum('passed')} passed, ${sum('failed')} failed, ${sum('skipped')} skipped`);
  return sum('failed') > 0 || sum('passed') === 0 ? 1 : 0;
}

/** @param word a kind, a part, or a part of a file's path. @throws Error when nothing has that name. */
function partsCalled(word: string): readonly Part[] {
  const name = nameOf(word);
  const exact = [...parts, ...partsOfVm, prisonOfVm].filter((part) => part.name === name || part.name.startsWith(`${name}/`));
  if (exact.length > 0) return exact;
  const units = unitFiles.filter((file) => file.includes(name));
  const found = isolatedParts.filter((part) => part.name.includes(name));
  if (units.length > 0) found.unshift({ name: `unit (${name})`, run: () => unitTests(`unit-${name.replaceAll('/', '-')}`, units) });
  if (found.length === 0) throw new Error(`no part and no test file is called ${name}; parts: ${parts.map((part) => part.name).join(', ')}`);
  return found;
}

/** Builds critest and crictl, where there is Go. */
function tools(): void {
  if (hasGo) prepareTools();
}

async function runPart(part: Part): Promise<Counts> {
  if (part.lacks !== undefined) {
    say(`== ${part.name}: skipped: ${part.lacks}`);
    return { passed: 0, failed: 0, skipped: 1 };
  }
  part.prepare?.();
  const startedAt = performance.now();
  const counts = await part.run();
  const seconds = ((performance.now() - startedAt) / 1000).toFixed(0);
  say(`== ${part.name}: ${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped in ${seconds} s`);
  return counts;
}

/** A command that is one test: its exit code tells. */
async function one(name: string, command: readonly string[], timeoutMs: number): Promise<Counts> {
  const { isGood, output } = await execute(name, command, timeoutMs);
  if (!isGood) failures.push(`${name}:`, ...lastLinesOf(output));
  return { passed: isGood ? 1 : 0, failed: isGood ? 0 : 1, skipped: 0 };
}

/** A program that ends with `N passed, N failed, N skipped`, in which known failures count as failed; its exit code tells whether it is good. */
async function counting(name: string, command: readonly string[], timeoutMs: number): Promise<Counts> {
  const { isGood, output } = await execute(name, command, timeoutMs);
  const [, passed = 0, failed = 0, skipped = 0] = /(\d+) passed, (\d+) failed, (\d+) skipped\s*$/.exec(output) ?? [];
  // Listed failures are expected, so they are no failures of this run.
  if (isGood) return { passed: Number(passed), failed: 0, skipped: Number(skipped) + Number(failed) };
  failures.push(`${name}:`, ...lastLinesOf(output));
  return { passed: Number(passed), failed: Math.max(1, Number(failed)), skipped: Number(skipped) };
}

/** All files in one process: a process for each of them takes twice the time. */
function unitTests(name: string, files: readonly string[]): Promise<Counts> {
  return nodeTests(name, ['--test-isolation=none', ...files], [], 10 * minute);
}

/** @param files may begin with options of Node's test runner. */
async function nodeTests(name: string, files: readonly string[], prefix: readonly string[], timeoutMs: number): Promise<Counts> {
  const report = join(outputDir, `${name.replaceAll('/', '-')}.tap`);
  rmSync(report, { force: true });
  const reporters = ['--test-reporter=spec', '--test-reporter-destination=stdout', '--test-reporter=tap', `--test-reporter-destination=${report}`];
  const { isGood, output } = await execute(name, [...prefix, ...node, '--test', ...reporters, ...files], timeoutMs);
  const tap = existsSync(report) ? readFileSync(report, 'utf8') : '';
  const count = (key: string) => Number(new RegExp(`^# ${key} (\\d+)$`, 'm').exec(tap)?.[1] ?? 0);
  const failed = count('fail') + count('cancelled');
  if (!isGood || failed > 0) {
    const named = failuresIn(tap);
    failures.push(`${name}:`, ...(named.length > 0 ? named : lastLinesOf(output)));
  }
  return { passed: count('pass'), failed: isGood ? failed : Math.max(1, failed), skipped: count('skipped') + count('todo') };
}

/** Names of the tests that failed, in the report of TAP, and what each said. */
function failuresIn(tap: string): string[] {
  return tap.split(/^(?= *not ok )/m).flatMap((block) => {
    const [line = ''] = block.split('\n');
    if (!/^ *not ok /.test(line)) return [];
    const said = /^( *)error: [|>]-?\n((?:\1 +.*\n|\n)*)/m.exec(block)?.[2] ?? /^ *error: (.*)$/m.exec(block)?.[1] ?? '';
    const lines = said.split('\n').map((text) => text.trim());
    return [`  ${line.trim()}`, ...lines.filter((text) => text !== '').map((text) => `    ${text}`)].slice(0, 20);
  });
}

function lastLinesOf(output: string): string[] {
  const lines = output.trimEnd().split('\n');
  return lines.slice(-40).map((line) => `  ${line}`);
}

/** Shows the output as it comes and keeps it; ends a command that is late, with all that it started. */
async function execute(name: string, command: readonly string[], timeoutMs: number): Promise<{ isGood: boolean; output: string }> {
  const [program = '', ...args] = command;
  const child = spawn(program, args, { cwd: root, env, stdio: ['ignore', 'pipe', 'pipe'], detached: true });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => {
      output = (output + text).slice(-65_536);
      process.stdout.write(text);
    });
  }
  const timer = setTimeout(() => {
    say(`== ${name}: not done after ${timeoutMs / minute} minutes: ended`);
    if (child.pid !== undefined) process.kill(-child.pid, 'SIGKILL');
  }, timeoutMs);
  const code = await new Promise<number | null>((settle) => {
    child.once('error', () => settle(null));
    child.once('exit', settle);
  });
  clearTimeout(timer);
  return { isGood: code === 0, output };
}

/** A test that leaves a cgroup behind has failed. */
function leftovers(cgroupsBefore: ReadonlySet<string>): Counts {
  const left = [...cgroups()].filter((path) => !cgroupsBefore.has(path));
  failures.push(...left.map((path) => `left behind: cgroup ${path}`));
  return { passed: left.length === 0 ? 1 : 0, failed: left.length === 0 ? 0 : 1, skipped: 0 };
}

function cgroups(): Set<string> {
  const paths = execFileSync('find', ['/sys/fs/cgroup', '-maxdepth', '3', '-type', 'd'], { encoding: 'utf8' }).split('\n');
  return new Set(paths.filter((path) => /berth/.test(path)));
}

/** Test files below directories of the repository, and files themselves, relative to its top; sorted. */
function testsBelow(...places: readonly string[]): string[] {
  return places.flatMap((place) => {
    if (!existsSync(join(root, place))) return [];
    if (place.endsWith('.ts')) return [place];
    const names = readdirSync(join(root, place), { recursive: true, encoding: 'utf8' });
    return names
      .filter((name) => name.endsWith('.test.ts'))
      .map((name) => join(place, name))
      .sort();
  });
}

function nameOf(file: string): string {
  return file.replace(/^test\/|\.test\.ts$/g, '');
}

function say(text: string): void {
  process.stdout.write(`${text}\n`);
}
