/**
 * The texts of a cgroup's files as a kernel gave them, kept in test/data: `=== NAME` and the lines below it.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

/** @returns the text of a file by its name, without the last line feed; null for one that is not there. */
export function cgroupFiles(version: 1 | 2): (file: string) => string | null {
  const text = readFileSync(join(import.meta.dirname, `../data/cgroup-v${version}.txt`), 'utf8');
  const files = new Map(
    text.split(/^=== /m).map((section) => {
      const end = section.indexOf('\n');
      return [section.slice(0, end), section.slice(end + 1).trimEnd()];
    }),
  );
  return (file) => files.get(file) ?? null;
}
