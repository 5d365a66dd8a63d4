/**
 * `berth image`: asks the running daemon about its images, over the socket that the kubelet uses; and reads the store itself to verify it.
 */
import type { Config } from '../config.ts';
import { callRuntime } from '../cri/client.ts';
import { loadContract } from '../cri/contract.ts';
import type { ImageStatusResponse, ListImagesResponse } from '../cri/wire/messages.ts';
import { verifyStore } from '../images/store/verify.ts';
import { notFound } from '../lib/errors.ts';
import { imageTable, verificationText } from './image-report.ts';
import { exportArchive, importArchive, pullImage, pullsText } from './image-transfers.ts';

/** What `berth image` does. */
export type ImageAction =
  | { readonly action: 'ls' }
  | { readonly action: 'verify' }
  | { readonly action: 'mend' }
  | { readonly action: 'pull'; readonly image: string }
  | { readonly action: 'rm'; readonly image: string }
  /** `file`: `-` for standard input. */
  | { readonly action: 'import'; readonly file: string; readonly name: string | undefined }
  /** `output`: `-` for standard output. */
  | { readonly action: 'export'; readonly images: readonly string[]; readonly output: string }
  | { readonly action: 'pulls' };

/** `text`: '' for nothing to say. */
export type ImageCommandResult = { readonly text: string; readonly isBad: boolean };

/** @throws {BerthError} when nobody answers on the socket where one is needed, and as the daemon answers. */
export async function runImageCommand(config: Config, command: ImageAction): Promise<ImageCommandResult> {
  if (command.action === 'verify' || command.action === 'mend') return await verify(config, command.action === 'mend');
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

async function verify(config: Config, isMending: boolean): Promise<ImageCommandResult> {
  const found = await verifyStore(config.root);
  const text = verificationText(found);
  const damaged = [...new Set(found.damages.flatMap(({ images }) => images))];
  const isBad = damaged.length > 0 || found.damages.length > 0 || found.badImages.length > 0;
  if (!isMending || damaged.length === 0) return { text, isBad };
  const contract = loadContract();
  for (const image of damaged) await callRuntime(contract, config.socket, 'RemoveImage', { image: { image } });
  const left = await verifyStore(config.root);
  const held = left.damages.map(({ layer }) => `layer ${layer}: a container still uses it; remove the container, then mend again`);
  return { text: [text, ...damaged.map((image) => `removed ${image}`), ...held].join('\n'), isBad: left.damages.length > 0 };
}
