/**
 * Runs a seccomp program as the kernel does, for tests: interprets the subset of classic BPF that seccomp filters use.
 */
import assert from 'node:assert/strict';

export type Call = { readonly arch: number; readonly number: number; readonly args?: readonly bigint[] };

/** Returns the program's result for a call: action and errno in one number. Fails on an instruction or a jump that the kernel rejects. */
export function runFilter(program: Buffer, call: Call): number {
  const data = Buffer.alloc(64);
  data.writeUInt32LE(call.number >>> 0, 0);
  data.writeUInt32LE(call.arch, 4);
  for (const [i, arg] of (call.args ?? []).entries()) data.writeBigUInt64LE(BigInt.asUintN(64, arg), 16 + 8 * i);
  let accumulator = 0;
  for (let at = 0; at < program.length / 8; at++) {
    const [code, k] = [program.readUInt16LE(8 * at), program.readUInt32LE(8 * at + 4)];
    const branch = (isTrue: boolean): number => program.readUInt8(8 * at + (isTrue ? 2 : 3));
    if (code === 0x06) return k;
    if (code === 0x20) accumulator = data.readUInt32LE(k);
    else if (code === 0x54) accumulator = (accumulator & k) >>> 0;
    else if (code === 0x05) at += k;
    else if (code === 0x15) at += branch(accumulator === k);
    else if (code === 0x25) at += branch(accumulator > k);
    else if (code === 0x35) at += branch(accumulator >= k);
    else if (code === 0x45) at += branch((accumulator & k) !== 0);
    else assert.fail(`unknown instruction 0x${code.toString(16)}`);
  }
  return assert.fail('the program ends without a return instruction');
}
