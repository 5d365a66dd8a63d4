/**
 * Reads the requested streams of an Exec or Attach request. Pure: the streaming server checks their combination.
 */
type Requested = {
  readonly tty?: boolean | undefined;
  readonly stdin?: boolean | undefined;
  readonly stdout?: boolean | undefined;
  readonly stderr?: boolean | undefined;
};

export function flagsFromRequest({ tty = false, stdin = false, stdout = false, stderr = false }: Requested): Record<keyof Requested, boolean> {
  return { tty, stdin, stdout, stderr };
}
