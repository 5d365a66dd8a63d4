/**
 * Compares the documentation with the code: commands, flags, settings, metrics, alerts, messages, files and links.
 *
 * Every fenced block has a mark that docs/development.md explains. Here, `sh` is run, and the names in all other commands are checked; test/root/docs.test.ts
 * runs `sh root`. Examples of files must be accepted by the code that reads them.
 */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, globSync, readFileSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { test } from 'node:test';
import { parse as parseYaml } from 'yaml';
import { parseList } from '../src/cni/list.ts';
import { helpText, parseArguments } from '../src/commands.ts';
import { loadConfig, settings } from '../src/config.ts';
import { describeVictim } from '../src/engine/oom/oom-report.ts';
import { parseHostsFile } from '../src/images/registry/hosts.ts';
import { parsePolicy } from '../src/images/signature/policy.ts';
import { docNames, type Page, readPages } from './support/doc-pages.ts';

const root = resolve(import.meta.dirname, '..');

const pages = readPages();
const scripts = (JSON.parse(read('package.json')) as { scripts: Readonly<Record<string, string>> }).scripts;
const testFiles = ['src', 'test', 'scripts', 'bench'].flatMap((top) => globSync(`${top}/**/*.test.ts`, { cwd: root }));
const settingNames = settings.flatMap(({ key, aliases = [] }) => [key, ...aliases]);
const sources = ['src/**/*.ts', 'src/**/*.c', 'src/**/*.h', 'bin/*'].flatMap((pattern) => globSync(pattern, { cwd: root }));
const sourceText = sources.filter((path) => !path.endsWith('.test.ts')).map(read);

/** Programs of the system that the pages may use. A name that is not here is a typing error, or belongs here. */
const systemPrograms: readonly string[] = [
  ...['apt-get', 'cat', 'cd', 'cp', 'curl', 'git', 'grep', 'journalctl', 'ln', 'mkdir', 'modprobe', 'rm', 'sed', 'skopeo', 'sysctl', 'systemctl'],
];
const clusterPrograms: readonly string[] = ['kubectl', 'kubeadm'];
const crictlCommands: readonly string[] = [
  ...['attach', 'create', 'events', 'exec', 'images', 'info', 'inspect', 'inspecti', 'inspectp', 'logs', 'pods', 'port-forward', 'ps', 'pull', 'rm'],
  ...['rmi', 'rmp', 'run', 'runp', 'start', 'stats', 'statsp', 'stop', 'stopp', 'version', 'checkpoint', 'imagefsinfo'],
];

/** Flags of other programs that the prose names. */
const foreignFlags: readonly string[] = [
  ...['--container-runtime-endpoint', '--cri-socket', '--pod-infra-container-image', '--new-bundle-format', '--use-signing-config', '--peer'],
];

/** Words with underscores in the prose that are no settings of berth. */
const foreignWords: readonly string[] = [
  ...[
    'override_path',
    'skip_verify',
    'auth_file',
    'no_new_privs',
    'spc_t',
    'node_modules',
    'apparmor_parser',
    'log_path',
    'pivot_root',
    'br_netfilter',
  ],
  ...['container_cpu_usage_seconds_total', 'container_memory_working_set_bytes', 'container_fs_usage_bytes'],
];

test('docs/development.md explains the mark of every fenced block', () => {
  const explained = [...pageAt('docs/development.md').prose.matchAll(/^\| `((?:sh|text|toml|json|yaml)[ a-z]*)` \|/gm)].map(([, mark = '']) => mark);
  const used = pages.flatMap(({ path, blocks }) => blocks.map(({ kind }) => ({ path, kind })));
  assert.deepEqual(
    used.filter(({ kind }) => !explained.includes(kind)),
    [],
  );
  assert.deepEqual(
    explained.filter((mark) => !used.some(({ kind }) => kind === mark)),
    [],
  );
});

test('every command in an sh block without another mark is run', () => {
  assertEach(commandsIn('sh'), ({ command }) => runCommand(command));
});

test('every command in another sh block names programs, commands, flags, scripts and files that exist', () => {
  for (const kind of ['sh root', 'sh machine', 'sh npm']) assertEach(commandsIn(kind), ({ command }) => checkCommand(command, systemPrograms));
  assertEach(commandsIn('sh cluster'), ({ command }) => checkCommand(command, [...systemPrograms, ...clusterPrograms]));
});

test('a block shows output only after a block that test/root/docs.test.ts runs', () => {
  const wrong = pages.flatMap(({ path, blocks }) =>
    blocks.filter(({ kind }, index) => kind === 'text output' && blocks[index - 1]?.kind !== 'sh root').map(({ text }) => `${path}: ${text}`),
  );
  assert.deepEqual(wrong, []);
});

test('every example of a configuration, a hosts.toml, a policy, a network list, JSON and YAML is accepted', () => {
  const accept: Readonly<Record<string, (text: string) => unknown>> = {
    toml: (text) => loadConfig(text, {}),
    'toml hosts': (text) => parseHostsFile(text, 'registry.example.com', '/etc/berth/certs.d/registry.example.com/hosts.toml'),
    json: (text) => JSON.parse(text),
    'json policy': (text) => parsePolicy(Buffer.from(text)),
    'json cni': (text) => parseList(text, true),
    yaml: (text) => parseYaml(text),
  };
  const examples = pages.flatMap(({ path, blocks }) => blocks.map((block) => ({ path, ...block })));
  assertEach(examples, ({ kind, text }) => accept[kind]?.(text));
});

test('every relative link and image leads to a file and a heading', () => {
  const wrong = pages.flatMap(({ path, prose }) =>
    [...withoutCode(prose).matchAll(/\]\(([^)\s]+)\)/g)]
      .map(([, to = '']) => to)
      .filter((to) => !/^https?:/.test(to) && !leadsSomewhere(path, to))
      .map((to) => `${path}: ${to}`),
  );
  assert.deepEqual(wrong, []);
});

test('every file and directory of the repository that is named exists', () => {
  const named = /^(?:(?:src|test|docs|deploy|scripts|bench|proto|bin|\.ci|\.vscode)\/[\w./*-]*|[A-Z]{4,}\.md|package\.json)$/;
  const wrong = pages
    .filter(({ path }) => path !== 'CHANGELOG.md')
    .flatMap(({ path, prose }) =>
      codeSpans(prose)
        .filter((span) => named.test(span) && globSync(span, { cwd: root }).length === 0)
        .map((span) => `${path}: ${span}`),
    );
  assert.deepEqual(wrong, []);
});

test('every root test that CONTRIBUTING.md lists by folder exists', () => {
  const [, table = ''] = pageAt('CONTRIBUTING.md').prose.split('## Root tests by folder');
  const names = [...table.matchAll(/^\| `src.*?\| (.*) \|$/gm)].flatMap(([, cell = '']) => codeSpans(cell)).filter((span) => /^[a-z-]+$/.test(span));
  assert.ok(names.length > 50);
  assert.deepEqual(
    names.filter((name) => !testFiles.includes(`test/root/${name}.test.ts`)),
    [],
  );
});

test('every vulnerability in SECURITY.md is named by the title of a test in its row, and every one that a root test names is in SECURITY.md', () => {
  const rows = [...pageAt('SECURITY.md').prose.matchAll(/^\| (.*) \| ((?:`(?:root|fuzz)\/[a-z-]+`(?:, )?)+) \|$/gm)];
  const listed = rows.flatMap(([, claim = '', tests = '']) =>
    vulnerabilitiesIn(claim).map((vulnerability) => ({ path: vulnerability, tests: codeSpans(tests) })),
  );
  const titlesOf = (name: string) => [...read(`test/${name}.test.ts`).matchAll(/^test\((['"`])(.*?)\1,/gm)].map(([, , title = '']) => title);
  assert.ok(rows.length > 10);
  assertEach(listed, ({ path, tests }) =>
    assert.ok(
      tests.some((name) => titlesOf(name).join().includes(path)),
      'no title names it',
    ),
  );
  const rootTests = testFiles.filter((path) => path.startsWith('test/root/')).map((path) => path.slice('test/'.length, -'.test.ts'.length));
  const tested = rootTests.flatMap((name) => vulnerabilitiesIn(titlesOf(name).join()));
  assert.deepEqual(
    tested.filter((vulnerability) => !listed.some(({ path }) => path === vulnerability)),
    [],
  );
});

const vulnerabilitiesIn = (text: string): string[] => [...text.matchAll(/CVE-\d{4}-\d+/g)].map(([name]) => name);

test('every command of berth, npm and crictl in the prose exists', () => {
  const spans = pages
    .filter(({ path }) => path !== 'CHANGELOG.md')
    .flatMap(({ path, prose }) => codeSpans(prose).map((command) => ({ path, command })));
  assertEach(
    spans.filter(({ command }) => /^(?:(?:bin\/)?berth|npm|crictl) /.test(command) && !isCommandName(command)),
    ({ command }) => checkCommand(command, []),
  );
});

test('every flag in the prose exists', () => {
  const known = [...helpText().matchAll(/--[a-z][a-z-]+/g)].map(([flag]) => flag);
  const wrong = pages.flatMap(({ path, prose }) =>
    codeSpans(prose)
      .filter((span) => span.startsWith('--'))
      .flatMap((span) => [...span.matchAll(/--[a-z][a-z-]+/g)].map(([flag]) => flag))
      .filter((flag) => !known.includes(flag) && !foreignFlags.includes(flag))
      .map((flag) => `${path}: ${flag}`),
  );
  assert.deepEqual(wrong, []);
});

test('every setting in the prose exists, and its value is accepted', () => {
  const spans = pages
    .filter(({ path }) => path !== 'CHANGELOG.md')
    .flatMap(({ path, prose }) => {
      // The first column of a migration table has the other runtime's keys, and so may a line that says what berth does not need.
      const text = isMigration(path) ? prose.replace(/^\|.*?(?<!\\)\|/gm, '|').replace(/^.*\bnot (?:needed|supported)\b.*$/gm, '') : prose;
      return codeSpans(text).map((span) => ({ path, span }));
    });
  assertEach(
    spans.filter(({ span }) => /^[a-z]+(_[a-z0-9]+)* = \S.*$/.test(span)),
    ({ span }) => loadConfig(span.replace('ADDRESS:PORT', '127.0.0.1:9418'), {}),
  );
  assertEach(
    spans.filter(({ span }) => /^[a-z]+(_[a-z0-9]+)+$/.test(span) && !span.startsWith('berth_')),
    ({ span }) => assert.ok(settingNames.includes(span) || foreignWords.includes(span), 'no such setting'),
  );
});

test('every metric that is named exists, and docs/monitoring.md describes every metric', () => {
  const metrics = new Set([...read('src/telemetry/metrics.ts').matchAll(/'(berth_[a-z_]+)'/g)].map(([, name = '']) => name));
  const named = (text: string) => [...text.matchAll(/\bberth_[a-z_]+[a-z]/g)].map(([name]) => name.replace(/_(bucket|sum|count)$/, ''));
  const wrong = pages.flatMap(({ path, text }) =>
    named(text)
      .filter((name) => !metrics.has(name))
      .map((name) => `${path}: ${name}`),
  );
  assert.deepEqual(wrong, []);
  const described = named(pageAt('docs/monitoring.md').text);
  assert.deepEqual(
    [...metrics].filter((name) => !described.includes(name)),
    [],
  );
});

test('docs/monitoring.md lists the alerts of deploy/alerts.yml', () => {
  const alerts = [...read('deploy/alerts.yml').matchAll(/alert: (\w+)/g)].map(([, name = '']) => name);
  const listed = [...pageAt('docs/monitoring.md').text.matchAll(/^\| `(Berth\w+)`/gm)].map(([, name = '']) => name);
  assert.deepEqual(listed, alerts);
});

test('every message that docs/troubleshooting.md quotes is in the sources', () => {
  const tables = pageAt('docs/troubleshooting.md').prose.matchAll(/^\| symptom or message .*\n((?:\|.*\n)+)/gm);
  const cells = [...tables].flatMap(([, rows = '']) => [...rows.matchAll(/^\| (.*?[^\\]) \|/gm)].map(([, cell = '']) => cell));
  assert.ok(cells.length > 50);
  assert.deepEqual(
    cells.flatMap((cell) => codeSpans(cell).filter((span) => !isInSources(span))),
    [],
  );
});

test('docs/monitoring.md shows an OOM report and log messages as the daemon writes them', () => {
  const monitoring = pageAt('docs/monitoring.md');
  const mib = 2 ** 20;
  const report = describeVictim({
    ...{ sequence: 1, atUs: 1, pid: 37, command: 'stress', isFirst: false, isOfGroup: false },
    ...{ cgroup: '/pod/c1', limit: 'container', limitedCgroup: '/pod/c1', limitBytes: 64 * mib },
    memory: { anonBytes: 60 * mib, fileBytes: 3 * mib, shmemBytes: 0 },
  });
  assert.ok(
    monitoring.blocks.some(({ text }) => text === `${report}\n`),
    report,
  );
  const messages = codeSpans(/^\| `msg` \|.*$/m.exec(monitoring.prose)?.[0] ?? '').slice(1);
  assert.ok(messages.length > 3);
  assert.deepEqual(
    messages.filter((message) => !sourceText.some((text) => text.includes(`'${message}'`))),
    [],
  );
});

test('the index links every page, and README every command and flag', () => {
  const index = pageAt('docs/README.md').text;
  assert.deepEqual(
    docNames.filter((name) => name !== 'README.md' && !index.includes(`(${name})`)),
    [],
  );
  const readme = pageAt('README.md').text;
  const flags = [...helpText().matchAll(/^ {2}(--[a-z-]+)$/gm)].map(([, flag = '']) => flag);
  assert.ok(flags.length > 5);
  assert.deepEqual(
    flags.filter((flag) => !readme.includes(`\`${flag}\``)),
    [],
  );
  assert.ok(readme.split('\n').length < 90, 'README.md is short: details belong in docs/');
});

test('the exceptions above are needed', () => {
  const words = pages.flatMap(({ prose }) => codeSpans(prose)).join('\n');
  const commands = ['sh', 'sh root', 'sh machine', 'sh npm', 'sh cluster']
    .flatMap((kind) => commandsIn(kind))
    .map(({ command }) => wordsOf(command)[0]);
  assert.deepEqual(
    [...foreignFlags, ...foreignWords].filter((each) => !words.includes(each)),
    [],
  );
  assert.deepEqual(
    [...systemPrograms, ...clusterPrograms].filter((program) => !commands.includes(program)),
    [],
  );
});

/** Runs a check on each item, and fails with all that failed. */
function assertEach<T extends { readonly path: string }>(items: readonly T[], check: (item: T) => void): void {
  const wrong = items.flatMap((item) => {
    try {
      check(item);
      return [];
    } catch (error) {
      return [`${Object.values(item).join(': ')}: ${error instanceof Error ? error.message : error}`];
    }
  });
  assert.deepEqual(wrong, []);
}

/** promtool comes with the packages of the tests. Where it is missing, only the names are checked. */
function runCommand(command: string): void {
  const [program = '', ...words] = wordsOf(command);
  if (program === 'berth') run(process.execPath, [join(root, 'src/main.ts'), ...words]);
  else if (program === 'promtool' && spawnSync('promtool', ['--version']).status === 0) run('promtool', words);
  else if (program === 'promtool') checkCommand(command, ['promtool']);
  else assert.fail('nothing runs this: give the block a mark');
}

function run(program: string, words: readonly string[]): void {
  const { status, stdout, stderr } = spawnSync(program, words, { cwd: root, encoding: 'utf8' });
  assert.equal(status, 0, `${stdout}${stderr}`);
}

/** Checks all that can be checked of a command without running it. */
function checkCommand(command: string, programs: readonly string[]): void {
  const [program = '', ...words] = wordsOf(command);
  const paths = words.filter((word) => /^(src|test|docs|deploy|scripts|bench|proto)\//.test(word));
  for (const path of paths) assert.ok(existsSync(join(root, path)), `there is no ${path}`);
  if (program === 'berth' || program === 'bin/berth') checkBerth(words);
  else if (program === 'npm') checkNpm(words);
  else if (program === 'bin/node') checkNode(words);
  else if (program === 'crictl') checkCrictl(words);
  else assert.ok(programs.includes(program), `unknown program ${program}`);
}

/** `berth image`, `berth explain`: the name of a command without what it takes. */
function isCommandName(command: string): boolean {
  return helpText().includes(`\n  ${command.replace(/^(bin\/)?berth /, '')} `);
}

function checkBerth(words: readonly string[]): void {
  parseArguments(words.map((word) => ({ SECONDS: '2', KEY: 'cpu' })[word] ?? word));
}

function checkNpm([verb = '', ...words]: readonly string[]): void {
  if (verb === 'ci') return;
  const name = verb === 'run' ? (words[0] ?? '') : verb;
  assert.ok(scripts[name] !== undefined, `package.json has no script ${name}`);
  const separator = words.indexOf('--');
  const rest = separator < 0 ? [] : words.slice(separator + 1);
  if (name === 'debug') checkBerth(['serve', ...rest]);
  const wanted = name === 'test:one' ? rest.filter((word) => word !== 'NAME') : [];
  for (const word of wanted)
    assert.ok(
      testFiles.some((file) => file.includes(word)),
      `no test file is called ${word}`,
    );
}

function checkNode(words: readonly string[]): void {
  const [file = '', ...rest] = words.filter((word, index) => !(word.startsWith('--') && index === 0));
  assert.ok(existsSync(join(root, file)), `there is no ${file}`);
  if (file === 'src/main.ts') checkBerth(rest);
}

function checkCrictl(words: readonly string[]): void {
  const [verb = ''] = words[0] === '--runtime-endpoint' ? words.slice(2) : words;
  assert.ok(crictlCommands.includes(verb), `crictl has no command ${verb}`);
}

const isMigration = (path: string): boolean => path.includes('migrating-from');

function commandsIn(kind: string): { readonly path: string; readonly command: string }[] {
  return pages.flatMap(({ path, blocks }) =>
    blocks.filter((block) => block.kind === kind).flatMap(({ text }) => commandsOf(text).map((command) => ({ path, command }))),
  );
}

/** The simple commands of a shell script: without here-documents, comments, assignments and redirections; what `$()` runs is one of its own. */
function commandsOf(script: string): string[] {
  const lines = script
    .replace(/<<'(\w+)'(.*)\n[\s\S]*?\n\1$/gm, '$2')
    .replace(/\\\n/g, ' ')
    .split('\n');
  const simple = lines.flatMap((line) => {
    const inner = [...line.matchAll(/\$\(([^)]*)\)/g)].map(([, command = '']) => command);
    const outer = line.replace(/\$\([^)]*\)/g, '').replace(/^\s*#.*/, '');
    return [...inner, ...splitOutsideQuotes(outer)];
  });
  return simple
    .map((command) =>
      command
        .replace(/^([A-Z_]+=\S*\s*)+/, '')
        .replace(/\s[0-9]?>\s*\S+/g, '')
        .trim(),
    )
    .filter((command) => command !== '');
}

function splitOutsideQuotes(line: string): string[] {
  return (line.match(/(?:'[^']*'|"[^"]*"|[^'"|;&])+/g) ?? []).map((part) => part.trim());
}

/** Without quotes, and without the brackets of a usage line. */
function wordsOf(command: string): string[] {
  const words = command.match(/(?:'[^']*'|"[^"]*"|[^\s'"])+/g) ?? [];
  return words.map((word) => word.replace(/['"]/g, '').replace(/^\[|\]$|\.\.\.$/g, ''));
}

/** Inline code, also in tables, where a bar is escaped. */
function codeSpans(text: string): string[] {
  return [...text.matchAll(/`([^`\n]+)`/g)].map(([, span = '']) => span.replaceAll('\\|', '|'));
}

function withoutCode(text: string): string {
  return text.replace(/`[^`\n]+`/g, 'code');
}

/** A message with `…` for what differs: each part between them is in a source file. The kernel's own text at the end is not. */
function isInSources(message: string): boolean {
  const parts = message
    .replace(/: [a-z ]+ \(E[A-Z]+\)$/, '')
    .split('…')
    .map((part) => part.trim().replace(/^[:;,] ?|[:;,]$/g, ''));
  return parts.filter((part) => part.length > 3).every((part) => sourceText.some((text) => text.includes(part)));
}

function leadsSomewhere(from: string, to: string): boolean {
  const [file = '', anchor] = to.split('#');
  const path = file === '' ? from : relative(root, resolve(root, dirname(from), file));
  if (!existsSync(join(root, path))) return false;
  return anchor === undefined || headingsOf(read(path)).includes(anchor);
}

/** As GitHub makes anchors of headings. */
function headingsOf(text: string): string[] {
  return [...text.matchAll(/^#+ (.*)$/gm)].map(([, heading = '']) =>
    heading
      .toLowerCase()
      .replace(/[^\p{L}\p{N} _-]/gu, '')
      .replaceAll(' ', '-'),
  );
}

function pageAt(path: string): Page {
  const page = pages.find((each) => each.path === path);
  assert.ok(page, `there is no ${path}`);
  return page;
}

function read(path: string): string {
  return readFileSync(join(root, path), 'utf8');
}
