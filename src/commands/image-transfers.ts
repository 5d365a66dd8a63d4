/**
 * `berth image pull`, `import` and `export`, with a progress display, and `berth pulls`.
 *
 * Results go to standard output, progress to standard error. A failed export leaves no file.
 */
import { once } from 'node:events';
import { createReadStream, createWriteStream, statSync } from 'node:fs';
import { rename, rm } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import type { Writable } from 'node:stream';
import { callOwn } from '../cri/client.ts';
import type { Contract } from '../cri/contract.ts';
import type { ExportResponse, ImportRequest, ImportResponse, PullResponse, PullsResponse, TransferProgress } from '../cri/wire/berth-messages.ts';
import { BerthError, failedTo, invalidArgument } from '../lib/errors.ts';
import { openProgressDisplay, type ProgressDisplay } from './progress-display.ts';
import { archiveLine, createRate, pullsTable, transferLines } from './transfer-report.ts';

const chunkBytes = 256 << 10;
/** Often enough for a progress bar. Drawing takes a millisecond. */
const drawIntervalMs = 200;

/** @returns the image's id. @throws {BerthError} with the daemon's error. */
export async function pullImage(contract: Contract, socket: string, image: string): Promise<string> {
  const responses = callOwn<PullResponse>(contract, socket, 'Pull', [{ image }]);
  return (await lastOf(responses, ({ progress }) => progress)).id ?? '';
}

export async function pullsText(contract: Contract, socket: string): Promise<string> {
  for await (const { pulls = [] } of callOwn<PullsResponse>(contract, socket, 'Pulls', [{}])) return pullsTable(pulls, Date.now());
  return '';
}

/** @param file `-` for standard input. @returns a line for each image. @throws {BerthError} with the daemon's error, or if the file cannot be read. */
export async function importArchive(
  contract: Contract,
  socket: string,
  { file, name }: { readonly file: string; readonly name: string | undefined },
): Promise<string> {
  const responses = callOwn<ImportResponse>(contract, socket, 'Import', importRequests(file, name));
  const { images = [] } = await lastOf(responses, ({ progress }) => progress);
  return images.map(({ id, names = [] }) => [id, ...(names.length === 0 ? ['<none>'] : names)].join(' ')).join('\n');
}

async function* importRequests(file: string, name: string | undefined): AsyncGenerator<ImportRequest> {
  yield name === undefined ? {} : { name };
  const source = file === '-' ? process.stdin : createReadStream(file, { highWaterMark: chunkBytes });
  try {
    for await (const archive of source as AsyncIterable<Buffer>) yield { archive };
  } catch (error) {
    throw failedTo(`read ${file === '-' ? 'standard input' : file}`, error);
  }
}

/** Shows the progress reported by the responses. @returns the last response. */
async function lastOf<Response>(
  responses: AsyncIterable<Response>,
  progressOf: (response: Response) => TransferProgress | null | undefined,
): Promise<Response> {
  const display = openProgressDisplay(process.stderr);
  const rate = createRate();
  let last: Response | undefined;
  try {
    for await (const response of responses) {
      last = response;
      const progress = progressOf(response);
      if (!progress) continue;
      const bytesPerSecond = rate.add(performance.now(), Number(progress.received_bytes ?? 0));
      display.show(transferLines(progress, bytesPerSecond, display.rowsMax()));
    }
  } finally {
    display.end();
  }
  if (last === undefined) throw new BerthError('INTERNAL', 'the daemon sent no response');
  return last;
}

/**
 * @param output `-` for standard output. A regular file gets its name when it is complete.
 * @returns '': there is no output besides the archive.
 * @throws {BerthError} with the daemon's error, or if the file cannot be written.
 */
export async function exportArchive(
  contract: Contract,
  socket: string,
  { images, output }: { readonly images: readonly string[]; readonly output: string },
): Promise<string> {
  if (output === '-' && process.stdout.isTTY) throw invalidArgument('cannot write an archive to a terminal: use -o FILE or redirect standard output');
  const responses = callOwn<ExportResponse>(contract, socket, 'Export', [{ images }]);
  if (output === '-') {
    await writeArchive(responses, process.stdout);
    return '';
  }
  // A pipe or device is written directly.
  const isRegular = statSync(output, { throwIfNoEntry: false })?.isFile() ?? true;
  const target = isRegular ? join(dirname(output), `.${basename(output)}.${process.pid}`) : output;
  const remove = (): Promise<void> => (isRegular ? rm(target, { force: true }) : Promise.resolve());
  const abort = (): void => void remove().finally(() => process.exit(130));
  process.once('SIGINT', abort).once('SIGTERM', abort);
  try {
    const file = createWriteStream(target, { flags: isRegular ? 'wx' : 'w' });
    await writeArchive(responses, file);
    await new Promise<void>((resolve, reject) => file.on('error', reject).end(resolve));
    if (isRegular) await rename(target, output);
  } catch (error) {
    await remove();
    throw error instanceof BerthError ? error : failedTo(`write ${output}`, error);
  }
  return '';
}

async function writeArchive(responses: AsyncIterable<ExportResponse>, output: Writable): Promise<void> {
  const display: ProgressDisplay = openProgressDisplay(process.stderr);
  const rate = createRate();
  let failure: Error | undefined;
  output.on('error', (error) => {
    failure = error;
  });
  let [done, total, nextMs] = [0, 0, 0];
  try {
    for await (const { archive, total_bytes: totalBytes } of responses) {
      total = Number(totalBytes ?? total);
      if (failure !== undefined) throw failure;
      if (archive === undefined || archive === null) continue;
      if (!output.write(archive)) await once(output, 'drain');
      done += archive.length;
      if (performance.now() < nextMs) continue;
      nextMs = performance.now() + drawIntervalMs;
      display.show([archiveLine(done, total, rate.add(performance.now(), done))]);
    }
    if (done !== total) throw new BerthError('INTERNAL', `received ${done} bytes of an archive of ${total} bytes`);
  } finally {
    display.end();
  }
}
