/**
 * Takes files out of Debian's packages without installing the packages. Needs apt-get, dpkg-deb and the package archive; nothing outside the given place changes.
 */
import { execFileSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';

/** Copies `path` of the package to `destination`. @throws Error that says which package could not be had, and why. */
export function takeFromPackage(name: string, path: string, destination: string): void {
  const work = mkdtempSync(join(tmpdir(), 'package-'));
  try {
    download(name, work);
    execFileSync('sh', ['-c', 'dpkg-deb -x ./*.deb tree'], { cwd: work });
    mkdirSync(dirname(destination), { recursive: true });
    cpSync(join(work, 'tree', path), destination, { recursive: true });
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

function download(name: string, directory: string): void {
  // As root apt would read as another user, who cannot write here.
  const get = (...args: string[]) => execFileSync('apt-get', ['-qq', '-o', 'APT::Sandbox::User=root', ...args], { cwd: directory, stdio: 'pipe' });
  try {
    get('download', name);
  } catch {
    // The package lists may be missing or old.
    try {
      get('update');
      get('download', name);
    } catch (error) {
      throw new Error(`getting the Debian package ${name}: ${String((error as { stderr?: Buffer }).stderr ?? error).trim()}`);
    }
  }
}
