/**
 * Builds the signature tool. Needs its modules in Go's cache, or the network.
 */
import { buildGoProgram } from '../support/go-program.ts';

/** Build tags that exclude the parts of the library that need C libraries. */
const tags = ['openpgp', 'storage_stub', 'docker_daemon_stub', 'fulcio_stub', 'rekor_stub'].map((name) => `containers_image_${name}`);

/** Builds the program if needed. @returns its path. @throws Error if Go is not installed or modules cannot be downloaded. */
export const prepareSignatureTool = (): string => buildGoProgram('signature-tool', import.meta.dirname, tags);
