/**
 * Caches the encoded items of lists until they change, because the kubelet lists everything every second. Pure except for this cache.
 *
 * Records are immutable and a status is always replaced as a whole, so identical objects have identical bytes.
 */

import type { ItemBytes, ItemEncoders } from '../deps.ts';
import { ownBytes } from '../from-request/checks.ts';
import { container, image, podSandbox } from './to-response.ts';

/** Returns encoders for single items. Each result includes the field's tag, so results can be concatenated. */
export function createItemBytes(encoders: ItemEncoders): ItemBytes {
  return {
    sandboxes: cached(
      (view) => view.record,
      (view) => view.status,
      (view) => encoders.sandbox(podSandbox(view)),
    ),
    containers: cached(
      (view) => view.record,
      (view) => view.status,
      (view) => encoders.container(container(view)),
    ),
    images: cached(
      (view) => view,
      (view) => view,
      (view) => encoders.image(image(view)),
    ),
  };
}

function cached<View>(key: (view: View) => object, version: (view: View) => object, encode: (view: View) => Buffer): (view: View) => Buffer {
  const cache = new WeakMap<object, { readonly version: object; readonly bytes: Buffer }>();
  return (view) => {
    const known = cache.get(key(view));
    if (known?.version === version(view)) return known.bytes;
    const [bytes = Buffer.alloc(0)] = ownBytes([encode(view)]);
    cache.set(key(view), { version: version(view), bytes });
    return bytes;
  };
}
