/**
 * Which streams an Exec or Attach request asks for. Pure: whether they make sense together is the streaming server's to say.
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
