/**
 * Runs a command as root in a virtual machine with cgroup v2, a kernel of Debian's, and this checkout at its own path.
 *
 *   npm run vm -- [--systemd] [--apparmor] [--timeout SECONDS] COMMAND [ARG ...]
 *
 * --systemd: systemd is process 1, else a small script. --apparmor: the kernel has AppArmor on. Exits with the command's exit code; 124 when the
 * machine was not done in time (default 600 s), 125 when it could not be made or died. The checkout is writable; all else that changes is gone with
 * the machine. There is no network but loopback. Without KVM everything is emulated, some ten times slower than outside.
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
const lateCode = 124;
const brokenCode = 125;
const consoleLinesShown = 40;

process.exitCode = await main(process.argv.slice(2));

async function main(argv: readonly string[]): Promise<number> {
  const options = readOptions(argv);
  if (options === undefined) return complain('usage: npm run vm -- [--systemd] [--apparmor] [--timeout SECONDS] COMMAND [ARG ...]');
  const lack = whyNoVm();
  if (lack !== undefined) return complain(lack);
  const image = prepareImage();
  const jobDir = mkdtempSync(join(tmpdir(), 'berth-vm-'));
  try {
    writeJob(jobDir, options.command);
    const isLate = await runMachine([...image.qemu, ...machineFlags(image, options, jobDir)], jobDir, options.timeoutSeconds);
    if (existsSync(join(jobDir, 'share/code'))) return Number(readFileSync(join(jobDir, 'share/code'), 'utf8'));
    const text = readFileSync(join(jobDir, 'console'), 'utf8').trimEnd().split('\n').slice(-consoleLinesShown).join('\n');
    complain(`${isLate ? `not done after ${options.timeoutSeconds} s` : 'it died'}; the end of its console:\n${text}`);
    return isLate ? lateCode : brokenCode;
  } finally {
    rmSync(jobDir, { recursive: true, force: true });
  }
}

/** All that follows the first word that is no option is the command, with its own options. */
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

/** What guest/vm-job reads and writes, in `share`; and files of qemu's beside it. */
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
    ...['-kernel', image.kernel, '-initrd', image.initramfs, '-append', kernelWords(options)],
    // Read by this machine alone: its changes go to a temporary file.
    ...['-drive', `file=${quote(image.disk)},if=none,id=disk,format=raw,snapshot=on,cache=unsafe`],
    ...['-device', 'virtio-blk-pci,drive=disk'],
    ...['-chardev', `file,id=console,path=${quote(join(jobDir, 'console'))}`, '-serial', 'chardev:console'],
    ...'-chardev stdio,id=output,signal=off -device virtio-serial-pci -device virtserialport,chardev=output'.split(' '),
    ...share('job', join(jobDir, 'share')),
    ...share('checkout', checkout),
  ];
}

/** KVM where it works: a device node alone does not tell, as in machines that are virtual themselves. */
function processorFlags(image: Image): string[] {
  const isVirtual = existsSync('/dev/kvm') && /^flags.* (vmx|svm) /m.test(readFileSync('/proc/cpuinfo', 'utf8'));
  if (isVirtual) return ['-accel', 'kvm', '-cpu', 'host'];
  return ['-accel', `tcg,tb-size=512,thread=${image.isThreadSafe ? 'multi' : 'single'}`, '-cpu', 'max,la57=off'];
}

function kernelWords(options: Options): string {
  const first = options.hasSystemd ? '/lib/systemd/systemd systemd.unit=vm.target systemd.show_status=0' : '/usr/local/sbin/first-process';
  const quick = 'quiet loglevel=4 mitigations=off init_on_alloc=0 audit=0 nowatchdog tsc=reliable';
  return `console=ttyS0 panic=-1 ${quick} apparmor=${options.hasAppArmor ? 1 : 0} first=${first}`;
}

/** In values of qemu's options a comma is written twice. */
function quote(path: string): string {
  return path.replaceAll(',', ',,');
}

/** The machine ends with this process, however that ends. @returns whether it was ended for being late. */
async function runMachine(command: readonly string[], jobDir: string, timeoutSeconds: number): Promise<boolean> {
  // An input that stays open: at its end qemu would drop the output too.
  const child = spawn('setpriv', ['--pdeathsig', 'KILL', ...command], {
    stdio: ['pipe', 'inherit', 'inherit'],
    env: { ...process.env, TMPDIR: jobDir },
  });
  let isLate = false;
  const timer = setTimeout(() => {
    isLate = true;
    child.kill('SIGKILL');
  }, timeoutSeconds * 1000);
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => child.kill('SIGKILL'));
  await new Promise((settle) => child.once('exit', settle).once('error', settle));
  clearTimeout(timer);
  return isLate;
}

function complain(text: string): number {
  process.stderr.write(`vm: ${text}\n`);
  return brokenCode;
}
