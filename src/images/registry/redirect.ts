/**
 * Decides where a redirect leads and which headers go there, by the rules of Go's HTTP client, which registries and their storage are built for.
 *
 * Pure. Source: Go's net/http, client.go, shouldCopyHeaderOnRedirect() and makeHeadersCopier().
 */
import { oneLine } from '../document/untrusted-json.ts';
import type { TlsFiles } from './hosts.ts';
import { HostFailure } from './registry-error.ts';

type Redirectable = {
  readonly url: URL;
  readonly ownHeaders: Readonly<Record<string, string | readonly string[]>>;
  readonly tls: TlsFiles;
  readonly isVerified?: boolean;
};

/**
 * Returns the request for the target of a redirect. Credentials go to the first host, on any port, and to its subdomains; once dropped, they stay
 * dropped. All other headers, such as Range, are kept.
 *
 * @param initial the URL of the first request.
 * @throws {HostFailure} `wrong` for a target that is not followed: Go would also follow one from https to http whose content nobody checks.
 */
export function redirected<Request extends Redirectable>(request: Request, location: string, initial: URL): Request {
  const url = URL.parse(location, request.url.href);
  // Messages show the origin only: the query of a signed URL is a credential.
  if (url === null || (url.protocol !== 'https:' && url.protocol !== 'http:')) throw new HostFailure('wrong', 'redirect target is not an http URL');
  const losesTls = url.protocol === 'http:' && request.url.protocol === 'https:';
  if (losesTls && request.isVerified !== true) throw new HostFailure('wrong', `redirect from https to ${oneLine(url.origin)}`);
  if (!losesTls && isHostOrSubdomain(url.hostname, initial.hostname)) return { ...request, url };
  // The client certificate is for the registry only. The authorities are kept: the storage of a private registry usually has the same ones.
  return { ...request, url, ownHeaders: {}, tls: { ...request.tls, clientPairs: [] } };
}

function isHostOrSubdomain(host: string, parent: string): boolean {
  return host === parent || (host.endsWith(`.${parent}`) && !host.includes(':'));
}
