/**
 * Implements the CRI layer's `Images` with the image store, the puller, import and export.
 */
import type { Images, ImageView } from './cri/deps.ts';
import { type ExportDeps, exportImages } from './images/archive/export-images.ts';
import { type ImportDeps, importImages } from './images/archive/import-images.ts';
import { findReference } from './images/document/reference.ts';
import type { ImagePuller } from './images/pull/pull.ts';
import type { ImageRecord } from './images/store/image-record.ts';
import { notFound } from './lib/errors.ts';

export type NodeImagesDeps = ImportDeps & ExportDeps & { readonly puller: ImagePuller };

export function createNodeImages(deps: NodeImagesDeps): Images {
  const { store, puller, policy } = deps;
  // One view object per record: lists cache encoded bytes by it.
  const views = new WeakMap<ImageRecord, ImageView>();
  const viewOf = (record: ImageRecord): ImageView => {
    const cached = views.get(record);
    if (cached !== undefined) return cached;
    const { id, repoTags, repoDigests, sizeBytes, isPinned, config } = record;
    const view = { id, repoTags, repoDigests, sizeBytes, isPinned, user: config.user };
    views.set(record, view);
    return view;
  };
  return {
    pull: (request) => puller.pullImage(request),
    pulls: puller.pulls,
    importArchive: async (request) => (await importImages(deps, request)).map(viewOf),
    exportArchive: (references, signal) => exportImages(deps, references, signal),
    find: (reference) => {
      const record = store.find(reference);
      return record && viewOf(record);
    },
    list: () => store.list().map(viewOf),
    remove: (reference) => store.remove(reference),
    fsInfo: () => store.fsInfo(),
    findUsable: (reference, name) => {
      const record = store.find(reference);
      if (record === undefined) return undefined;
      // Named by id: one accepted name suffices.
      const names = findReference(name) === undefined ? [...record.repoTags, ...record.repoDigests] : [name];
      const refusal = policy?.refusal(names, record.signatures);
      if (refusal !== undefined) throw refusal;
      return { ...store.rootOf(record), image: viewOf(record), diffIds: record.diffIds };
    },
    explain: async ({ id }) => {
      const record = store.find(id);
      if (record === undefined) throw notFound(`image ${id} is not on this node`);
      const { chainId, configText, layers } = record;
      return { chainID: chainId, imageSpec: JSON.parse(configText) as unknown, layers };
    },
  };
}
