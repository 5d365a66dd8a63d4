/**
 * Extracts files from Debian packages without installing them. Requires apt-get, dpkg-deb and access to the package archive.
 */
import { execFileSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';

/**
 * Copies a file or directory from a package to `destination`. Changes nothing else on the machine.
 *
 * @param paths candidate paths in the package, which differ between releases; the first existing one is copied.
 * @param source a line in the format of sources.list, used instead of the machine's own sources.
 * @throws Error with the package and the cause.
 */
export function takeFromPackage(name: string, paths: readonly string[], destination: string, source?: string): void {
  const work = mkdtempSync(join(tmpdir(), 'package-'));
  try {
    download(name, work, source === undefined ? [] : onlySource(source, work));
    execFileSync('sh', ['-c', 'dpkg-deb -x ./*.deb tree'], { cwd: work });
    const found = paths.map((path) => join(work, 'tree', path)).find((path) => existsSync(path));
    if (found === undefined) throw new Error(`Debian package ${name} contains none of ${paths.join(', ')}`);
    mkdirSync(dirname(destination), { recursive: true });
    cpSync(found, destination, { recursive: true });
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

/** Returns apt options that use only this source and store its package lists in `directory`. */
function onlySource(source: string, directory: string): string[] {
  writeFileSync(join(directory, 'sources.list'), `${source}\n`);
  mkdirSync(join(directory, 'lists/partial'), { recursive: true });
  const settings = [`Dir::Etc::sourcelist=${directory}/sources.list`, 'Dir::Etc::sourceparts=-', `Dir::State::lists=${directory}/lists`];
  return [...settings, 'Dir::Cache::pkgcache=', 'Dir::Cache::srcpkgcache='].flatMap((setting) => ['-o', setting]);
}

function download(name: string, directory: string, options: readonly string[]): void {
  // By default apt downloads as user _apt, which cannot write to this directory.
  const allOptions = ['-qq', '-o', 'APT::Sandbox::User=root', ...options];
  const aptGet = (...args: string[]) => execFileSync('apt-get', [...allOptions, ...args], { cwd: directory, stdio: 'pipe' });
  try {
    aptGet('download', name);
  } catch {
    // The package lists may be missing or outdated.
    try {
      aptGet('update');
      aptGet('download', name);
    } catch (error) {
      throw new Error(`download Debian package ${name}: ${String((error as { stderr?: Buffer }).stderr ?? error).trim()}`);
    }
  }
}
