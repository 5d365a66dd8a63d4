/**
 * Tests `npm start` from the sample pod to Ctrl-C: its output, and that it leaves nothing behind.
 */
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { before, test } from 'node:test';

const repository = resolve(import.meta.dirname, '../..');
const isBuilt = existsSync(join(repository, 'dist/berth.mjs'));

before(() => {
  execFileSync('ip', ['link', 'set', 'lo', 'up']);
  // The path of the socket is fixed: hide a runtime of the machine.
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'mode=755', 'tmpfs', '/run']);
});

test('npm start shows the IP, a log line and an exec of the sample pod, and leaves nothing behind', {
  skip: !isBuilt && 'berth is not built',
  timeout: 180_000,
}, async () => {
  const stateBefore = nodeState();
  const demo = spawn(process.execPath, [join(repository, 'scripts/demo.ts')], { stdio: ['ignore', 'pipe', 'pipe'] });
  let output = '';
  for (const stream of [demo.stdout, demo.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => {
      output += text;
      if (text.includes('Press Ctrl-C to stop')) demo.kill('SIGINT');
    });
  }
  const code = await new Promise((settle) => demo.once('exit', settle));
  assert.equal(code, 0, output);
  assert.match(output, /IP 10\.\d+\.\d+\.\d+/);
  assert.match(output, /log: {2}\S+ stdout F hello from sample/);
  assert.match(output, /exec: uname -sr: Linux \S+ \(exit code 0\)/);
  assert.deepEqual(nodeState(), stateBefore);
});

function nodeState(): Record<string, readonly string[]> {
  const run = (command: string, ...args: string[]) => execFileSync(command, args, { encoding: 'utf8' }).split('\n');
  const pids = readdirSync('/proc').filter((name) => /^\d+$/.test(name));
  return {
    mounts: readFileSync('/proc/self/mountinfo', 'utf8')
      .split('\n')
      .map((line) => line.split(' ')[4] ?? '')
      .sort(),
    interfaces: run('ip', '-o', 'link').map((line) => line.split(':')[1]?.trim() ?? ''),
    rules: ['nat', 'filter', 'mangle'].flatMap((table) => run('iptables', '-w', '-t', table, '-S')),
    forwarding: [readFileSync('/proc/sys/net/ipv4/ip_forward', 'utf8')],
    cgroups: run('find', '/sys/fs/cgroup', '-maxdepth', '3', '-name', 'berth*', '-type', 'd').sort(),
    processes: pids.map(commandOf).filter((command) => command.includes(`${repository}/dist`) || command.includes(`${repository}/build/monitor`)),
    directories: ['/run', '/var/lib/berth', '/var/lib/cni', '/var/log/pods'].flatMap((path) =>
      existsSync(path) ? [path, ...readdirSync(path).sort()] : [],
    ),
  };
}

function commandOf(pid: string): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ');
  } catch {
    return ''; // It has exited meanwhile.
  }
}
