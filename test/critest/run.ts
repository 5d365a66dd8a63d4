/**
 * Runs the published conformance suite, critest, against a runtime of its own in namespaces of its own, and judges the result.
 *
 *   npm run critest -- [--runtime berth|containerd] [--parallel N] [--websocket] [--all] [FOCUS ...] [-- flags of critest]
 *
 * Each FOCUS is a regular expression over spec names. Writes build/critest/report-RUNTIME.json with every spec's state. With berth, exits 1 when a
 * spec that not-passing.json does not list fails or skips itself, or a listed one passes. --all: on a machine that has what those need, they must pass too.
 */
import { spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { enterIsolation } from '../support/isolation.ts';
import { type Runtime, type RuntimeName, startRuntime } from '../support/runtime.ts';
import { buildDir, fittingCritest, preparePeer, prepareTools, registryUrl, serveImages } from './prepare.ts';
import { countStates, type Expected, judge, readReport, type Spec, unknownNames } from './report.ts';

type Options = {
  readonly runtime: RuntimeName;
  readonly parallel: string;
  readonly isWebsocket: boolean;
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
  try {
    runtime = await startRuntime(options.runtime, { workDir, mirrorUrl: registryUrl });
    const startedAt = performance.now();
    const specs = await runCritest(runtime, workDir);
    return conclude(specs, (performance.now() - startedAt) / 1000);
  } finally {
    await runtime?.stop();
    if (runtime) writeFileSync(join(buildDir, `daemon-${options.runtime}.log`), readFileSync(runtime.logFile));
    stopRegistry();
    rmSync(workDir, { recursive: true, force: true });
  }
}

function readOptions(argv: readonly string[]): Options {
  const end = argv.indexOf('--');
  const [own, critestFlags] = end < 0 ? [argv, []] : [argv.slice(0, end), argv.slice(end + 1)];
  const { values, positionals } = parseArgs({
    args: [...own],
    allowPositionals: true,
    options: {
      runtime: { type: 'string', default: 'berth' },
      parallel: { type: 'string', default: '1' },
      websocket: { type: 'boolean', default: false },
      all: { type: 'boolean', default: false },
    },
  });
  if (values.runtime !== 'berth' && values.runtime !== 'containerd') throw new Error(`--runtime ${values.runtime}: berth or containerd`);
  return {
    runtime: values.runtime,
    parallel: values.parallel,
    isWebsocket: values.websocket,
    mustAllPass: values.all,
    focus: positionals,
    critestFlags,
  };
}

async function runCritest(runtime: Runtime, workDir: string): Promise<Spec[]> {
  const report = join(workDir, 'ginkgo.json');
  const args = [
    `-runtime-endpoint=${runtime.endpoint}`,
    `-image-endpoint=${runtime.endpoint}`,
    ...(options.parallel === '1' ? [] : [`-parallel=${options.parallel}`]),
    `-ginkgo.json-report=${report}`,
    '-ginkgo.no-color',
    ...(options.isWebsocket ? ['-websocket-exec', '-websocket-attach', '-websocket-portforward'] : []),
    ...options.focus.map((focus) => `-ginkgo.focus=${focus}`),
    ...options.critestFlags,
  ];
  const env = { ...process.env, PATH: `${toolsDir}:${process.env['PATH']}` };
  const child = spawn(fittingCritest(toolsDir), args, { stdio: 'inherit', cwd: workDir, env });
  await new Promise((settle) => child.once('exit', settle));
  return readReport(readFileSync(report, 'utf8'));
}

function conclude(specs: readonly Spec[], seconds: number): number {
  const reportFile = join(buildDir, `report-${options.runtime}.json`);
  writeFileSync(reportFile, `${JSON.stringify(specs, null, 2)}\n`);
  const { passed, failed, skipped } = countStates(specs);
  const problems = options.runtime === 'berth' ? judgeBerth(specs) : [];
  const good = problems.length === 0 && (options.runtime === 'berth' || failed === 0);
  for (const problem of problems) say(problem);
  say(
    `critest against ${options.runtime}: ${passed + failed + skipped} specs in ${seconds.toFixed(0)} s, ${good ? 'as expected' : 'NOT as expected'}; ${reportFile}`,
  );
  say(`critest: ${passed} passed, ${failed} failed, ${skipped} skipped`);
  return good ? 0 : 1;
}

function judgeBerth(specs: readonly Spec[]): string[] {
  if (options.mustAllPass) return judge(specs, []);
  const expected = JSON.parse(readFileSync(join(import.meta.dirname, 'not-passing.json'), 'utf8')) as readonly Expected[];
  const isWhole = options.focus.length === 0 && options.critestFlags.length === 0;
  return [...judge(specs, expected), ...(isWhole ? unknownNames(specs, expected) : [])];
}

function say(text: string): void {
  process.stdout.write(`${text}\n`);
}
