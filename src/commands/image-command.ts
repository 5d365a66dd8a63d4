/**
 * `berth image`: manages images through the daemon, over the CRI socket. Only `verify` reads the image store itself.
 */
import type { Config } from '../config.ts';
import { callRuntime } from '../cri/client.ts';
import { loadContract } from '../cri/contract.ts';
import type { ImageStatusResponse, ListImagesResponse } from '../cri/wire/messages.ts';
import { verifyStore } from '../images/store/verify.ts';
import { notFound } from '../lib/errors.ts';
import { imageTable, verificationText } from './image-report.ts';
import { exportArchive, importArchive, pullImage, pullsText } from './image-transfers.ts';

/** An action of `berth image`, with its arguments. */
export type ImageAction =
  | { readonly action: 'ls' }
  | { readonly action: 'verify' }
  | { readonly action: 'repair' }
  | { readonly action: 'pull'; readonly image: string }
  | { readonly action: 'rm'; readonly image: string }
  /** `file`: `-` for standard input. */
  | { readonly action: 'import'; readonly file: string; readonly name: string | undefined }
  /** `output`: `-` for standard output. */
  | { readonly action: 'export'; readonly images: readonly string[]; readonly output: string }
  | { readonly action: 'pulls' };

/** `text`: '' if there is no output. `isBad`: the exit code is 1. */
export type ImageCommandResult = { readonly text: string; readonly isBad: boolean };

/** @throws {BerthError} if the action needs the daemon and none answers on the socket, or with the daemon's error. */
export async function runImageCommand(config: Config, command: ImageAction): Promise<ImageCommandResult> {
  if (command.action === 'verify') return await verify(config);
  if (command.action === 'repair') return await repair(config);
  const contract = loadContract();
  const call = <Response>(rpc: string, request: object) => callRuntime<Response>(contract, config.socket, rpc, request);
  if (command.action === 'ls') {
    const { images = [] } = await call<ListImagesResponse>('ListImages', {});
    return { text: imageTable(images), isBad: false };
  }
  if (command.action === 'pulls') return { text: await pullsText(contract, config.socket), isBad: false };
  if (command.action === 'pull') return { text: await pullImage(contract, config.socket, command.image), isBad: false };
  if (command.action === 'import') return { text: await importArchive(contract, config.socket, command), isBad: false };
  if (command.action === 'export') return { text: await exportArchive(contract, config.socket, command), isBad: false };
  const image = { image: command.image };
  const { image: found } = await call<ImageStatusResponse>('ImageStatus', { image });
  if (!found) throw notFound(`image ${command.image} is not on this node`);
  await call('RemoveImage', { image });
  return { text: found.id ?? '', isBad: false };
}

async function verify(config: Config): Promise<ImageCommandResult> {
  const found = await verifyStore(config.root);
  return { text: verificationText(found), isBad: found.damages.length > 0 || found.badImages.length > 0 };
}

async function repair(config: Config): Promise<ImageCommandResult> {
  const found = await verifyStore(config.root);
  const text = verificationText(found);
  const corrupt = [...new Set(found.damages.flatMap(({ images }) => images))];
  if (corrupt.length === 0) return { text, isBad: found.damages.length > 0 || found.badImages.length > 0 };
  const contract = loadContract();
  for (const image of corrupt) await callRuntime(contract, config.socket, 'RemoveImage', { image: { image } });
  const { damages: remaining, badImages } = await verifyStore(config.root);
  const inUse = remaining.map(({ layer }) => `layer ${layer}: still used by a container; remove the container, then run berth image repair again`);
  return { text: [text, ...corrupt.map((image) => `removed ${image}`), ...inUse].join('\n'), isBad: remaining.length > 0 || badImages.length > 0 };
}
