/**
 * The named fds that a plan inherits: opened one by one, passed on and closed together.
 */
import assert from 'node:assert/strict';
import { close } from '../../sys/call/syscalls.ts';
import type { Reg } from '../plan/plan.ts';

export type Registers = {
  /** Takes ownership of an fd. @returns its name. */
  readonly add: (name: Reg, fd: number) => Reg;
  readonly names: readonly Reg[];
  /** The daemon's copy of the fd. */
  readonly fdOf: (name: Reg) => number;
  /** Gives up an fd: the caller owns it. undefined if there is none of this name. */
  readonly take: (name: Reg) => number | undefined;
  /** In the order of `names`. */
  readonly fds: readonly number[];
  /** Closes the daemon's copies. Idempotent. */
  readonly closeAll: () => void;
};

export function createRegisters(): Registers {
  const names: Reg[] = [];
  const fds: number[] = [];
  return {
    names,
    fds,
    add: (name, fd) => {
      names.push(name);
      fds.push(fd);
      return name;
    },
    fdOf: (name) => {
      const fd = fds[names.indexOf(name)];
      assert(fd !== undefined, `register ${name} is not open`);
      return fd;
    },
    take: (name) => {
      const index = names.indexOf(name);
      if (index < 0) return undefined;
      names.splice(index, 1);
      return fds.splice(index, 1)[0];
    },
    closeAll: () => {
      for (const fd of fds.splice(0)) close(fd);
    },
  };
}
