/**
 * Builds a cAdvisor of its own library, once for each state of its source. Needs the modules in Go's cache, or the network.
 */
import { buildGoProgram } from '../support/go-program.ts';

/** @returns the program. @throws when Go is not there, or its modules cannot be had. */
export const prepareCadvisorClient = (): string => buildGoProgram('cadvisor-client', import.meta.dirname);
