/**
 * Parses files with credentials of registries, in the format of Docker's config.json, which `docker login` and Kubernetes Secrets use.
 *
 * Pure. No error message contains a value of the file.
 */
import { failedPrecondition } from '../../lib/errors.ts';
import { parseFields, toFields, toOptionalEntries } from '../document/untrusted-json.ts';
import { isAddressOf, type RegistryAuth } from './challenges.ts';

const entriesMax = 10_000;

/**
 * Returns the credentials for a host: of the last entry whose address is `host`, `https://host`, or one of these with the path of an API version.
 *
 * @param file its path, for messages.
 * @returns undefined when there is none.
 * @throws {BerthError} FAILED_PRECONDITION when the file is invalid.
 */
export function parseAuthFile(bytes: Buffer, host: string, file: string): RegistryAuth | undefined {
  const { auths } = parseFields(bytes, file, ['auths']);
  const entry = toOptionalEntries(auths, `${file}: auths`, entriesMax).findLast(([address]) => isRegistry(address) && isAddressOf(address, host));
  if (entry === undefined) return undefined;
  const fields = toFields(entry[1], `${file}: an entry of auths`, ['username', 'password', 'auth', 'identitytoken', 'registrytoken']);
  const text = (value: unknown): string => {
    if (value !== undefined && typeof value !== 'string') throw failedPrecondition(`${file}: an entry of auths has a value that is not a string`);
    return value ?? '';
  };
  return {
    username: text(fields.username),
    password: text(fields.password),
    auth: text(fields.auth),
    serverAddress: '',
    identityToken: text(fields.identitytoken),
    registryToken: text(fields.registrytoken),
  };
}

/** Other paths are repositories, for which only some tools have credentials of their own. */
function isRegistry(address: string): boolean {
  return /^(?:https?:\/\/)?[^/]+(?:\/(?:v[12]\/?)?)?$/i.test(address);
}
