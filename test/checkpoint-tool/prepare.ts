/**
 * Builds checkpointctl, which reads checkpoints of CRI-O, containerd and Podman. Needs its modules in Go's cache, or the network.
 */
import { buildGoProgram } from '../support/go-program.ts';

/** @returns the program. @throws when Go is not there, or its modules cannot be had. */
export const prepareCheckpointTool = (): string =>
  buildGoProgram('checkpointctl', import.meta.dirname, ['exclude_graphdriver_btrfs'], 'github.com/checkpoint-restore/checkpointctl');
