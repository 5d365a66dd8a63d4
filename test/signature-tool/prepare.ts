/**
 * Builds the signature tool, once for each state of its source. Needs the modules in Go's cache, or the network.
 */
import { buildGoProgram } from '../support/go-program.ts';

/** Without the parts of the library that want C libraries. */
const tags = ['openpgp', 'storage_stub', 'docker_daemon_stub', 'fulcio_stub', 'rekor_stub'].map((name) => `containers_image_${name}`);

/** @returns the program. @throws when Go is not there, or its modules cannot be had. */
export const prepareSignatureTool = (): string => buildGoProgram('signature-tool', import.meta.dirname, tags);
