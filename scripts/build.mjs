/**
 * Builds what `bin/berth` runs: the monitor, and dist/ with one bundle for the daemon, one for each worker, and the data files they read.
 *
 *   build.mjs [--without-monitor]     --without-monitor: do not build the monitor; needs no C compiler
 */
import { cpSync, mkdirSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { build } from 'esbuild';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const target = join(root, 'dist');
/** A failed build keeps the previous dist/. */
const dist = `${target}.unfinished`;

/** Top-level directories of the repository that the daemon reads at run time. */
const dataDirs = ['proto', 'deploy'];

if (!process.argv.includes('--without-monitor')) await import(pathToFileURL(join(root, 'scripts/build-monitor.mjs')).href);

rmSync(dist, { recursive: true, force: true });
mkdirSync(dist, { recursive: true });
for (const directory of dataDirs) cpSync(join(root, directory), join(dist, directory), { recursive: true });
const workers = new Set();
await bundle(join(root, 'src/main.ts'), 'berth.mjs', workers);
for (const worker of workers) await bundle(worker, workerName(worker), new Set());
rmSync(target, { recursive: true, force: true });
renameSync(dist, target);

async function bundle(entry, name, workers) {
  await build({
    entryPoints: [entry],
    outfile: join(dist, name),
    bundle: true,
    platform: 'node',
    format: 'esm',
    target: 'node24',
    // A native module: loaded from node_modules at run time.
    external: ['koffi'],
    sourcemap: 'linked',
    // Bundled CommonJS packages call require().
    banner: { js: "import { createRequire as createRequireOfBundle } from 'node:module'; const require = createRequireOfBundle(import.meta.url);" },
    plugins: [fileReferences(workers)],
    logLevel: 'warning',
  }).catch(() => process.exit(1)); // esbuild has printed the error.
}

/** Rewrites paths that are relative to a source file: in dist/, workers are next to the bundle and data directories are below it. */
function fileReferences(workers) {
  return {
    name: 'file-references',
    setup(context) {
      context.onLoad({ filter: /\/src\/.*\.ts$/ }, ({ path }) => {
        const text = readFileSync(path, 'utf8');
        if (!text.includes('import.meta')) return undefined;
        const contents = text
          .replace(/new URL\('(\.{1,2}\/[\w./-]+\.ts)', import\.meta\.url\)/g, (_, reference) => {
            const worker = join(dirname(path), reference);
            workers.add(worker);
            return `new URL('./${workerName(worker)}', import.meta.url)`;
          })
          .replace(new RegExp(`'(?:\\.\\./)+(${dataDirs.join('|')})/`, 'g'), "'./$1/");
        return { contents, loader: 'ts' };
      });
    },
  };
}

function workerName(path) {
  return `${basename(path, '.ts')}.mjs`;
}
