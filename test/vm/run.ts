/**
 * Runs a command as root in a virtual machine with cgroup v2, Debian's kernel, and this checkout mounted at the same path.
 *
 *   npm run vm -- [--systemd] [--apparmor] [--timeout SECONDS] COMMAND [ARG ...]
 *
 * --systemd: pid 1 is systemd instead of a small script. --apparmor: enables AppArmor in the kernel. Exits with the command's exit code, with 124 after
 * the timeout (default 600 s), and with 125 if the machine cannot be built or crashes. The checkout is writable; all other changes are discarded. The
 * only network is loopback. Without KVM the processors are emulated, about ten times slower than the host.
 */
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { type Image, prepareImage, whyNoVm } from './image.ts';

type Options = {
  readonly hasSystemd: boolean;
  readonly hasAppArmor: boolean;
  readonly timeoutSeconds: number;
  readonly command: readonly string[];
};

const checkout = resolve(import.meta.dirname, '../..');
const timeoutCode = 124;
const failureCode = 125;
const consoleLinesShown = 40;

process.exitCode = await main(process.argv.slice(2));

async function main(argv: readonly string[]): Promise<number> {
  const options = readOptions(argv);
  if (options === undefined) return fail('usage: npm run vm -- [--systemd] [--apparmor] [--timeout SECONDS] COMMAND [ARG ...]');
  const reason = whyNoVm();
  if (reason !== undefined) return fail(reason);
  const image = prepareImage();
  const jobDir = mkdtempSync(join(tmpdir(), 'berth-vm-'));
  try {
    writeJob(jobDir, options.command);
    const isTimeout = await runMachine([...image.qemu, ...machineFlags(image, options, jobDir)], jobDir, options.timeoutSeconds);
    if (existsSync(join(jobDir, 'share/code'))) return Number(readFileSync(join(jobDir, 'share/code'), 'utf8'));
    const text = readFileSync(join(jobDir, 'console'), 'utf8').trimEnd().split('\n').slice(-consoleLinesShown).join('\n');
    fail(`${isTimeout ? `timeout after ${options.timeoutSeconds} s` : 'the machine crashed'}; last lines of its console:\n${text}`);
    return isTimeout ? timeoutCode : failureCode;
  } finally {
    rmSync(jobDir, { recursive: true, force: true });
  }
}

/** Parses the arguments. The first argument that is not an option starts the command, which may have its own options. */
function readOptions(argv: readonly string[]): Options | undefined {
  const options = { systemd: { type: 'boolean' }, apparmor: { type: 'boolean' }, timeout: { type: 'string' } } as const;
  const { tokens } = parseArgs({ args: [...argv], options, strict: false, tokens: true });
  const start = tokens.find(({ kind }) => kind !== 'option');
  const at = start?.index ?? argv.length;
  const { values } = parseArgs({ args: argv.slice(0, at), options, strict: false });
  const isKnown = Object.keys(values).every((name) => name in options);
  const command = argv.slice(start?.kind === 'option-terminator' ? at + 1 : at);
  const timeoutSeconds = Number(values.timeout ?? 600);
  if (!isKnown || command.length === 0 || !(timeoutSeconds > 0)) return undefined;
  return { hasSystemd: values.systemd === true, hasAppArmor: values.apparmor === true, timeoutSeconds, command };
}

/** Writes the files that guest/vm-job reads to `share`, and creates QEMU's console file. */
function writeJob(jobDir: string, command: readonly string[]): void {
  mkdirSync(join(jobDir, 'share'));
  const word = (text: string) => `'${text.replaceAll("'", "'\\''")}'`;
  const lines = [
    `cd ${word(process.cwd())} || cd ${word(checkout)}`,
    `export PATH=${word(join(process.execPath, '..'))}:"$PATH"`,
    command.map(word).join(' '),
  ];
  writeFileSync(join(jobDir, 'share/checkout'), checkout);
  writeFileSync(join(jobDir, 'share/job'), `${lines.join('\n')}\n`);
  writeFileSync(join(jobDir, 'console'), '');
}

function machineFlags(image: Image, options: Options, jobDir: string): string[] {
  const share = (tag: string, path: string) => [
    ...['-fsdev', `local,id=${tag},path=${quote(path)},security_model=passthrough,multidevs=remap`],
    ...['-device', `virtio-9p-pci,fsdev=${tag},mount_tag=${tag}`],
  ];
  return [
    ...'-no-user-config -nodefaults -display none -no-reboot -M q35 -m 3G -smp 2'.split(' '),
    ...processorFlags(image),
    ...['-kernel', image.kernel, '-initrd', image.initramfs, '-append', kernelCommandLine(options)],
    // snapshot=on: changes go to a temporary file.
    ...['-drive', `file=${quote(image.disk)},if=none,id=disk,format=raw,snapshot=on,cache=unsafe`],
    ...['-device', 'virtio-blk-pci,drive=disk'],
    ...['-chardev', `file,id=console,path=${quote(join(jobDir, 'console'))}`, '-serial', 'chardev:console'],
    ...'-chardev stdio,id=output,signal=off -device virtio-serial-pci -device virtserialport,chardev=output'.split(' '),
    ...share('job', join(jobDir, 'share')),
    ...share('checkout', checkout),
  ];
}

/** Uses KVM if it works. The device node may exist without it, for example in a virtual machine. */
function processorFlags(image: Image): string[] {
  const hasKvm = existsSync('/dev/kvm') && /^flags.* (vmx|svm) /m.test(readFileSync('/proc/cpuinfo', 'utf8'));
  if (hasKvm) return ['-accel', 'kvm', '-cpu', 'host'];
  return ['-accel', `tcg,tb-size=512,thread=${image.isThreadSafe ? 'multi' : 'single'}`, '-cpu', 'max,la57=off'];
}

function kernelCommandLine(options: Options): string {
  const first = options.hasSystemd ? '/lib/systemd/systemd systemd.unit=vm.target systemd.show_status=0' : '/usr/local/sbin/first-process';
  const fast = 'quiet loglevel=4 mitigations=off init_on_alloc=0 audit=0 nowatchdog tsc=reliable';
  return `console=ttyS0 panic=-1 ${fast} apparmor=${options.hasAppArmor ? 1 : 0} first=${first}`;
}

/** Escapes a value of a QEMU option: commas are doubled. */
function quote(path: string): string {
  return path.replaceAll(',', ',,');
}

/** Runs the machine, which is killed when this process exits for any reason. @returns whether it was killed after the timeout. */
async function runMachine(command: readonly string[], jobDir: string, timeoutSeconds: number): Promise<boolean> {
  // Keep stdin open: at its end QEMU would close the output too.
  const child = spawn('setpriv', ['--pdeathsig', 'KILL', ...command], {
    stdio: ['pipe', 'inherit', 'inherit'],
    env: { ...process.env, TMPDIR: jobDir },
  });
  let isTimeout = false;
  const timer = setTimeout(() => {
    isTimeout = true;
    child.kill('SIGKILL');
  }, timeoutSeconds * 1000);
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => child.kill('SIGKILL'));
  await new Promise((settle) => child.once('exit', settle).once('error', settle));
  clearTimeout(timer);
  return isTimeout;
}

/** Prints an error. @returns the exit code. */
function fail(text: string): number {
  process.stderr.write(`vm: ${text}\n`);
  return failureCode;
}
