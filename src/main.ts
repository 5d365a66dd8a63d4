/**
 * The command line: reads arguments, runs the command, and turns what goes wrong into a sentence and an exit code.
 *
 * Exit codes: 0 done, 1 it cannot run here, 2 the arguments or the configuration are wrong.
 */
import { readFileSync } from 'node:fs';
import { type Command, type Config, defaultToml, loadConfig, parseArguments } from './config.ts';
import { BerthError, reasonOf } from './lib/errors.ts';
import { serve } from './serve.ts';
import { version } from './version.ts';

process.exitCode = await main();

async function main(): Promise<number> {
  let config: Config;
  try {
    const command = parseArguments(process.argv.slice(2));
    if (command.command === 'version') return say(`berth ${version}`);
    if (command.command === 'config-default') return say(defaultToml().trimEnd());
    config = readConfig(command);
  } catch (error) {
    return fail(error, error instanceof BerthError && error.code === 'INVALID_ARGUMENT' ? 2 : 1);
  }
  try {
    await serve(config);
    return 0;
  } catch (error) {
    return fail(error, 1);
  }
}

function say(text: string): number {
  process.stdout.write(`${text}\n`);
  return 0;
}

function fail(error: unknown, exitCode: number): number {
  process.stderr.write(`berth: ${reasonOf(error)}\n`);
  return exitCode;
}

/** The default file may be missing; one that was named may not. */
function readConfig(command: Extract<Command, { command: 'serve' }>): Config {
  let text = '';
  try {
    text = readFileSync(command.configFile, 'utf8');
  } catch (error) {
    if (command.isConfigFileNamed || !(error instanceof Error && 'code' in error && error.code === 'ENOENT')) throw error;
  }
  return loadConfig(text, command.flags);
}
