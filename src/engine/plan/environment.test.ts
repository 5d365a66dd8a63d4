import assert from 'node:assert/strict';
import { test } from 'node:test';
import { BerthError } from '../../lib/errors.ts';
import { composeEnvironment, defaultPath, type EnvironmentSources, environmentValue } from './environment.ts';

const sources: EnvironmentSources = { hasTerminal: false, hostname: 'pod', imageEnv: [], requestEnv: [], home: '/root' };
const value = (text: string | Buffer) => Buffer.from(text);

function composed(changes: Partial<EnvironmentSources>): string[] {
  return composeEnvironment({ ...sources, ...changes }).map(String);
}

test('composeEnvironment() sets PATH, HOSTNAME and HOME by default, and TERM with a terminal', () => {
  assert.deepEqual(composed({}), [`PATH=${defaultPath}`, 'HOSTNAME=pod', 'HOME=/root']);
  assert.ok(composed({ hasTerminal: true }).includes('TERM=xterm'));
  assert.ok(composed({ home: '' }).includes('HOME=/'));
});

test('composeEnvironment() prefers the request over the image and the image over defaults, and returns each name once', () => {
  const imageEnv = ['PATH=/image', 'TERM=dumb', 'HOSTNAME=image', 'A=1', 'B=2', 'A=3', 'HOME='];
  const requestEnv = [
    { name: 'B', value: value('4') },
    { name: 'C', value: value('a=b') },
    { name: 'B', value: value('5') },
  ];
  const expected = ['PATH=/image', 'TERM=dumb', 'HOSTNAME=image', 'A=3', 'B=5', 'HOME=', 'C=a=b'];
  assert.deepEqual(composed({ hasTerminal: true, imageEnv, requestEnv }), expected);
});

test('composeEnvironment() preserves bytes that are not UTF-8', () => {
  const bytes = Buffer.from([0xff, 0xfe, 0x0a]);
  const entry = composeEnvironment({ ...sources, requestEnv: [{ name: 'RAW', value: bytes }] }).at(2);
  assert.deepEqual(entry, Buffer.concat([Buffer.from('RAW='), bytes]));
});

test('composeEnvironment() skips entries of the image without a name or a value', () => {
  assert.equal(composed({ imageEnv: ['LONELY', '=x', ''] }).length, 3);
});

test('composeEnvironment() rejects invalid names and NUL, and never shows a value', () => {
  for (const name of ['', 'A=B', '=', 'A\0B']) {
    assert.throws(() => composed({ requestEnv: [{ name, value: value('secret') }] }), isRefusalWithoutSecret);
  }
  assert.throws(() => composed({ requestEnv: [{ name: 'A', value: value('secret\0') }] }), isRefusalWithoutSecret);
  assert.throws(() => composed({ imageEnv: ['A=secret\0'] }), isRefusalWithoutSecret);
});

function isRefusalWithoutSecret(error: unknown): boolean {
  return error instanceof BerthError && error.code === 'INVALID_ARGUMENT' && !error.message.includes('secret');
}

test('environmentValue() finds a value by the full name', () => {
  const environment = [Buffer.from('PATHS=/no'), Buffer.from('PATH=/a:/b=c')];
  assert.equal(environmentValue(environment, 'PATH'), '/a:/b=c');
  assert.equal(environmentValue(environment, 'PAT'), undefined);
});
