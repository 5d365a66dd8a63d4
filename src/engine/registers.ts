/**
 * The fds that a plan inherits: opened one by one under a name, handed over together, closed together.
 */
import { close } from '../sys/syscalls.ts';
import type { Reg } from './plan.ts';

export type Registers = {
  /** Takes over an fd. @returns its name. */
  readonly add: (name: Reg, fd: number) => Reg;
  readonly names: readonly Reg[];
  /** In the order of `names`. */
  readonly fds: readonly number[];
  /** Closes the daemon's copies. Once. */
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
    closeAll: () => {
      for (const fd of fds.splice(0)) close(fd);
    },
  };
}
