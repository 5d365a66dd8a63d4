/**
 * Each limit of a container by its effect, on the cgroups of this machine and with the driver that berth would choose. Needs root.
 */
import { limitTests } from '../support/limits.ts';

limitTests({ wanted: 'auto', reloads: false });
