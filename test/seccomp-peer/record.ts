/**
 * Rewrites test/data/seccomp-peer.json: what containers of containerd and runc answer to every system call. Run it as root for new releases of these.
 *
 * usage: node test/seccomp-peer/record.ts RUNC
 * RUNC is a runc built with `-tags seccomp` and the libseccomp of its Dockerfile. go.mod has the version of containerd.
 */
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { buildGoProgram } from '../support/go-program.ts';
import { capabilitySets, dumpFilter } from '../support/seccomp-dump.ts';
import { tabulate } from '../support/seccomp-table.ts';

const [runc = 'runc'] = process.argv.slice(2);
const directory = mkdtempSync('/var/tmp/berth-seccomp-peer-');
const run = (...args: string[]): string =>
  execFileSync(runc, ['--root', join(directory, 'state'), ...args], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] });

try {
  const profiles = buildGoProgram('seccomp-peer', import.meta.dirname);
  mkdirSync(join(directory, 'rootfs'));
  writeFileSync(join(directory, 'sleep.c'), '#include <unistd.h>\nint main(void) { for (;;) pause(); }\n');
  execFileSync('musl-gcc', ['-static', '-o', join(directory, 'rootfs/sleep'), join(directory, 'sleep.c')]);
  const tables = Object.entries(capabilitySets).map(([name, capabilities]) => {
    const full = capabilities.map((each) => `CAP_${each}`);
    const seccomp: unknown = JSON.parse(execFileSync(profiles, full, { encoding: 'utf8' }));
    return [name, tabulate(filterOf(name, seccomp))];
  });
  const [, containerd] = /containerd\/v2 v(\S+)/.exec(readFileSync(join(import.meta.dirname, 'go.mod'), 'utf8')) ?? [];
  const peer = {
    containerd,
    ...Object.fromEntries([...run('--version').matchAll(/^(runc|libseccomp)(?: version)?:? (\S+)$/gm)].map(([, k, v]) => [k, v])),
  };
  const text = JSON.stringify({ peer, ...Object.fromEntries(tables) }, null, 1);
  writeFileSync(resolve(import.meta.dirname, '../data/seccomp-peer.json'), `${text}\n`);
} finally {
  rmSync(directory, { recursive: true, force: true });
}

/** Starts a container and returns its program. */
function filterOf(id: string, seccomp: unknown): Buffer {
  const mounts = ['proc', 'tmpfs'].map((type) => ({ destination: type === 'proc' ? '/proc' : '/dev', type, source: type }));
  const config = {
    ociVersion: '1.2.0',
    // The profile depends on the capabilities, and the node may not be able to grant all of them.
    process: { user: { uid: 0, gid: 0 }, args: ['/sleep'], cwd: '/', env: [], capabilities: {} },
    root: { path: 'rootfs' },
    mounts,
    linux: { seccomp, namespaces: ['pid', 'mount', 'ipc', 'network'].map((type) => ({ type })) },
  };
  writeFileSync(join(directory, 'config.json'), JSON.stringify(config));
  execFileSync(runc, ['--root', join(directory, 'state'), 'run', '-d', '-b', directory, id], { stdio: 'ignore' });
  try {
    const { pid } = JSON.parse(run('state', id)) as { pid: number };
    return dumpFilter(pid);
  } finally {
    run('delete', '-f', id);
  }
}
