/**
 * Reads the streaming server's certificate at startup and reloads it when its files change, without a restart.
 */
import { readFileSync, unwatchFile, watchFile } from 'node:fs';
import { createSecureContext } from 'node:tls';
import { failedTo } from '../lib/errors.ts';
import type { Log } from '../lib/log.ts';

/** PEM files. Symbolic links are followed: Kubernetes renews files by replacing a link. */
export type CertificateFiles = { readonly certFile: string; readonly keyFile: string };

export type Certificate = { readonly cert: Buffer; readonly key: Buffer };

/** Polling interval. inotify does not report a change of a symbolic link in the path. */
const pollIntervalMs = 10_000;

/** Reads and checks a certificate. @throws {BerthError} INTERNAL if the files cannot be read or the key does not match. */
export function readCertificate({ certFile, keyFile }: CertificateFiles): Certificate {
  try {
    const certificate = { cert: readFileSync(certFile), key: readFileSync(keyFile) };
    createSecureContext(certificate);
    return certificate;
  } catch (error) {
    throw failedTo(`load streaming certificate ${certFile} with key ${keyFile}`, error);
  }
}

/** Calls back with each new valid certificate. @returns a function that stops watching. */
export function watchCertificate(
  log: Log,
  files: CertificateFiles,
  onChange: (certificate: Certificate) => void,
  intervalMs = pollIntervalMs,
): () => void {
  const reload = () => {
    try {
      onChange(readCertificate(files));
      log.info({ certFile: files.certFile }, 'streaming certificate reloaded');
    } catch (error) {
      // Half written or invalid: keep the old certificate until the next change.
      log.warn({ error: String(error) }, 'failed to reload the streaming certificate');
    }
  };
  const names = [files.certFile, files.keyFile];
  for (const name of names) watchFile(name, { interval: intervalMs, persistent: false }, reload);
  return () => {
    for (const name of names) unwatchFile(name, reload);
  };
}
