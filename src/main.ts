/**
 * Entry point: parses the arguments, runs the command, and prints errors.
 *
 * Exit codes: 0 success, 1 the command failed, 2 invalid arguments or configuration.
 */
import { readFileSync } from 'node:fs';
import { examineNode } from './commands/doctor-node.ts';
import { explainContainer } from './commands/explain.ts';
import { runImageCommand } from './commands/image-command.ts';
import { showTop } from './commands/top.ts';
import { type Command, type ConfigSource, helpText, parseArguments } from './commands.ts';
import { defaultToml, type LoadedConfig, loadConfig } from './config.ts';
import { BerthError, reasonOf } from './lib/errors.ts';
import { monitorPath } from './monitor-path.ts';
import { serve } from './serve.ts';
import { version } from './version.ts';

type ConfiguredCommand = Extract<Command, ConfigSource>;

const texts = {
  version: () => `berth ${version}`,
  'config-default': () => defaultToml().trimEnd(),
  help: helpText,
};

// After a failed start, the daemon's watches and listeners would keep the process alive.
process.exit(await main());

async function main(): Promise<number> {
  let command: ConfiguredCommand;
  let loaded: LoadedConfig;
  try {
    const parsed = parseArguments(process.argv.slice(2));
    if (!('configFile' in parsed)) return print(texts[parsed.command]());
    command = parsed;
    loaded = readConfig(command);
  } catch (error) {
    return fail(error, error instanceof BerthError && error.code === 'INVALID_ARGUMENT' ? 2 : 1);
  }
  try {
    return await run(command, loaded);
  } catch (error) {
    return fail(error, 1);
  }
}

async function run(command: ConfiguredCommand, loaded: LoadedConfig): Promise<number> {
  const { config } = loaded;
  if (command.command === 'explain') return print(await explainContainer(config.socket, command.container));
  if (command.command === 'top') {
    await showTop(config.socket, command);
    return 0;
  }
  if (command.command === 'image') {
    const { text, isBad } = await runImageCommand(config, command);
    if (text !== '') print(text);
    return isBad ? 1 : 0;
  }
  if (command.command === 'doctor') {
    const { report, isBroken } = await examineNode(config, monitorPath, command.isJson);
    print(report);
    return isBroken ? 1 : 0;
  }
  await serve(loaded, () => readConfig(command).config);
  return 0;
}

function print(text: string): number {
  process.stdout.write(`${text}\n`);
  return 0;
}

function fail(error: unknown, exitCode: number): number {
  process.stderr.write(`berth: ${reasonOf(error)}\n`);
  return exitCode;
}

/** A missing file is an error only if it was given with --config. */
function readConfig(command: ConfigSource): LoadedConfig {
  let text = '';
  try {
    text = readFileSync(command.configFile, 'utf8');
  } catch (error) {
    if (command.isConfigFileNamed || !(error instanceof Error && 'code' in error && error.code === 'ENOENT')) throw error;
  }
  return loadConfig(text, command.flags);
}
