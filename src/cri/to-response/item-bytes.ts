/**
 * Keeps the encoded form of what lists show, for as long as it does not change: the kubelet asks for all of it every second. Pure but for that memory.
 *
 * Records never change and a status is replaced as a whole, so both being the same objects means the same bytes.
 */

import type { ItemBytes, ItemEncoders } from '../deps.ts';
import { ownBytes } from '../from-request/checks.ts';
import { container, image, podSandbox } from './to-response.ts';

/** Bytes of one item, with the field's tag in front: they can be put one after another. */
export function createItemBytes(encoders: ItemEncoders): ItemBytes {
  return {
    sandboxes: keepBytes(
      (view) => view.record,
      (view) => view.status,
      (view) => encoders.sandbox(podSandbox(view)),
    ),
    containers: keepBytes(
      (view) => view.record,
      (view) => view.status,
      (view) => encoders.container(container(view)),
    ),
    images: keepBytes(
      (view) => view,
      (view) => view,
      (view) => encoders.image(image(view)),
    ),
  };
}

function keepBytes<View>(key: (view: View) => object, stamp: (view: View) => object, encode: (view: View) => Buffer): (view: View) => Buffer {
  const kept = new WeakMap<object, { readonly stamp: object; readonly bytes: Buffer }>();
  return (view) => {
    const known = kept.get(key(view));
    if (known?.stamp === stamp(view)) return known.bytes;
    const [bytes = Buffer.alloc(0)] = ownBytes([encode(view)]);
    kept.set(key(view), { stamp: stamp(view), bytes });
    return bytes;
  };
}
