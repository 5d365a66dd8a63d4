/**
 * Builds the cAdvisor client. Needs its modules in Go's cache, or the network.
 */
import { buildGoProgram } from '../support/go-program.ts';

/** Builds the program if needed. @returns its path. @throws Error if Go is not installed or modules cannot be downloaded. */
export const prepareCadvisorClient = (): string => buildGoProgram('cadvisor-client', import.meta.dirname);
