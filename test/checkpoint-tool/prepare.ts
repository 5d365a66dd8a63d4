/**
 * Builds checkpointctl, which reads the checkpoints of CRI-O, containerd and Podman. Needs its modules in Go's cache, or the network.
 */
import { buildGoProgram } from '../support/go-program.ts';

/** Builds the program if needed. @returns its path. @throws Error if Go is not installed or modules cannot be downloaded. */
export const prepareCheckpointTool = (): string =>
  buildGoProgram('checkpointctl', import.meta.dirname, ['exclude_graphdriver_btrfs'], 'github.com/checkpoint-restore/checkpointctl');
