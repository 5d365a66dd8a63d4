/**
 * Checks that no other user can replace a path of the daemon.
 */
import { realpathSync, statSync } from 'node:fs';
import { dirname } from 'node:path';
import { failedPrecondition } from './errors.ts';

const sticky = 0o1000;
const writableByOthers = 0o002;

/**
 * Checks a directory and all directories above it, after resolving links: links in directories that only root can write are the administrator's.
 *
 * @throws {BerthError} FAILED_PRECONDITION if every user can write to one of them and it is not sticky, as /tmp is: a user could then move the path away
 *   and put a link or another file in its place.
 */
export function requireTrustedPath(directory: string): void {
  for (let each = realpathSync(directory); ; each = dirname(each)) {
    const { mode } = statSync(each);
    if ((mode & writableByOthers) !== 0 && (mode & sticky) === 0) {
      throw failedPrecondition(
        `use ${directory}: every user can replace it, because ${each} is writable (mode ${(mode & 0o7777).toString(8)}); run chmod o-w ${each}`,
      );
    }
    if (each === dirname(each)) return;
  }
}
