/**
 * ImageFsInfo: the disk usage of images, which controls the kubelet's image garbage collection.
 */
import type { CriDeps } from '../../deps.ts';
import type { ImageFsInfoResponse } from '../../wire/messages.ts';

/** Images and writable layers are on the same file system. */
export async function imageFsInfo({ images, nowNs }: Pick<CriDeps, 'images' | 'nowNs'>): Promise<ImageFsInfoResponse> {
  const { mountpoint, usedBytes, inodesUsed } = await images.fsInfo();
  const usage = {
    timestamp: nowNs(),
    fs_id: { mountpoint },
    used_bytes: { value: String(usedBytes) },
    inodes_used: { value: String(inodesUsed) },
  };
  return { image_filesystems: [usage], container_filesystems: [usage] };
}
