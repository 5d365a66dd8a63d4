/**
 * A daemon that does nothing but one pull: to be killed in the middle, or measured. Arguments: root directory, image name.
 */
import { readFileSync } from 'node:fs';
import { createUnpacker } from '../../../src/images/unpack/unpack.ts';
import { openNode } from '../../support/image-bed.ts';
import { workerFile } from '../../support/layer-bed.ts';

const [root = '', reference = ''] = process.argv.slice(2);
const unpacker = createUnpacker({ workerFile, workersMax: 2 });
const node = await openNode(root, unpacker);
console.log(`start ${process.memoryUsage().rss >> 10}`);
await node.pull(reference);
await unpacker.close();
// Not getrusage's peak: that begins with the size of the process that forked this one.
console.log(`peak ${/VmHWM:\s+([0-9]+) kB/.exec(readFileSync('/proc/self/status', 'utf8'))?.[1]}`);
