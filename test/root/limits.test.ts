/**
 * Tests that the kernel enforces each container limit, with this machine's cgroup version and the cgroup driver that berth chooses. Needs root.
 */
import { limitTests } from '../support/limits.ts';

limitTests({ driverName: 'auto', canReloadSystemd: false });
