/**
 * What of `berth image` moves bytes: pulls that show how they stand, archives in and out.
 *
 * Results go to standard output, progress to standard error. What does not end well leaves no file.
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
/** Bars need no more; each is drawn in a millisecond. */
const drawIntervalMs = 200;

/** @returns the image's id. @throws {BerthError} as the daemon answers. */
export async function pullImage(contract: Contract, socket: string, image: string): Promise<string> {
  const answers = callOwn<PullResponse>(contract, socket, 'Pull', [{ image }]);
  return (await lastOf(answers, ({ progress }) => progress)).id ?? '';
}

export async function pullsText(contract: Contract, socket: string): Promise<string> {
  for await (const { pulls = [] } of callOwn<PullsResponse>(contract, socket, 'Pulls', [{}])) return pullsTable(pulls, Date.now());
  return '';
}

/** @param file `-` for standard input. @returns a line for each image. @throws {BerthError} as the daemon answers, and for a file that cannot be read. */
export async function importArchive(
  contract: Contract,
  socket: string,
  { file, name }: { readonly file: string; readonly name: string | undefined },
): Promise<string> {
  const answers = callOwn<ImportResponse>(contract, socket, 'Import', requestsOf(file, name));
  const { images = [] } = await lastOf(answers, ({ progress }) => progress);
  return images.map(({ id, names = [] }) => [id, ...(names.length === 0 ? ['<none>'] : names)].join(' ')).join('\n');
}

async function* requestsOf(file: string, name: string | undefined): AsyncGenerator<ImportRequest> {
  yield name === undefined ? {} : { name };
  const source = file === '-' ? process.stdin : createReadStream(file, { highWaterMark: chunkBytes });
  try {
    for await (const archive of source as AsyncIterable<Buffer>) yield { archive };
  } catch (error) {
    throw failedTo(`reading ${file === '-' ? 'standard input' : file}`, error);
  }
}

/** Shows the progress that the answers tell. @returns the last answer. */
async function lastOf<Answer>(answers: AsyncIterable<Answer>, progressOf: (answer: Answer) => TransferProgress | null | undefined): Promise<Answer> {
  const display = openProgressDisplay(process.stderr);
  const rate = createRate();
  let last: Answer | undefined;
  try {
    for await (const answer of answers) {
      last = answer;
      const progress = progressOf(answer);
      if (!progress) continue;
      const bytesPerSecond = rate.add(performance.now(), Number(progress.received_bytes ?? 0));
      display.show(transferLines(progress, bytesPerSecond, display.rowsMax()));
    }
  } finally {
    display.end();
  }
  if (last === undefined) throw new BerthError('INTERNAL', 'the daemon gave no answer');
  return last;
}

/**
 * @param output `-` for standard output; a file gets its name when it is whole.
 * @returns '': the archive says it all.
 * @throws {BerthError} as the daemon answers, and for a file that cannot be written.
 */
export async function exportArchive(
  contract: Contract,
  socket: string,
  { images, output }: { readonly images: readonly string[]; readonly output: string },
): Promise<string> {
  if (output === '-' && process.stdout.isTTY) throw invalidArgument('an archive is not for a terminal: give -o FILE, or send the output elsewhere');
  const answers = callOwn<ExportResponse>(contract, socket, 'Export', [{ images }]);
  if (output === '-') {
    await writeArchive(answers, process.stdout);
    return '';
  }
  // A pipe or a device is written as it is.
  const isPlain = statSync(output, { throwIfNoEntry: false })?.isFile() ?? true;
  const target = isPlain ? join(dirname(output), `.${basename(output)}.${process.pid}`) : output;
  const remove = (): Promise<void> => (isPlain ? rm(target, { force: true }) : Promise.resolve());
  const end = (): void => void remove().finally(() => process.exit(130));
  process.once('SIGINT', end).once('SIGTERM', end);
  try {
    const file = createWriteStream(target, { flags: isPlain ? 'wx' : 'w' });
    await writeArchive(answers, file);
    await new Promise<void>((resolve, reject) => file.on('error', reject).end(resolve));
    if (isPlain) await rename(target, output);
  } catch (error) {
    await remove();
    throw error instanceof BerthError ? error : failedTo(`writing ${output}`, error);
  }
  return '';
}

async function writeArchive(answers: AsyncIterable<ExportResponse>, output: Writable): Promise<void> {
  const display: ProgressDisplay = openProgressDisplay(process.stderr);
  const rate = createRate();
  let failure: Error | undefined;
  output.on('error', (error) => {
    failure = error;
  });
  let [done, total, nextMs] = [0, 0, 0];
  try {
    for await (const { archive, total_bytes: totalBytes } of answers) {
      total = Number(totalBytes ?? total);
      if (failure !== undefined) throw failure;
      if (archive === undefined || archive === null) continue;
      if (!output.write(archive)) await once(output, 'drain');
      done += archive.length;
      if (performance.now() < nextMs) continue;
      nextMs = performance.now() + drawIntervalMs;
      display.show([archiveLine(done, total, rate.add(performance.now(), done))]);
    }
    if (done !== total) throw new BerthError('INTERNAL', `the archive has ${done} bytes, not ${total}`);
  } finally {
    display.end();
  }
}
