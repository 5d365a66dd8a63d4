/** Repeats the monitor's tests with AddressSanitizer and UndefinedBehaviorSanitizer (`scripts/build-monitor.mjs --sanitize`). */
import { existsSync } from 'node:fs';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

const path = fileURLToPath(new URL('../../build/monitor-asan', import.meta.url));

if (existsSync(path)) {
  process.env.BERTH_MONITOR = path;
  await import('./monitor.test.ts');
  await import('./monitor-logs.test.ts');
  await import('./attach.test.ts');
} else {
  test('the sanitizer build of the monitor exists', () => {
    throw new Error(`${path} is missing: run scripts/build-monitor.mjs --sanitize`);
  });
}
