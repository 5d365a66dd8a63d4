/**
 * Parses `name=value` and suggests the closest known name for an unknown one. Pure.
 */

/** Splits `name=value`. The second element is missing if there is no `=`. */
export function splitAtEquals(word: string): [string, string?] {
  const at = word.indexOf('=');
  return at < 0 ? [word] : [word.slice(0, at), word.slice(at + 1)];
}

/** Returns, for example, `unknown flag --sockt: did you mean --socket?`. */
export function unknownText(what: string, name: string, known: readonly string[]): string {
  return `unknown ${what} ${name}: did you mean ${nearest(name, known)}?`;
}

function nearest(name: string, known: readonly string[]): string {
  const ranked = known.map((candidate) => ({ candidate, distance: editDistance(name, candidate) })).sort((a, b) => a.distance - b.distance);
  return ranked[0]?.candidate ?? '';
}

/** Levenshtein distance: the number of insertions, deletions and replacements that turn one string into the other. */
function editDistance(from: string, to: string): number {
  let row = Array.from({ length: to.length + 1 }, (_, index) => index);
  for (const [i, letter] of [...from].entries()) {
    const next = [i + 1];
    for (const [j, other] of [...to].entries()) {
      next.push(Math.min((row[j + 1] ?? 0) + 1, (next[j] ?? 0) + 1, (row[j] ?? 0) + (letter === other ? 0 : 1)));
    }
    row = next;
  }
  return row[to.length] ?? 0;
}
