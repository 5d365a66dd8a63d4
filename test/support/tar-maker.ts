/**
 * Builds tar archives for tests, including invalid ones that no tar program creates.
 */

export type Member = {
  /** One character for each byte (latin1). Paths longer than 100 bytes are stored in a PAX header. */
  readonly path: string;
  /** The type flag. Default: `5` if the path ends in `/`, else `0`. */
  readonly type?: string;
  readonly content?: Buffer | string;
  /** Size in the header. Default: the content's length. */
  readonly sizeBytes?: number;
  readonly mode?: number;
  readonly uid?: number;
  readonly gid?: number;
  readonly mtime?: number;
  readonly link?: string;
  readonly major?: number;
  readonly minor?: number;
  readonly pax?: Readonly<Record<string, string | Buffer>>;
  /** Bytes written into the header before its checksum is computed. */
  readonly patch?: { readonly at: number; readonly bytes: Buffer };
};

/** Returns the archive. @param withEnd append the two zero blocks that mark its end. */
export function makeTar(members: readonly Member[], withEnd = true): Buffer {
  return Buffer.concat([...members.flatMap(memberBlocks), ...(withEnd ? [Buffer.alloc(1024)] : [])]);
}

/** Returns the records of a PAX header. */
export function paxRecords(values: Readonly<Record<string, string | Buffer>>): Buffer {
  const records = Object.entries(values).map(([key, value]) => {
    const rest = Buffer.concat([Buffer.from(` ${key}=`), typeof value === 'string' ? Buffer.from(value, 'latin1') : value, Buffer.from('\n')]);
    let length = rest.length + 1;
    while (String(length).length + rest.length !== length) length += 1;
    return Buffer.concat([Buffer.from(String(length)), rest]);
  });
  return Buffer.concat(records);
}

function memberBlocks(member: Member): Buffer[] {
  const long: Record<string, string> = {};
  if (member.path.length > 100) long['path'] = member.path;
  if ((member.link ?? '').length > 100) long['linkpath'] = member.link ?? '';
  const pax = { ...long, ...member.pax };
  const before = Object.keys(pax).length === 0 ? [] : memberBlocks({ path: 'PaxHeaders/x', type: 'x', content: paxRecords(pax) });
  const content = typeof member.content === 'string' ? Buffer.from(member.content) : (member.content ?? Buffer.alloc(0));
  return [...before, header(member, content.length), content, Buffer.alloc((512 - (content.length % 512)) % 512)];
}

function header(member: Member, length: number): Buffer {
  const block = Buffer.alloc(512);
  const octal = (value: number, at: number, width: number): void => void block.write(value.toString(8).padStart(width - 1, '0'), at, 'latin1');
  block.write(member.path.slice(0, 100), 0, 'latin1');
  octal(member.mode ?? (member.path.endsWith('/') ? 0o755 : 0o644), 100, 8);
  octal(member.uid ?? 0, 108, 8);
  octal(member.gid ?? 0, 116, 8);
  octal(member.sizeBytes ?? length, 124, 12);
  octal(member.mtime ?? 1_000_000_000, 136, 12);
  block.write(member.type ?? (member.path.endsWith('/') ? '5' : '0'), 156, 'latin1');
  block.write((member.link ?? '').slice(0, 100), 157, 'latin1');
  block.write('ustar\x0000', 257, 'latin1');
  octal(member.major ?? 0, 329, 8);
  octal(member.minor ?? 0, 337, 8);
  member.patch?.bytes.copy(block, member.patch.at);
  block.fill(' ', 148, 156);
  octal(
    block.reduce((sum, byte) => sum + byte, 0),
    148,
    7,
  );
  block[155] = 0x20;
  return block;
}
