/**
 * Pulls one image, so that a test can kill the pull or measure its memory. Arguments: root directory, image name.
 */
import { readFileSync } from 'node:fs';
import { createUnpacker } from '../../../src/images/unpack/unpack.ts';
import { openNode } from '../../support/image-bed.ts';
import { workerFile } from '../../support/layer-bed.ts';

const [root = '', reference = ''] = process.argv.slice(2);
const unpacker = createUnpacker({ workerFile, workersMax: 2 });
const node = await openNode(root, unpacker);
console.log(`start ${process.memoryUsage().rss >> 10}`);
// Idle workers do not keep a process alive. The daemon's server does; without it, this process could end amid the pull.
const keepAlive = setInterval(() => {}, 60_000);
await node.pull(reference);
clearInterval(keepAlive);
await unpacker.close();
// Not ru_maxrss of getrusage(2): it includes the size of the parent before exec.
console.log(`peak ${/VmHWM:\s+([0-9]+) kB/.exec(readFileSync('/proc/self/status', 'utf8'))?.[1]}`);
