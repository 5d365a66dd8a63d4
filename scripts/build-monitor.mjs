/**
 * Builds the monitor as build/monitor (static). Optionally builds it with sanitizers, and the fuzzer of its plan decoder.
 *
 *   build-monitor.mjs [--sanitize] [--fuzz] [--out DIRECTORY]
 *
 * Requires a C compiler; if there is none, reports which package to install. Runs with Node 20 or newer.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const { values: options } = parseArgs({ options: { sanitize: { type: 'boolean' }, fuzz: { type: 'boolean' }, out: { type: 'string' } } });
const out = options.out ?? join(root, 'build');
const source = (name) => join(root, 'src/monitor', name);
const sources = ['main.c', 'process.c', 'decode.c', 'ops.c', 'log.c', 'attach.c', 'supervise.c'].map(source);
const warnings = ['-std=gnu11', '-Wall', '-Wextra', '-Werror', '-Wshadow', '-Wstrict-prototypes', '-Wmissing-prototypes'];
/** Sorted by alignment, the large buffers come first and the small variables share one or two pages. Each page written costs 4 KiB per container. */
const small = ['-Os', '-static', '-ffunction-sections', '-fdata-sections', '-Wl,--gc-sections,--sort-section=alignment', '-s'];

mkdirSync(out, { recursive: true });
buildStatic(join(out, 'monitor'));
if (options.sanitize)
  compile(
    clang(),
    ['-fsanitize=address,undefined', '-fno-sanitize-recover=all', '-g', '-O1', join(root, 'test/fuzz/sanitizer-options.c'), ...sources],
    join(out, 'monitor-asan'),
  );
if (options.fuzz) {
  const fuzzed = [join(root, 'test/fuzz/monitor-decode.c'), source('decode.c')];
  compile(clang(), ['-fsanitize=fuzzer,address,undefined', '-fno-sanitize-recover=all', '-g', '-O1', ...fuzzed], join(out, 'monitor-fuzz'));
}

/** Prefers musl: the binary is ten times smaller than with glibc. musl has no kernel headers, so those of the system are used. */
function buildStatic(target) {
  if (has('musl-gcc')) {
    const triplet = process.arch === 'arm64' ? 'aarch64-linux-gnu' : 'x86_64-linux-gnu';
    const headers = ['/usr/include', `/usr/include/${triplet}`].flatMap((path) => ['-idirafter', path]);
    compile('musl-gcc', [...small, ...headers, ...sources], target);
  } else if (has('gcc')) {
    process.stderr.write('build-monitor: musl-gcc not found (package musl-tools): building with gcc; the monitor will use more memory\n');
    compile('gcc', [...small, ...sources], target);
  } else {
    fail('no C compiler found: install musl-tools, or gcc and libc6-dev');
  }
}

function clang() {
  if (!has('clang')) fail('clang not found: install clang to build with sanitizers and to build the fuzzer');
  return 'clang';
}

function has(program) {
  return spawnSync(program, ['--version'], { stdio: 'ignore' }).error === undefined;
}

function compile(compiler, args, target) {
  const { status } = spawnSync(compiler, [...warnings, ...args, '-o', target], { stdio: ['ignore', 'inherit', 'inherit'] });
  if (status !== 0 || !existsSync(target)) fail(`${compiler} failed to build ${target}`);
  process.stdout.write(`${target} ${statSync(target).size} bytes\n`);
}

function fail(message) {
  process.stderr.write(`build-monitor: ${message}\n`);
  process.exit(1);
}
