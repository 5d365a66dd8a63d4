/**
 * The command line: its commands, the flags that they take, and the help. Pure.
 */

import type { ImageAction } from './commands/image-command.ts';
import { sortKeys, type TopOptions } from './commands/top-rows.ts';
import { type Flags, flagSettings } from './config.ts';
import { splitAtEquals, unknownText } from './lib/did-you-mean.ts';
import { invalidArgument } from './lib/errors.ts';

const defaultConfigFile = '/etc/berth/config.toml';

/** Where a command's settings come from. */
export type ConfigSource = { readonly configFile: string; readonly isConfigFileNamed: boolean; readonly flags: Flags };

export type Command =
  | ({ readonly command: 'serve' } & ConfigSource)
  | ({ readonly command: 'doctor'; readonly isJson: boolean } & ConfigSource)
  | ({ readonly command: 'explain'; readonly container: string } & ConfigSource)
  | ({ readonly command: 'top' } & TopOptions & ConfigSource)
  | ({ readonly command: 'image' } & ImageAction & ConfigSource)
  | { readonly command: 'version' | 'config-default' | 'help' };

/** Those with `FLAGS` take the flags of the settings. */
const commands = [
  { words: 'serve', usage: 'serve [FLAGS]', meaning: 'Runs the daemon until SIGTERM; SIGHUP makes it read log_level again.' },
  {
    words: 'explain',
    usage: 'explain CONTAINER [FLAGS]',
    meaning: 'Prints how a container was started: the time that each step took, and its plan, operation by operation.',
  },
  {
    words: 'top',
    usage: 'top [--once] [--interval SECONDS] [--sort KEY] [FLAGS]',
    meaning: `Shows what pods and containers use, anew every two seconds, until q; once where the output is no terminal. KEY is ${sortKeys.join(', ')}.`,
  },
  {
    words: 'doctor',
    usage: 'doctor [--json] [FLAGS]',
    meaning:
      'Checks the node: what is missing, and how to mend it; with --json as an array of { check, verdict, what, fix }. Exit code 1 when something is broken.',
  },
  { words: 'image ls', usage: 'image ls [FLAGS]', meaning: 'Lists the images that the daemon has.' },
  { words: 'image pull', usage: 'image pull IMAGE [FLAGS]', meaning: 'Makes the daemon pull an image.' },
  { words: 'pulls', usage: 'pulls [FLAGS]', meaning: 'Lists the pulls that are under way, and how they stand. Also: image pulls.' },
  {
    words: 'image import',
    usage: 'image import FILE|- [--name NAME] [FLAGS]',
    meaning:
      'Takes images out of an archive (OCI image layout or docker save, also compressed), from a file or standard input; with --name the one image gets that name.',
  },
  {
    words: 'image export',
    usage: 'image export IMAGE... [-o FILE|-] [FLAGS]',
    meaning: 'Writes images as one archive, an OCI image layout that docker load reads too, to a file or standard output.',
  },
  { words: 'image rm', usage: 'image rm IMAGE [FLAGS]', meaning: 'Removes an image with all its names.' },
  {
    words: 'image verify',
    usage: 'image verify [FLAGS]',
    meaning: 'Reads every file of every image again and names what is damaged. Needs no daemon. Exit code 1 when something is.',
  },
  {
    words: 'image mend',
    usage: 'image mend [FLAGS]',
    meaning: 'As image verify, and makes the daemon remove the images that are damaged: the next pull fetches them anew.',
  },
  { words: 'config default', usage: 'config default', meaning: 'Prints the configuration file with every setting at its default.' },
  { words: 'version', usage: 'version', meaning: 'Prints the version.' },
  { words: 'help', usage: 'help', meaning: 'Prints this.' },
] as const;

/**
 * Reads the words after `berth`.
 * @throws {BerthError} INVALID_ARGUMENT naming the unknown word and the nearest known one.
 */
export function parseArguments(argv: readonly string[]): Command {
  const [command = '', ...rest] = argv;
  if (command === 'version' && rest.length === 0) return { command: 'version' };
  if (command === 'config' && rest.length === 1 && rest[0] === 'default') return { command: 'config-default' };
  if (['help', '--help', '-h'].includes(command) && rest.length === 0) return { command: 'help' };
  if (command === 'serve') return { command, ...parseSource(rest) };
  if (command === 'doctor') return { command, isJson: rest.includes('--json'), ...parseSource(rest.filter((word) => word !== '--json')) };
  if (command === 'explain') return parseExplain(rest);
  if (command === 'top') return parseTop(rest);
  if (command === 'pulls') return { command: 'image', action: 'pulls', ...parseSource(rest) };
  if (command === 'image') {
    const image = parseImage(rest);
    if (image !== undefined) return image;
  }
  const wrong = argv.join(' ');
  const known = commands.map(({ words }) => words);
  throw invalidArgument(wrong === '' ? `no command given: ${known.join(', ')}` : unknownText('command', wrong, known));
}

/** @returns undefined for an action that there is not. */
function parseImage([action = '', ...rest]: readonly string[]): Command | undefined {
  if (action === 'ls' || action === 'verify' || action === 'mend' || action === 'pulls') return { command: 'image', action, ...parseSource(rest) };
  if (action === 'import') return parseImport(rest);
  if (action === 'export') return parseExport(rest);
  if (action !== 'pull' && action !== 'rm') return undefined;
  const [image = '', ...flags] = rest;
  if (image === '' || image.startsWith('--')) throw invalidArgument(`image ${action} needs the name of an image before any flag`);
  return { command: 'image', action, image, ...parseSource(flags) };
}

function parseImport(words: readonly string[]): Command {
  const { value: name, rest } = takeOption(words, ['--name']);
  const [file = '', ...flags] = rest;
  if (file === '' || file.startsWith('--')) throw invalidArgument('image import needs a file, or - for standard input, before any flag');
  return { command: 'image', action: 'import', file, name, ...parseSource(flags) };
}

function parseExport(words: readonly string[]): Command {
  const { value: output = '-', rest } = takeOption(words, ['-o', '--output']);
  const end = rest.findIndex((word) => word.startsWith('--'));
  const [images, flags] = end < 0 ? [rest, []] : [rest.slice(0, end), rest.slice(end)];
  if (images.length === 0) throw invalidArgument('image export needs the names of images before any flag');
  return { command: 'image', action: 'export', images, output, ...parseSource(flags) };
}

/** Takes one option of a command out of its words, wherever it stands. */
function takeOption(words: readonly string[], names: readonly string[]): { readonly value: string | undefined; readonly rest: readonly string[] } {
  const at = words.findIndex((word) => names.includes(splitAtEquals(word)[0]));
  if (at < 0) return { value: undefined, rest: words };
  const [name, inline] = splitAtEquals(words[at] ?? '');
  const value = inline ?? words[at + 1];
  if (value === undefined || value === '') throw invalidArgument(`flag ${name} needs a value`);
  return { value, rest: words.toSpliced(at, inline === undefined ? 2 : 1) };
}

function parseExplain([container = '', ...flags]: readonly string[]): Command {
  if (container === '' || container.startsWith('--'))
    throw invalidArgument('explain needs the id of a container, or the beginning of one, before any flag');
  return { command: 'explain', container, ...parseSource(flags) };
}

/** Its own flags stand anywhere among the others. */
function parseTop(words: readonly string[]): Command {
  const own: Record<string, string> = {};
  const rest: string[] = [];
  for (let index = 0; index < words.length; index += 1) {
    const [flag, inline] = splitAtEquals(words[index] ?? '');
    if (flag === '--once') own[flag] = 'true';
    else if (flag === '--interval' || flag === '--sort') own[flag] = inline ?? words[++index] ?? '';
    else rest.push(words[index] ?? '');
  }
  const seconds = Number(own['--interval'] ?? 2);
  if (!(seconds >= 0.1 && seconds <= 3600)) throw invalidArgument(`flag --interval: ${own['--interval']} is no number of seconds from 0.1 to 3600`);
  const sort = sortKeys.find((key) => key === (own['--sort'] ?? 'cpu'));
  if (sort === undefined) throw invalidArgument(unknownText('key', own['--sort'] ?? '', sortKeys));
  return { command: 'top', isOnce: '--once' in own, intervalMs: seconds * 1000, sort, ...parseSource(rest) };
}

/** @returns what `berth help` prints. */
export function helpText(): string {
  const list = (entries: readonly (readonly [string, string])[]) => entries.map(([name, meaning]) => `  ${name}\n      ${meaning}`).join('\n');
  const flags = flagSettings.map(({ flag, meaning }) => [`--${flag}`, meaning] as const);
  const configFlag = ['--config', `The configuration file; default ${defaultConfigFile}. Flags win over it.`] as const;
  return `berth: a container runtime for Kubernetes nodes.\n\nCommands:\n${list(commands.map(({ usage, meaning }) => [usage, meaning]))}\n\nFlags:\n${list([configFlag, ...flags])}`;
}

function parseSource(words: readonly string[]): ConfigSource {
  const known = new Map(flagSettings.map((setting) => [setting.flag, setting]));
  const flags: Record<string, string> = {};
  let configFile: string | undefined;
  for (let index = 0; index < words.length; index += 1) {
    const [word = '', inline] = splitAtEquals(words[index] ?? '');
    const name = word.replace(/^--/, '');
    const setting = known.get(name);
    if (!word.startsWith('--') || (name !== 'config' && setting === undefined)) {
      throw invalidArgument(unknownText('flag', word, ['--config', ...[...known.keys()].map((flag) => `--${flag}`)]));
    }
    if (inline === undefined) index += 1;
    const value = inline ?? words[index];
    if (value === undefined || value === '') throw invalidArgument(`flag ${word} needs a value`);
    if (setting === undefined) configFile = value;
    else flags[setting.key] = setting.isList && flags[setting.key] !== undefined ? `${flags[setting.key]}:${value}` : value;
  }
  return { configFile: configFile ?? defaultConfigFile, isConfigFileNamed: configFile !== undefined, flags };
}
