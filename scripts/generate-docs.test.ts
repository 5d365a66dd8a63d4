import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { settings } from '../src/config.ts';
import { configurationPage, target } from './generate-docs.ts';

test('docs/configuration.md is up to date with src/config.ts', () => {
  assert.equal(readFileSync(target, 'utf8'), configurationPage(settings), 'run: npm run generate');
});

test('configurationPage() shows the default of a setting, and every setting once', () => {
  const page = configurationPage(settings);
  assert.match(page, /### `root`\n\n.+\n\n- default: `"\/var\/lib\/berth"`/);
  for (const { key } of settings) assert.equal(page.split(`### \`${key}\`\n`).length, 2, key);
});

test('configurationPage() throws for a setting without a topic, and for a topic without a setting', () => {
  assert.throws(() => configurationPage([...settings, { key: 'new_one', default: 1, meaning: 'New.' }]), /new_one/);
  assert.throws(() => configurationPage(settings.slice(1)), /socket/);
});
