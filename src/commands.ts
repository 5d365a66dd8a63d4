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
 * Parses the arguments after `berth`. Flags may be anywhere, also before the command; after `--`, all words are arguments.
 *
 * @throws {BerthError} INVALID_ARGUMENT with the unknown word and the closest known one.
 */
export function parseArguments(argv: readonly string[]): Command {
  const end = argv.indexOf('--');
  const helps = argv.slice(0, end < 0 ? argv.length : end);
  if (helps.includes('--help') || argv[0] === '-h') return { command: 'help' };
  const line = parseLine(argv);
  const [command = '', ...rest] = line.words;
  if (command === 'help' && rest.length === 0) return only(line, [], { command });
  if (command === 'version' && rest.length === 0) return only(line, [], { command });
  if (command === 'config' && rest.length === 1 && rest[0] === 'default') return only(line, [], { command: 'config-default' });
  if (command === 'serve') return noWords(rest, only(line, [], { command, ...line.source }));
  if (command === 'doctor') return noWords(rest, only(line, ['--json'], { command, isJson: line.options.has('--json'), ...line.source }));
  if (command === 'explain') {
    const [container, ...others] = rest;
    if (container === undefined) throw invalidArgument('explain: missing container id (or a prefix of it)');
    return noWords(others, only(line, [], { command, container, ...line.source }));
  }
  if (command === 'top') return noWords(rest, parseTop(line));
  if (command === 'pulls') return noWords(rest, only(line, [], { command: 'image', action: 'pulls', ...line.source }));
  const image = command === 'image' ? parseImage(rest, line) : undefined;
  if (image !== undefined) return image;
  const unknown = line.words.join(' ');
  const known = commands.map(({ words }) => words);
  throw invalidArgument(unknown === '' ? `missing command: want one of ${known.join(', ')}` : unknownText('command', unknown, known));
}

/** The words that are neither flags nor their values; the values of the flags of commands, by name; the flags of settings. */
type Line = { readonly words: readonly string[]; readonly options: ReadonlyMap<string, string>; readonly source: ConfigSource };

/** The flags that only some commands have. A switch has no value. */
const optionNames: Readonly<Record<string, string>> = {
  '--json': '--json',
  '--once': '--once',
  '--interval': '--interval',
  '--sort': '--sort',
  '--name': '--name',
  '-o': '--output',
  '--output': '--output',
};
const switches: readonly string[] = ['--json', '--once'];

function parseLine(argv: readonly string[]): Line {
  const known = new Map(flagSettings.map((setting) => [`--${setting.flag}`, setting]));
  const words: string[] = [];
  const options = new Map<string, string>();
  const flags: Record<string, string> = {};
  let configFile: string | undefined;
  for (let index = 0; index < argv.length; index += 1) {
    const word = argv[index] ?? '';
    if (word === '--') return { words: [...words, ...argv.slice(index + 1)], options, source: sourceOf(configFile, flags) };
    // A single hyphen is standard input or output.
    if (!word.startsWith('-') || word === '-') {
      words.push(word);
      continue;
    }
    const [flag, inline] = splitAtEquals(word);
    const option = Object.hasOwn(optionNames, flag) ? optionNames[flag] : undefined;
    const setting = known.get(flag);
    if (option === undefined && flag !== '--config' && setting === undefined) throw unknownFlag(flag, suggestionsFor(argv));
    if (option !== undefined && switches.includes(option)) {
      options.set(option, '');
      continue;
    }
    if (inline === undefined) index += 1;
    const value = inline ?? argv[index];
    if (value === undefined || (value === '' && option !== '--interval')) throw invalidArgument(`flag ${flag}: missing value`);
    if (option !== undefined) options.set(option, value);
    else if (setting === undefined) configFile = value;
    else flags[setting.key] = setting.isList && flags[setting.key] !== undefined ? `${flags[setting.key]}:${value}` : value;
  }
  return { words, options, source: sourceOf(configFile, flags) };
}

function sourceOf(configFile: string | undefined, flags: Flags): ConfigSource {
  return { configFile: configFile ?? defaultConfigFile, isConfigFileNamed: configFile !== undefined, flags };
}

/** Returns the flags to suggest besides those of settings: the line is not parsed yet, so any word may be the command. */
function suggestionsFor(argv: readonly string[]): readonly string[] {
  if (argv.includes('top')) return ['--once', '--interval', '--sort'];
  if (argv.includes('doctor')) return ['--json'];
  return argv.includes('image') ? ['--name', '--output'] : [];
}

/** @param others flags besides those of the settings, to suggest them. */
function unknownFlag(flag: string, others: readonly string[]): Error {
  return invalidArgument(unknownText('flag', flag, [...others, '--config', ...flagSettings.map((setting) => `--${setting.flag}`)]));
}

/** Returns the command, unless the line has flags of other commands. */
function only<T>(line: Line, allowed: readonly string[], command: T): T {
  const other = [...line.options.keys()].find((name) => !allowed.includes(name));
  if (other !== undefined) throw unknownFlag(other, allowed);
  return command;
}

/** Returns the command, unless words are left that it does not take. */
function noWords<T>([word]: readonly string[], command: T): T {
  if (word !== undefined) throw unknownFlag(word, []);
  return command;
}

/** @returns undefined for an unknown action. */
function parseImage([word = '', ...rest]: readonly string[], line: Line): Command | undefined {
  const { options, source } = line;
  const action = Object.hasOwn(imageActionAliases, word) ? imageActionAliases[word] : word;
  if (action === 'ls' || action === 'verify' || action === 'repair' || action === 'pulls')
    return noWords(rest, only(line, [], { command: 'image', action, ...source }));
  if (action === 'export') {
    if (rest.length === 0) throw invalidArgument('image export: missing image names');
    return only(line, ['--output'], { command: 'image', action, images: rest, output: options.get('--output') ?? '-', ...source });
  }
  const [subject, ...others] = rest;
  if (action === 'import') {
    if (subject === undefined) throw invalidArgument('image import: missing file (or - for standard input)');
    return noWords(others, only(line, ['--name'], { command: 'image', action, file: subject, name: options.get('--name'), ...source }));
  }
  if (action !== 'pull' && action !== 'rm') return undefined;
  if (subject === undefined) throw invalidArgument(`image ${action}: missing image name`);
  return noWords(others, only(line, [], { command: 'image', action, image: subject, ...source }));
}

function parseTop(line: Line): Command {
  const { options, source } = line;
  const interval = options.get('--interval') ?? '2';
  const seconds = Number(interval);
  if (!(seconds >= 0.1 && seconds <= 3600)) throw invalidArgument(`flag --interval: invalid value "${interval}": must be 0.1 to 3600 seconds`);
  const sort = sortKeys.find((key) => key === (options.get('--sort') ?? 'cpu'));
  if (sort === undefined) throw invalidArgument(unknownText('sort key', options.get('--sort') ?? '', sortKeys));
  const command = { command: 'top', isOnce: options.has('--once'), intervalMs: seconds * 1000, sort, ...source } as const;
  return only(line, ['--once', '--interval', '--sort'], command);
}

/** @returns the output of `berth help`. */
export function helpText(): string {
  const list = (entries: readonly (readonly [string, string])[]) => entries.map(([name, meaning]) => `  ${name}\n      ${meaning}`).join('\n');
  const flags = flagSettings.map(({ flag, meaning }) => [`--${flag}`, meaning] as const);
  const configFlag = ['--config', `Configuration file (default ${defaultConfigFile}). Flags override it.`] as const;
  return `berth: a container runtime for Kubernetes nodes.\n\nCommands:\n${list(commands.map(({ usage, meaning }) => [usage, meaning]))}\n\nFlags:\n${list([configFlag, ...flags])}`;
}
