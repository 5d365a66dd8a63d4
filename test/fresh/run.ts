/**
 * Runs the commands of the README in a fresh root file system of each release: `npm start` until the sample pod has run, or the given command.
 *
 *   bin/node test/fresh/run.ts [--release CODENAME] [-- COMMAND ARG ...]     for example: --release trixie -- npm test
 *
 * The setup uses this machine's network, because it installs packages. `npm start` then runs in a separate network namespace.
 */
import { strict as assert } from 'node:assert';
import { parseArgs } from 'node:util';
import { type FreshRoot, freshReleases, openFreshRoot, whyNoFreshRoot } from './root.ts';

const { values, positionals } = parseArgs({ allowPositionals: true, options: { release: { type: 'string' } } });
const reason = whyNoFreshRoot();
if (reason !== undefined) throw new Error(reason);

let [passed, failed] = [0, 0];
for (const release of values.release === undefined ? freshReleases() : [values.release]) {
  const root = openFreshRoot(release);
  try {
    process.stdout.write(`== ${release}\n`);
    if (positionals.length > 0) assert.equal((await root.run(positionals)).code, 0, `${positionals.join(' ')} failed`);
    else await testStart(root);
    passed += 1;
  } catch (error) {
    failed += 1;
    process.stdout.write(`not ok: ${release}: ${(error as Error).message}\n`);
  } finally {
    root.remove();
  }
}
process.stdout.write(`${passed} passed, ${failed} failed, 0 skipped\n`);
process.exitCode = failed > 0 ? 1 : 0;

async function testStart(root: FreshRoot): Promise<void> {
  assert.equal((await root.run(['npm', 'run', 'setup'])).code, 0, 'npm run setup failed');
  const { output, code } = await root.run(['npm', 'start'], { isOffline: true, until: 'Press Ctrl-C to stop' });
  assert.match(output, /log: {2}\S+ stdout F hello from sample/);
  assert.match(output, /exec: uname -sr: Linux/);
  assert.match(output, /removing the sample pod/);
  assert.equal(code, 0, 'npm start failed');
  assert.equal((await root.run(['sh', '-c', 'ls /var/lib/berth /run/berth 2>/dev/null'])).output, '', 'npm start left something behind');
}
