/**
 * Parses the command line, and prints the help. Pure.
 */

import type { ImageAction } from './commands/image-command.ts';
import { sortKeys, type TopOptions } from './commands/top-rows.ts';
import { type Flags, flagSettings } from './config.ts';
import { splitAtEquals, unknownText } from './lib/did-you-mean.ts';
import { invalidArgument } from './lib/errors.ts';

const defaultConfigFile = '/etc/berth/config.toml';

/** The sources of a command's settings. */
export type ConfigSource = { readonly configFile: string; readonly isConfigFileNamed: boolean; readonly flags: Flags };

export type Command =
  | ({ readonly command: 'serve' } & ConfigSource)
  | ({ readonly command: 'doctor'; readonly isJson: boolean } & ConfigSource)
  | ({ readonly command: 'explain'; readonly container: string } & ConfigSource)
  | ({ readonly command: 'top' } & TopOptions & ConfigSource)
  | ({ readonly command: 'image' } & ImageAction & ConfigSource)
  | { readonly command: 'version' | 'config-default' | 'help' };

/** Commands with `FLAGS` accept the flags of all settings. */
const commands = [
  { words: 'serve', usage: 'serve [FLAGS]', meaning: 'Run the daemon until SIGTERM. SIGHUP reloads log_level.' },
  {
    words: 'explain',
    usage: 'explain CONTAINER [FLAGS]',
    meaning: 'Print how a container was started: the duration of each step, and its plan, the list of system calls that created it.',
  },
  {
    words: 'top',
    usage: 'top [--once] [--interval SECONDS] [--sort KEY] [FLAGS]',
    meaning: `Show the resource usage of pods and containers, refreshed every two seconds; press q to quit. If input or output is not a terminal, print it once. KEY is one of ${sortKeys.join(', ')}.`,
  },
  {
    words: 'doctor',
    usage: 'doctor [--json] [FLAGS]',
    meaning:
      'Check the node and print a fix for each problem, or with --json an array of { check, verdict, what, fix }. The exit code is 1 if something is broken.',
  },
  { words: 'image ls', usage: 'image ls [FLAGS]', meaning: 'List the images on this node.' },
  { words: 'image pull', usage: 'image pull IMAGE [FLAGS]', meaning: 'Pull an image without credentials and show the progress.' },
  { words: 'pulls', usage: 'pulls [FLAGS]', meaning: 'List the pulls in progress. Alias: image pulls.' },
  {
    words: 'image import',
    usage: 'image import FILE|- [--name NAME] [FLAGS]',
    meaning:
      'Import images from an archive (OCI image layout or docker save, optionally compressed) in a file or on standard input. --name sets the name if the archive has one image.',
  },
  {
    words: 'image export',
    usage: 'image export IMAGE... [-o FILE|-] [FLAGS]',
    meaning: 'Export images as one archive, an OCI image layout that docker load also accepts, to a file or standard output.',
  },
  { words: 'image rm', usage: 'image rm IMAGE [FLAGS]', meaning: 'Remove an image and all its names.' },
  {
    words: 'image verify',
    usage: 'image verify [FLAGS]',
    meaning: 'Check every file of every image and list corrupt layers. Does not need the daemon. The exit code is 1 if something is corrupt.',
  },
  {
    words: 'image repair',
    usage: 'image repair [FLAGS]',
    meaning: 'Like image verify, but also remove corrupt images through the daemon. The next pull downloads them again.',
  },
  { words: 'config default', usage: 'config default', meaning: 'Print a configuration file with every setting, its default and its meaning.' },
  { words: 'version', usage: 'version', meaning: 'Print the version.' },
  { words: 'help', usage: 'help', meaning: 'Print this help. Alias: --help.' },
] as const;

/** Former names of image actions: accepted, but not in the help. */
const imageActionAliases: Readonly<Record<string, string>> = { mend: 'repair' };

/**
 * Parses the arguments after `berth`.
 *
 * @throws {BerthError} INVALID_ARGUMENT with the unknown word and the closest known one.
 */
export function parseArguments(argv: readonly string[]): Command {
  const [command = '', ...rest] = argv;
  if (argv.at(-1) === '--help') return { command: 'help' };
  if (command === 'version' && rest.length === 0) return { command: 'version' };
  if (command === 'config' && rest.length === 1 && rest[0] === 'default') return { command: 'config-default' };
  if (['help', '-h'].includes(command) && rest.length === 0) return { command: 'help' };
  if (command === 'serve') return { command, ...parseSource(rest) };
  if (command === 'doctor') return { command, isJson: rest.includes('--json'), ...parseSource(rest.filter((word) => word !== '--json')) };
  if (command === 'explain') return parseExplain(rest);
  if (command === 'top') return parseTop(rest);
  if (command === 'pulls') return { command: 'image', action: 'pulls', ...parseSource(rest) };
  if (command === 'image') {
    const image = parseImage(rest);
    if (image !== undefined) return image;
  }
  const unknown = argv.join(' ');
  const known = commands.map(({ words }) => words);
  throw invalidArgument(unknown === '' ? `missing command: want one of ${known.join(', ')}` : unknownText('command', unknown, known));
}

/** @returns undefined for an unknown action. */
function parseImage([word = '', ...rest]: readonly string[]): Command | undefined {
  const action = Object.hasOwn(imageActionAliases, word) ? imageActionAliases[word] : word;
  if (action === 'ls' || action === 'verify' || action === 'repair' || action === 'pulls') return { command: 'image', action, ...parseSource(rest) };
  if (action === 'import') return parseImport(rest);
  if (action === 'export') return parseExport(rest);
  if (action !== 'pull' && action !== 'rm') return undefined;
  const [image = '', ...flags] = rest;
  if (image === '' || image.startsWith('--')) throw invalidArgument(`image ${action}: missing image name before the flags`);
  return { command: 'image', action, image, ...parseSource(flags) };
}

function parseImport(words: readonly string[]): Command {
  const { value: name, rest } = takeOption(words, ['--name']);
  const [file = '', ...flags] = rest;
  if (file === '' || file.startsWith('--')) throw invalidArgument('image import: missing file (or - for standard input) before the flags');
  return { command: 'image', action: 'import', file, name, ...parseSource(flags) };
}

function parseExport(words: readonly string[]): Command {
  const { value: output = '-', rest } = takeOption(words, ['-o', '--output']);
  const end = rest.findIndex((word) => word.startsWith('--'));
  const [images, flags] = end < 0 ? [rest, []] : [rest.slice(0, end), rest.slice(end)];
  if (images.length === 0) throw invalidArgument('image export: missing image names before the flags');
  return { command: 'image', action: 'export', images, output, ...parseSource(flags) };
}

/** Removes one option of a command from its arguments, at any position. */
function takeOption(words: readonly string[], names: readonly string[]): { readonly value: string | undefined; readonly rest: readonly string[] } {
  const at = words.findIndex((word) => names.includes(splitAtEquals(word)[0]));
  if (at < 0) return { value: undefined, rest: words };
  const [name, inline] = splitAtEquals(words[at] ?? '');
  const value = inline ?? words[at + 1];
  if (value === undefined || value === '') throw invalidArgument(`flag ${name}: missing value`);
  return { value, rest: words.toSpliced(at, inline === undefined ? 2 : 1) };
}

function parseExplain([container = '', ...flags]: readonly string[]): Command {
  if (container === '' || container.startsWith('--')) throw invalidArgument('explain: missing container id (or a prefix of it) before the flags');
  return { command: 'explain', container, ...parseSource(flags) };
}

/** The flags of top can be mixed with those of the settings. */
function parseTop(words: readonly string[]): Command {
  const options: Record<string, string> = {};
  const rest: string[] = [];
  for (let index = 0; index < words.length; index += 1) {
    const [flag, inline] = splitAtEquals(words[index] ?? '');
    if (flag === '--once') options[flag] = 'true';
    else if (flag === '--interval' || flag === '--sort') options[flag] = inline ?? words[++index] ?? '';
    else rest.push(words[index] ?? '');
  }
  const seconds = Number(options['--interval'] ?? 2);
  if (!(seconds >= 0.1 && seconds <= 3600))
    throw invalidArgument(`flag --interval: invalid value "${options['--interval']}": must be 0.1 to 3600 seconds`);
  const sort = sortKeys.find((key) => key === (options['--sort'] ?? 'cpu'));
  if (sort === undefined) throw invalidArgument(unknownText('sort key', options['--sort'] ?? '', sortKeys));
  return { command: 'top', isOnce: '--once' in options, intervalMs: seconds * 1000, sort, ...parseSource(rest, ['--once', '--interval', '--sort']) };
}

/** @returns the output of `berth help`. */
export function helpText(): string {
  const list = (entries: readonly (readonly [string, string])[]) => entries.map(([name, meaning]) => `  ${name}\n      ${meaning}`).join('\n');
  const flags = flagSettings.map(({ flag, meaning }) => [`--${flag}`, meaning] as const);
  const configFlag = ['--config', `Configuration file (default ${defaultConfigFile}). Flags override it.`] as const;
  return `berth: a container runtime for Kubernetes nodes.\n\nCommands:\n${list(commands.map(({ usage, meaning }) => [usage, meaning]))}\n\nFlags:\n${list([configFlag, ...flags])}`;
}

/** @param others flags that the command also has, to suggest them. */
function parseSource(words: readonly string[], others: readonly string[] = []): ConfigSource {
  const known = new Map(flagSettings.map((setting) => [setting.flag, setting]));
  const flags: Record<string, string> = {};
  let configFile: string | undefined;
  for (let index = 0; index < words.length; index += 1) {
    const [word = '', inline] = splitAtEquals(words[index] ?? '');
    const name = word.replace(/^--/, '');
    const setting = known.get(name);
    if (!word.startsWith('--') || (name !== 'config' && setting === undefined)) {
      throw invalidArgument(unknownText('flag', word, [...others, '--config', ...[...known.keys()].map((flag) => `--${flag}`)]));
    }
    if (inline === undefined) index += 1;
    const value = inline ?? words[index];
    if (value === undefined || value === '') throw invalidArgument(`flag ${word}: missing value`);
    if (setting === undefined) configFile = value;
    else flags[setting.key] = setting.isList && flags[setting.key] !== undefined ? `${flags[setting.key]}:${value}` : value;
  }
  return { configFile: configFile ?? defaultConfigFile, isConfigFileNamed: configFile !== undefined, flags };
}
