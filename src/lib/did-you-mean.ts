/**
 * Parses `name=value` and suggests the closest known name for an unknown one. Pure.
 */

/** Splits `name=value`. The second element is missing if there is no `=`. */
export function splitAtEquals(word: string): [string, string?] {
  const at = word.indexOf('=');
  return at < 0 ? [word] : [word.slice(0, at), word.slice(at + 1)];
}

/** Returns, for example, `unknown flag --sockt: did you mean --socket?`. Without a similar name, lists the known ones. */
export function unknownText(what: string, name: string, known: readonly string[]): string {
  const similar = nearest(name, known);
  if (similar !== undefined) return `unknown ${what} ${name}: did you mean ${similar}?`;
  return known.length > listedMax ? `unknown ${what} ${name}` : `unknown ${what} ${name}: want one of ${known.join(', ')}`;
}

/** Longer lists do not help a reader. */
const listedMax = 20;

/** @returns undefined if no known name is similar: a wrong suggestion is worse than none. */
function nearest(name: string, known: readonly string[]): string | undefined {
  const ranked = known.map((candidate) => ({ candidate, distance: editDistance(name, candidate) })).sort((a, b) => a.distance - b.distance);
  const [first] = ranked;
  return first !== undefined && first.distance <= Math.max(2, name.length / 2) ? first.candidate : undefined;
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
