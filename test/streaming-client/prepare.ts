/**
 * Builds the Go client of the streaming server. Needs its modules in Go's cache, or the network.
 */
import { buildGoProgram } from '../support/go-program.ts';

/** Builds the program if needed. @returns its path. @throws Error if Go is not installed or modules cannot be downloaded. */
export const prepareStreamingClient = (): string => buildGoProgram('streaming-client', import.meta.dirname);
