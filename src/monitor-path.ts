/**
 * Path of the monitor binary. It is the same relative to the sources and to the bundle. Data only.
 */
import { join } from 'node:path';

export const monitorPath = join(import.meta.dirname, '../build/monitor');
