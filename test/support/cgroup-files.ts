/**
 * Recorded contents of a cgroup's files. The files in test/data have a line `=== NAME` before each file's content.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

/** Loads the recorded files. @returns a function from file name to text without the final newline; null for a missing file. */
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
