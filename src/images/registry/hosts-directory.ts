/**
 * Reads the configuration of a registry: `<directory>/<registry>/hosts.toml` and its files with credentials, or certificate files in Docker's older
 * layout.
 *
 * Reads it for every pull, so that a change needs no restart. Never writes, never contacts a host.
 */
import { open, readdir } from 'node:fs/promises';
import { BerthError, failedPrecondition, reasonOf } from '../../lib/errors.ts';
import { parseAuthFile } from './auth-file.ts';
import type { RegistryAuth } from './challenges.ts';
import { defaultHost, hostDirectoryNames, parseHostsFile, type RegistryHost, type TlsFiles } from './hosts.ts';

const hostsFileBytesMax = 1 << 20;

/**
 * Returns the hosts of a registry in the order in which they are tried. The registry itself is the last one.
 *
 * @param registryDir need not exist; '' for none.
 * @throws {BerthError} FAILED_PRECONDITION when a file cannot be read or is invalid.
 */
export async function loadRegistryHosts(registryDir: string, domain: string): Promise<readonly RegistryHost[]> {
  if (registryDir === '') return [defaultHost(domain)];
  for (const name of hostDirectoryNames(domain)) {
    const directory = `${registryDir}/${name}`;
    const files = await listFiles(directory);
    if (files === undefined) continue;
    if (!files.includes('hosts.toml')) return [defaultHost(domain, toTlsFiles(directory, files))];
    return parseHostsFile(await readText(`${directory}/hosts.toml`), domain, `${directory}/hosts.toml`);
  }
  return [defaultHost(domain)];
}

/**
 * Reads the credentials for a host from a file in the format of Docker's config.json.
 *
 * @returns undefined when the file has none for it.
 * @throws {BerthError} FAILED_PRECONDITION when the file cannot be read or is invalid. The message contains none of its values.
 */
export async function readAuthFile(path: string, host: string): Promise<RegistryAuth | undefined> {
  return parseAuthFile(Buffer.from(await readText(path)), host, path);
}

async function listFiles(directory: string): Promise<readonly string[] | undefined> {
  try {
    return (await readdir(directory)).sort();
  } catch (error) {
    if (error instanceof Error && 'code' in error && (error.code === 'ENOENT' || error.code === 'ENOTDIR')) return undefined;
    throw failedPrecondition(`read registry configuration ${directory}: ${reasonOf(error)}`, error);
  }
}

async function readText(path: string): Promise<string> {
  try {
    await using file = await open(path, 'r');
    const { size } = await file.stat();
    if (size > hostsFileBytesMax) throw failedPrecondition(`${path}: size of ${size} bytes exceeds the limit of ${hostsFileBytesMax}`);
    return await file.readFile('utf8');
  } catch (error) {
    throw error instanceof BerthError ? error : failedPrecondition(`read registry configuration ${path}: ${reasonOf(error)}`, error);
  }
}

/** `*.crt` are certificate authorities; `x.cert` and `x.key` are a client certificate and its key. */
function toTlsFiles(directory: string, files: readonly string[]): TlsFiles {
  const pairs = files.filter((name) => name.endsWith('.cert')).map((name) => ({ cert: name, key: name.replace(/\.cert$/, '.key') }));
  const incomplete = pairs.find((pair) => !files.includes(pair.key));
  if (incomplete !== undefined) throw failedPrecondition(`${directory}: missing ${incomplete.key} for ${incomplete.cert}`);
  return {
    caFiles: files.filter((name) => name.endsWith('.crt')).map((name) => `${directory}/${name}`),
    clientPairs: pairs.map((pair) => ({ certFile: `${directory}/${pair.cert}`, keyFile: `${directory}/${pair.key}` })),
    skipVerify: false,
  };
}
