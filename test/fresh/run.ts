/**
 * Runs the README's commands in fresh roots of each release: `npm start` until the sample pod has run, or another command by hand.
 *
 *   bin/node test/fresh/run.ts [--release CODENAME] [COMMAND ARG ...]     such as: --release trixie npm test
 *
 * Set-up has the network of this machine, as it installs packages; `npm start` then runs in a network namespace of its own.
 */
import { strict as assert } from 'node:assert';
import { parseArgs } from 'node:util';
import { type FreshRoot, freshReleases, openFreshRoot, whyNoFreshRoot } from './root.ts';

const { values, positionals } = parseArgs({ allowPositionals: true, options: { release: { type: 'string' } } });
const lack = whyNoFreshRoot();
if (lack !== undefined) throw new Error(lack);

let [passed, failed] = [0, 0];
for (const release of values.release === undefined ? freshReleases() : [values.release]) {
  const root = openFreshRoot(release);
  try {
    process.stdout.write(`== ${release}\n`);
    if (positionals.length > 0) assert.equal((await root.run(positionals)).code, 0, `${positionals.join(' ')} failed`);
    else await tryStart(root);
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

async function tryStart(root: FreshRoot): Promise<void> {
  assert.equal((await root.run(['npm', 'run', 'setup'])).code, 0, 'npm run setup failed');
  const { output, code } = await root.run(['npm', 'start'], { isOffline: true, until: 'Press Ctrl-C to stop' });
  assert.match(output, /log: {2}\S+ stdout F hello from sample/);
  assert.match(output, /exec: uname -sr: Linux/);
  assert.match(output, /removing the sample pod/);
  assert.equal(code, 0, 'npm start failed');
  assert.equal((await root.run(['sh', '-c', 'ls /var/lib/berth /run/berth 2>/dev/null'])).output, '', 'npm start left something behind');
}
