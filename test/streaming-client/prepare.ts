/**
 * Builds the Go client of the streaming server, once for each state of its source. Needs the modules in Go's cache, or the network.
 */
import { buildGoProgram } from '../support/go-program.ts';

/** @returns the program. @throws when Go is not there, or its modules cannot be had. */
export const prepareStreamingClient = (): string => buildGoProgram('streaming-client', import.meta.dirname);
