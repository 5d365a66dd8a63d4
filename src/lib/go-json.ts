/**
 * Finds the fields of a JSON object as Go programs do, which write and read most of the documents that berth gets: image configs, manifests,
 * responses of registries, CNI configurations, device files.
 *
 * Pure. Source: the package documentation of Go's encoding/json, "Unmarshal", and its fold.go.
 */

export type JsonObject = Readonly<Record<string, unknown>>;

/**
 * Returns the values of the named fields, in any case of their keys. The exact key has precedence; of several others, the last one is used.
 * Null is undefined, as an absent field is: both leave the zero value in Go. Other fields are ignored.
 */
export function goFields<Name extends string>(object: JsonObject, names: readonly Name[]): { readonly [N in Name]: unknown } {
  const wanted = new Map(names.map((name) => [foldKey(name), name]));
  const found = new Map<Name, unknown>();
  for (const key of Object.keys(object)) {
    const name = wanted.get(foldKey(key));
    if (name !== undefined && !Object.hasOwn(object, name)) found.set(name, object[key]);
  }
  const read = (name: Name): unknown => (Object.hasOwn(object, name) ? object[name] : found.get(name)) ?? undefined;
  return Object.fromEntries(names.map((name) => [name, read(name)])) as { readonly [N in Name]: unknown };
}

/** Returns the object with the named fields under their exact keys, without those that are null. All other fields stay as they are. */
export function withExactKeys(object: JsonObject, names: readonly string[]): JsonObject {
  const folded = new Set(names.map(foldKey));
  const others = Object.entries(object).filter(([key]) => !folded.has(foldKey(key)));
  const named = Object.entries(goFields(object, names)).filter(([, value]) => value !== undefined);
  return Object.fromEntries([...named, ...others]);
}

/** Returns a text that is equal for keys that Go does not distinguish: two characters beyond ASCII fold to `s` and `k`. */
export function foldKey(key: string): string {
  return key.toLowerCase().replaceAll('\u017f', 's').replaceAll('\u212a', 'k');
}
