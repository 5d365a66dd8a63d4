/**
 * Takes files out of Debian's packages without installing the packages. Needs apt-get, dpkg-deb and the package archive; nothing outside the given place changes.
 */
import { execFileSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';

/**
 * Copies a file or directory of a package to `destination`.
 *
 * @param paths where it may be in the package, which depends on the release: the first that exists is taken.
 * @param source a line as in sources.list, read instead of the machine's own.
 * @throws Error that names the package and the cause.
 */
export function takeFromPackage(name: string, paths: readonly string[], destination: string, source?: string): void {
  const work = mkdtempSync(join(tmpdir(), 'package-'));
  try {
    download(name, work, source === undefined ? [] : readOnly(source, work));
    execFileSync('sh', ['-c', 'dpkg-deb -x ./*.deb tree'], { cwd: work });
    const found = paths.map((path) => join(work, 'tree', path)).find((path) => existsSync(path));
    if (found === undefined) throw new Error(`the Debian package ${name} contains none of ${paths.join(', ')}`);
    mkdirSync(dirname(destination), { recursive: true });
    cpSync(found, destination, { recursive: true });
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

/** Options with which apt knows this source alone, and keeps what it learns of it in the given place. */
function readOnly(source: string, directory: string): string[] {
  writeFileSync(join(directory, 'sources.list'), `${source}\n`);
  mkdirSync(join(directory, 'lists/partial'), { recursive: true });
  const settings = [`Dir::Etc::sourcelist=${directory}/sources.list`, 'Dir::Etc::sourceparts=-', `Dir::State::lists=${directory}/lists`];
  return [...settings, 'Dir::Cache::pkgcache=', 'Dir::Cache::srcpkgcache='].flatMap((setting) => ['-o', setting]);
}

function download(name: string, directory: string, options: readonly string[]): void {
  // As root apt would read as another user, who cannot write here.
  const words = ['-qq', '-o', 'APT::Sandbox::User=root', ...options];
  const get = (...args: string[]) => execFileSync('apt-get', [...words, ...args], { cwd: directory, stdio: 'pipe' });
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
