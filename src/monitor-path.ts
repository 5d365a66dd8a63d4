/**
 * Where the monitor's program lies: the same way from the sources and from the bundle.
 */
import { join } from 'node:path';

export const monitorPath = join(import.meta.dirname, '../build/monitor');
