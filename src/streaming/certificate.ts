/**
 * The streaming server's certificate: read at start, and again when its files change, so that a renewed one needs no restart.
 */
import { readFileSync, unwatchFile, watchFile } from 'node:fs';
import { createSecureContext } from 'node:tls';
import { failedTo } from '../lib/errors.ts';
import type { Log } from '../lib/log.ts';

/** PEM files. Symbolic links are followed, which is how Kubernetes renews files. */
export type CertificateFiles = { readonly certFile: string; readonly keyFile: string };

export type Certificate = { readonly cert: Buffer; readonly key: Buffer };

/** Files are looked at so often: inotify does not see a link further up change. */
const lookMs = 10_000;

/** @throws {BerthError} INTERNAL when the files cannot be read or do not fit each other. */
export function readCertificate({ certFile, keyFile }: CertificateFiles): Certificate {
  try {
    const certificate = { cert: readFileSync(certFile), key: readFileSync(keyFile) };
    createSecureContext(certificate);
    return certificate;
  } catch (error) {
    throw failedTo(`certificate of the streaming server from ${certFile} and ${keyFile}`, error);
  }
}

/** Calls back with each new certificate that can be used. @returns what ends it. */
export function watchCertificate(log: Log, files: CertificateFiles, onChange: (certificate: Certificate) => void, intervalMs = lookMs): () => void {
  const look = () => {
    try {
      onChange(readCertificate(files));
      log.info({ certFile: files.certFile }, 'streaming certificate renewed');
    } catch (error) {
      // Half written, or wrong: the old one serves until the next change.
      log.warn({ error: String(error) }, 'streaming certificate not renewed');
    }
  };
  const names = [files.certFile, files.keyFile];
  for (const name of names) watchFile(name, { interval: intervalMs, persistent: false }, look);
  return () => {
    for (const name of names) unwatchFile(name, look);
  };
}
