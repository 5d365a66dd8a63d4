/**
 * Runs the published conformance suite critest against a new runtime in separate namespaces, and checks the results.
 *
 *   npm run critest -- [--runtime berth|containerd] [--parallel N] [--websocket] [--user-namespaces] [--all] [FOCUS ...] [-- CRITEST-FLAG ...]
 *
 * Each FOCUS is a regular expression for spec names. Writes the state of every spec to build/critest/report-RUNTIME.json. With berth, exits with 1 if a
 * spec fails or skips itself that is not listed in not-passing.json, or if a listed spec passes. With --all, the listed specs must pass too: use it on a
 * machine with all features that they need. With --user-namespaces, each pod has a user namespace, except with the host's pid or IPC namespace; the specs
 * of which no pod got one are printed, and not-passing-in-user-namespaces.json is added to the list.
 */
import { spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { enterIsolation } from '../support/isolation.ts';
import { type Runtime, type RuntimeName, startRuntime } from '../support/runtime.ts';
import { buildDir, patchedCritest, preparePeer, prepareTools, registryUrl, serveImages } from './prepare.ts';
import { countStates, type Expected, readReport, type Spec, unexpectedResults, unknownNames } from './report.ts';
import { type CriProxy, startUserNamespaceProxy } from './user-namespaces.ts';

type Options = {
  readonly runtime: RuntimeName;
  readonly parallel: string;
  readonly isWebsocket: boolean;
  readonly hasUserNamespaces: boolean;
  readonly mustAllPass: boolean;
  readonly focus: readonly string[];
  readonly critestFlags: readonly string[];
};

const options = readOptions(process.argv.slice(2));
mkdirSync(buildDir, { recursive: true });
const toolsDir = prepareTools();
if (options.runtime === 'containerd') preparePeer();
enterIsolation();
process.exitCode = await main();

async function main(): Promise<number> {
  const stopRegistry = await serveImages();
  const workDir = mkdtempSync('/var/tmp/berth-critest-');
  let runtime: Runtime | undefined;
  let proxy: CriProxy | undefined;
  try {
    runtime = await startRuntime(options.runtime, { workDir, mirrorUrl: registryUrl });
    if (options.hasUserNamespaces) proxy = await startUserNamespaceProxy('/run/user-namespaces.sock', runtime.endpoint);
    const startedAt = performance.now();
    const specs = await runCritest((proxy ?? runtime).endpoint, workDir);
    if (proxy !== undefined) printUnchanged(specs, proxy);
    return printResults(specs, (performance.now() - startedAt) / 1000);
  } finally {
    proxy?.stop();
    await runtime?.stop();
    if (runtime) writeFileSync(join(buildDir, `daemon-${options.runtime}.log`), readFileSync(runtime.logFile));
    stopRegistry();
    rmSync(workDir, { recursive: true, force: true });
  }
}

function readOptions(argv: readonly string[]): Options {
  const end = argv.indexOf('--');
  const [ownArgs, critestFlags] = end < 0 ? [argv, []] : [argv.slice(0, end), argv.slice(end + 1)];
  const { values, positionals } = parseArgs({
    args: [...ownArgs],
    allowPositionals: true,
    options: {
      runtime: { type: 'string', default: 'berth' },
      parallel: { type: 'string', default: '1' },
      websocket: { type: 'boolean', default: false },
      'user-namespaces': { type: 'boolean', default: false },
      all: { type: 'boolean', default: false },
    },
  });
  if (values.runtime !== 'berth' && values.runtime !== 'containerd') throw new Error(`--runtime ${values.runtime}: want berth or containerd`);
  return {
    runtime: values.runtime,
    parallel: values.parallel,
    isWebsocket: values.websocket,
    hasUserNamespaces: values['user-namespaces'],
    mustAllPass: values.all,
    focus: positionals,
    critestFlags,
  };
}

async function runCritest(endpoint: string, workDir: string): Promise<Spec[]> {
  const report = join(workDir, 'ginkgo.json');
  const args = [
    `-runtime-endpoint=${endpoint}`,
    `-image-endpoint=${endpoint}`,
    ...(options.parallel === '1' ? [] : [`-parallel=${options.parallel}`]),
    `-ginkgo.json-report=${report}`,
    '-ginkgo.no-color',
    ...(options.isWebsocket ? ['-websocket-exec', '-websocket-attach', '-websocket-portforward'] : []),
    ...options.focus.map((focus) => `-ginkgo.focus=${focus}`),
    ...options.critestFlags,
  ];
  const env = { ...process.env, PATH: `${toolsDir}:${process.env['PATH']}` };
  const child = spawn(patchedCritest(toolsDir), args, { stdio: 'inherit', cwd: workDir, env });
  await new Promise((settle) => child.once('exit', settle));
  return readReport(readFileSync(report, 'utf8'));
}

/** Prints which specs ran without a user namespace from the proxy, and why. Needs the times of specs that do not run in parallel. */
function printUnchanged(specs: readonly Spec[], { sandboxes }: CriProxy): void {
  const mappedCount = sandboxes.filter(({ unchangedBecause }) => unchangedBecause === undefined).length;
  say(`critest: ${mappedCount} of ${sandboxes.length} pods were given a user namespace`);
  if (options.parallel !== '1') return;
  for (const { name, startedAtMs, endedAtMs } of specs.filter((spec) => spec.state !== 'skipped')) {
    const own = sandboxes.filter(({ atMs }) => atMs >= startedAtMs && atMs <= endedAtMs);
    if (own.some(({ unchangedBecause }) => unchangedBecause === undefined)) continue;
    const reasons = new Set(own.map(({ unchangedBecause }) => unchangedBecause));
    say(`without a user namespace: ${own.length === 0 ? 'runs no pod' : [...reasons].join(', ')}: ${name}`);
  }
}

/** Writes the report and prints the results. @returns the exit code. */
function printResults(specs: readonly Spec[], seconds: number): number {
  const reportFile = join(buildDir, `report-${options.runtime}.json`);
  writeFileSync(reportFile, `${JSON.stringify(specs, null, 2)}\n`);
  const { passed, failed, skipped } = countStates(specs);
  const problems = options.runtime === 'berth' ? findProblems(specs) : [];
  const isGood = problems.length === 0 && (options.runtime === 'berth' || failed === 0);
  for (const problem of problems) say(problem);
  say(
    `critest with ${options.runtime}: ${passed + failed + skipped} specs in ${seconds.toFixed(0)} s, ${isGood ? 'as expected' : 'NOT as expected'}; ${reportFile}`,
  );
  say(`critest: ${passed} passed, ${failed} failed, ${skipped} skipped`);
  return isGood ? 0 : 1;
}

function findProblems(specs: readonly Spec[]): string[] {
  if (options.mustAllPass) return unexpectedResults(specs, []);
  const lists = ['not-passing.json', ...(options.hasUserNamespaces ? ['not-passing-in-user-namespaces.json'] : [])];
  const expected = lists.flatMap((name) => JSON.parse(readFileSync(join(import.meta.dirname, name), 'utf8')) as readonly Expected[]);
  const isComplete = options.focus.length === 0 && options.critestFlags.length === 0;
  return [...unexpectedResults(specs, expected), ...(isComplete ? unknownNames(specs, expected) : [])];
}

function say(text: string): void {
  process.stdout.write(`${text}\n`);
}
