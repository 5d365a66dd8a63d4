/**
 * Reads the pages of the documentation, and their fenced blocks.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';

const root = resolve(import.meta.dirname, '../..');

/** A fenced block. `kind` is the text after the opening fence, such as `sh root`. */
export type Block = { readonly kind: string; readonly text: string };

/** `prose` is the text without the fenced blocks. `path` is relative to the top of the repository. */
export type Page = { readonly path: string; readonly text: string; readonly prose: string; readonly blocks: readonly Block[] };

export const docNames: readonly string[] = readdirSync(join(root, 'docs')).filter((name) => name.endsWith('.md'));

/** Returns the pages at the top of the repository and in docs/. */
export function readPages(): Page[] {
  return ['README.md', 'ARCHITECTURE.md', 'CONTRIBUTING.md', 'SECURITY.md', 'CHANGELOG.md', ...docNames.map((name) => join('docs', name))].map(
    readPage,
  );
}

function readPage(path: string): Page {
  const text = readFileSync(join(root, path), 'utf8');
  const fence = /^( *)```(.*)\n([\s\S]*?)^\1```$/gm;
  const blocks = [...text.matchAll(fence)].map(([, indent = '', kind = '', body = '']) => ({
    kind,
    text: body.replaceAll(new RegExp(`^${indent}`, 'gm'), ''),
  }));
  return { path, text, prose: text.replace(fence, ''), blocks };
}
