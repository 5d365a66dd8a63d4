/**
 * The settings: one table that defines the configuration file's keys, the flags, their checks, the type Config, the default file and the reference.
 *
 * Pure: reads neither arguments, environment nor files. A problem is a BerthError INVALID_ARGUMENT that names the setting.
 */
import { parse } from 'smol-toml';
import { splitAtEquals, unknownText } from './lib/did-you-mean.ts';
import { invalidArgument, reasonOf } from './lib/errors.ts';

type Value = string | number | boolean | readonly string[];

type Setting = {
  readonly key: string;
  /** Present when the command line has it too. */
  readonly flag?: string;
  readonly default: Value;
  readonly meaning: string;
  /** The only values of a string. */
  readonly choices?: readonly string[];
  /** Of a string, or of each string of a list. */
  readonly format?: { readonly pattern: RegExp; readonly text: string };
  /** Bounds of a number. */
  readonly min?: number;
  readonly max?: number;
  /** Former keys, which still work, with a warning. */
  readonly aliases?: readonly string[];
  /** What the value becomes in Config. It has the type of the default. */
  readonly read?: (value: never) => unknown;
};

/** `name` as in setrlimit(2) without `RLIMIT_`, lower case. */
export type Ulimit = { readonly name: string; readonly soft: number; readonly hard: number };

const absolutePath = { pattern: /^\//, text: 'an absolute path' };
const pathOrEmpty = { pattern: /^($|\/)/, text: 'an absolute path' };
const emptyIsNull = (text: string): string | null => text || null;

const table = [
  {
    key: 'socket',
    flag: 'socket',
    default: '/run/berth/berth.sock',
    format: absolutePath,
    meaning: 'The CRI socket, to which the kubelet and crictl connect.',
  },
  {
    key: 'root',
    flag: 'root',
    default: '/var/lib/berth',
    format: absolutePath,
    meaning: 'Directory of images, their layers, and the writable layers of containers. It must survive a reboot.',
  },
  {
    key: 'state',
    flag: 'state',
    default: '/run/berth',
    format: absolutePath,
    meaning: 'Directory of the records of sandboxes and containers. It must not survive a reboot: use a tmpfs.',
  },
  {
    key: 'cni_conf_dir',
    flag: 'cni-conf-dir',
    default: '/etc/cni/net.d',
    format: absolutePath,
    meaning: 'Directory of CNI configuration files. The first valid file in lexical order is used.',
  },
  {
    key: 'cni_bin_dirs',
    flag: 'cni-bin-dir',
    default: ['/opt/cni/bin', '/usr/lib/cni'],
    format: absolutePath,
    meaning: 'Directories of CNI plugins, searched in this order. The flag may be repeated, or list several directories separated by colons.',
  },
  {
    key: 'registry_dir',
    flag: 'registry-dir',
    default: '/etc/berth/certs.d',
    format: absolutePath,
    meaning: "Directory of registry mirrors and certificates: one HOST/hosts.toml for each registry host, in containerd's format.",
  },
  {
    key: 'signature_policy',
    default: '',
    format: pathOrEmpty,
    meaning:
      'Signature policy file, such as /etc/containers/policy.json, in the format of containers-policy.json(5). It restricts which images may be pulled and run. Empty: all images may run.',
  },
  {
    key: 'metrics',
    flag: 'metrics',
    default: 'off',
    format: { pattern: /^(off|.+:\d{1,5})$/, text: '"off" or ADDRESS:PORT' },
    read: (text: string): string | null => (text === 'off' ? null : text),
    meaning: 'Address and port of /metrics (HTTP), or "off". There is no authentication: bind it to loopback, or to an address behind a firewall.',
  },
  {
    key: 'metrics_containers',
    default: false,
    meaning:
      'true: /metrics also has the resource usage of each pod and container, with the metric names and labels of cAdvisor. About 80 series per container, read at each scrape.',
  },
  {
    key: 'cadvisor_socket',
    default: '',
    format: pathOrEmpty,
    read: emptyIsNull,
    meaning:
      'Socket on which berth answers the requests that the cAdvisor inside the kubelet sends to CRI-O, so that /metrics/cadvisor has pod labels and network metrics. Set it to /var/run/crio/crio.sock: cAdvisor checks only this path, once, when the kubelet starts. New cgroups are then named crio-ID.scope. Empty: off.',
  },
  {
    key: 'tracing_endpoint',
    default: '',
    format: { pattern: /^($|https?:\/\/[^\s/])/, text: 'an http or https URL' },
    meaning:
      'Endpoint to which spans are exported (OTLP over HTTP), such as http://127.0.0.1:4318 (/v1/traces is appended). Empty: tracing is off. The environment variables OTEL_EXPORTER_OTLP_HEADERS, OTEL_EXPORTER_OTLP_CERTIFICATE, OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES apply.',
  },
  {
    key: 'tracing_sampling_rate_per_million',
    default: 0,
    min: 0,
    max: 1_000_000,
    meaning: 'How many calls per million are traced if the caller sends no trace context. Otherwise the caller decides.',
  },
  {
    key: 'stream_address',
    default: '127.0.0.1',
    format: { pattern: /^[0-9a-fA-F.:]+$/, text: 'an IP address' },
    meaning: 'IP address of the server for exec, attach and port-forward. The kubelet and crictl connect to it.',
  },
  { key: 'stream_port', default: 0, min: 0, max: 65_535, meaning: 'Port of the streaming server. 0: any free port.' },
  {
    key: 'stream_tls_cert',
    default: '',
    format: pathOrEmpty,
    meaning: 'PEM certificate of the streaming server. It is reloaded when the file changes. Empty: no TLS.',
  },
  { key: 'stream_tls_key', default: '', format: pathOrEmpty, meaning: 'PEM private key for stream_tls_cert.' },
  {
    key: 'log_level',
    flag: 'log-level',
    default: 'info',
    choices: ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'],
    meaning: 'The lowest level that is logged: trace, debug, info, warn, error, fatal or silent. SIGHUP reloads it.',
  },
  {
    key: 'cgroup_driver',
    default: 'auto',
    choices: ['auto', 'systemd', 'cgroupfs'],
    meaning:
      'The cgroup driver: systemd (cgroup v2 only), cgroupfs or auto. auto uses systemd if it is the init system and the node has cgroup v2, otherwise cgroupfs. The kubelet gets the driver from berth.',
  },
  {
    key: 'cgroup_parent',
    default: '/berth',
    format: absolutePath,
    meaning:
      'Parent cgroup of pods for which the kubelet sets none. With the systemd driver, it must be a slice; if it is not, system.slice is used.',
  },
  {
    key: 'monitor_cgroup',
    default: 'daemon',
    format: { pattern: /^(daemon|pod|\/.+|[^/]+\.slice)$/, text: 'daemon, pod, an absolute path or a slice' },
    meaning:
      'Cgroup in which the monitors run: daemon, pod, or a cgroup path (with the systemd driver, a slice). It is charged for the memory of the monitors, about 100 KB per container.',
  },
  {
    key: 'blockio_config_file',
    default: '',
    format: pathOrEmpty,
    read: emptyIsNull,
    meaning:
      'File with block I/O classes. It has the same fields as the file of containerd or CRI-O, but must be JSON. Pods select a class with the annotation blockio.resources.beta.kubernetes.io/pod. Empty: the annotation is ignored.',
  },
  {
    key: 'netns_dir',
    default: '/run/netns',
    format: absolutePath,
    meaning: 'Directory in which network namespaces are pinned, and where network agents look for them. berth makes it a shared mount.',
  },
  {
    key: 'cni_timeout_ms',
    default: 120_000,
    min: 1000,
    max: 3_600_000,
    meaning: 'Timeout for attaching or detaching a pod, for all plugins together, in milliseconds.',
  },
  {
    key: 'cni_status_grace_period_ms',
    default: 0,
    min: 0,
    max: 3_600_000,
    meaning: 'How long the network stays ready while the STATUS of a plugin fails, after it has succeeded, in milliseconds.',
  },
  {
    key: 'pull_idle_timeout_ms',
    default: 60_000,
    min: 1000,
    max: 3_600_000,
    meaning: 'A download that receives no data for this many milliseconds is aborted.',
  },
  {
    key: 'max_concurrent_downloads',
    aliases: ['pull_parallel_layers'],
    default: 3,
    min: 1,
    max: 32,
    meaning: 'How many layers of an image are downloaded and unpacked at the same time.',
  },
  {
    key: 'max_container_log_line_size',
    aliases: ['log_line_bytes_max'],
    default: 16_384,
    min: 512,
    max: 65_536,
    meaning: 'Maximum size of a line in a container log, in bytes. Longer lines are split.',
  },
  {
    key: 'snapshotter',
    flag: 'snapshotter',
    default: 'auto',
    choices: ['auto', 'overlay', 'native', 'fuse-overlayfs'],
    meaning:
      'How root file systems are created: overlay mounts the layers with overlayfs; native copies them (slow, no image volumes); fuse-overlayfs mounts them with one fuse-overlayfs process per container; auto uses overlay, or native if overlayfs does not work.',
  },
  {
    key: 'image_devices',
    default: 'keep',
    choices: ['keep', 'skip', 'refuse'],
    meaning:
      'Device nodes in image layers: keep creates them (a container can open only the devices that its pod grants), skip omits them, refuse fails the pull. A change affects only layers that are unpacked afterwards.',
  },
  {
    key: 'cdi_spec_dirs',
    default: ['/etc/cdi', '/var/run/cdi'],
    format: absolutePath,
    meaning:
      'Directories of Container Device Interface (CDI) files (.json, .yaml), which define devices that pods request by name. The files are read at each use; later directories override earlier ones. Empty: containers that request such devices are refused.',
  },
  { key: 'pinned_images', default: [], meaning: 'Images that the kubelet must not garbage-collect. A trailing * matches any suffix.' },
  {
    key: 'default_ulimits',
    default: ['nofile=1024:524288'],
    format: { pattern: /^[a-z]+=\d+:\d+$/, text: 'NAME=SOFT:HARD' },
    read: (list: readonly string[]): readonly Ulimit[] => Object.freeze(list.map(toUlimit)),
    meaning: "Default ulimits of containers, each NAME=SOFT:HARD. A hard limit above the daemon's own is lowered to it.",
  },
  {
    key: 'default_sysctls',
    default: ['net.ipv4.ip_unprivileged_port_start=0', 'net.ipv4.ping_group_range=0 2147483647'],
    format: { pattern: /^[a-z0-9_./-]+=.+$/i, text: 'NAME=VALUE' },
    read: (list: readonly string[]): Readonly<Record<string, string>> =>
      Object.freeze(Object.fromEntries(list.map((entry) => splitAtEquals(entry) as [string, string]))),
    meaning: 'Default sysctls of pods with their own network namespace, each NAME=VALUE. Sysctls that the pod sets take precedence.',
  },
] as const satisfies readonly Setting[];

/** Former settings, with the reason why they have no effect any more. They are accepted with a warning. */
const removed: Readonly<Record<string, string>> = {
  criu: 'criu is looked up on PATH',
  volatile_layers: 'writable layers are removed after a crash of the node, so they are never synced',
};

type Camel<Key extends string> = Key extends `${infer Head}_${infer Tail}` ? `${Head}${Capitalize<Camel<Tail>>}` : Key;
type Widened<T> = T extends string ? string : T extends number ? number : T extends boolean ? boolean : readonly string[];
type ValueOf<S extends Setting> = S extends { readonly read: (value: never) => infer Result }
  ? Result
  : S extends { readonly choices: readonly (infer Choice)[] }
    ? Choice
    : Widened<S['default']>;

/** Effective settings, by the keys of the table in camel case. Paths are absolute. */
export type Config = { readonly [S in (typeof table)[number] as Camel<S['key']>]: ValueOf<S> };

/** Every setting, for the reference. */
export const settings: readonly Setting[] = table;

/** Values of flags, by key of the file. A flag overrides the file. */
export type Flags = Readonly<Record<string, string>>;

/** The settings that the command line has too. A list may be given more than once. */
export const flagSettings = settings.flatMap(({ flag, key, meaning, default: value }) =>
  flag === undefined ? [] : [{ flag, key, meaning, isList: Array.isArray(value) }],
);

/** The settings in force, and one sentence for each deprecated key in the file. */
export type LoadedConfig = { readonly config: Config; readonly warnings: readonly string[] };

/**
 * @param tomlText the configuration file; '' when there is none.
 * @throws {BerthError} INVALID_ARGUMENT for invalid TOML, an unknown key (with the nearest known one), a wrong type, a value out of bounds, or
 *   settings that contradict each other.
 */
export function loadConfig(tomlText: string, flags: Flags): LoadedConfig {
  const { file, warnings } = withCurrentKeys(parseToml(tomlText));
  const entries = settings.map((setting) => {
    const value = effectiveValue(setting, file[setting.key], flags[setting.key]);
    return [camelCase(setting.key), setting.read ? setting.read(value as never) : frozen(value)];
  });
  const config = Object.freeze(Object.fromEntries(entries)) as Config;
  streamSettings(config);
  tracingSettings(config);
  return { config, warnings };
}

export type StreamSettings = {
  readonly address: string;
  /** 0: any free port. */
  readonly port: number;
  readonly tls?: { readonly certFile: string; readonly keyFile: string };
};

/** @throws {BerthError} INVALID_ARGUMENT for a certificate without a key, or a key without a certificate. */
export function streamSettings({ streamAddress, streamPort, streamTlsCert, streamTlsKey }: Config): StreamSettings {
  if ((streamTlsCert === '') !== (streamTlsKey === '')) throw invalidArgument('stream_tls_cert and stream_tls_key: set both or neither');
  const tls = streamTlsCert === '' ? {} : { tls: { certFile: streamTlsCert, keyFile: streamTlsKey } };
  return { address: streamAddress, port: streamPort, ...tls };
}

export type TracingSettings = { readonly endpoint: string; readonly samplingRatePerMillion: number };

/** @returns null: tracing is off. @throws {BerthError} INVALID_ARGUMENT for an invalid URL. */
export function tracingSettings({ tracingEndpoint, tracingSamplingRatePerMillion }: Config): TracingSettings | null {
  if (tracingEndpoint === '') return null;
  // The message does not show it: it may contain a password.
  if (!URL.canParse(tracingEndpoint)) throw invalidArgument('tracing_endpoint: invalid URL');
  return { endpoint: `${tracingEndpoint.replace(/\/+$/, '')}/v1/traces`, samplingRatePerMillion: tracingSamplingRatePerMillion };
}

function toUlimit(text: string): Ulimit {
  const [name = '', soft = '', hard = ''] = text.split(/[=:]/);
  if (Number(soft) > Number(hard)) throw invalidArgument(`default_ulimits: ${text}: the soft limit is above the hard limit`);
  return Object.freeze({ name, soft: Number(soft), hard: Number(hard) });
}

function parseToml(text: string): Record<string, unknown> {
  try {
    return parse(text);
  } catch (error) {
    throw invalidArgument(`read configuration: ${reasonOf(error)}`.split('\n')[0] ?? '', error);
  }
}

/** Replaces former keys by today's. */
function withCurrentKeys(given: Readonly<Record<string, unknown>>): { readonly file: Record<string, unknown>; readonly warnings: string[] } {
  const known = settings.map(({ key }) => key);
  const file: Record<string, unknown> = {};
  const warnings: string[] = [];
  for (const [key, value] of Object.entries(given)) {
    const current = settings.find(({ aliases }) => aliases?.includes(key))?.key;
    if (current !== undefined && given[current] !== undefined)
      throw invalidArgument(`${key} is the deprecated name of ${current}: set only ${current}`);
    if (current !== undefined) warnings.push(`${key} is deprecated: use ${current}`);
    else if (key in removed) warnings.push(`${key} has no effect: ${removed[key]}`);
    else if (!known.includes(key)) throw invalidArgument(unknownText('key', key, known));
    if (!(key in removed)) file[current ?? key] = value;
  }
  return { file, warnings };
}

function effectiveValue(setting: Setting, fromFile: unknown, fromFlag: string | undefined): Value {
  // Only strings and lists have flags.
  if (fromFlag !== undefined) return checked(setting, Array.isArray(setting.default) ? fromFlag.split(':') : fromFlag, `flag --${setting.flag}`);
  return fromFile === undefined ? setting.default : checked(setting, fromFile, setting.key);
}

function checked(setting: Setting, value: unknown, name: string): Value {
  const wanted = Array.isArray(setting.default)
    ? 'a list of strings'
    : { string: 'a string', number: 'a whole number', boolean: 'true or false' }[typeof setting.default as 'string'];
  if (!hasTypeOf(setting.default, value)) throw invalidArgument(`${name}: ${JSON.stringify(value)} is not ${wanted}`);
  const { min = -Infinity, max = Infinity } = setting;
  if (typeof value === 'number' && (value < min || value > max)) throw invalidArgument(`${name}: ${value} is not between ${min} and ${max}`);
  const texts = typeof value === 'string' ? [value] : Array.isArray(value) ? (value as readonly string[]) : [];
  const wrong = texts.find((text) => setting.choices?.includes(text) === false || setting.format?.pattern.test(text) === false);
  if (wrong !== undefined) throw invalidArgument(`${name}: ${JSON.stringify(wrong)} is not ${allowedText(setting)}`);
  return value;
}

/** @returns the allowed values in words; undefined: every value of the type. */
export function allowedText({ choices, format }: Setting): string | undefined {
  return choices === undefined ? format?.text : `${choices.slice(0, -1).join(', ')} or ${choices.at(-1)}`;
}

function hasTypeOf(sample: Value, value: unknown): value is Value {
  if (Array.isArray(sample)) return Array.isArray(value) && value.every((item) => typeof item === 'string');
  return typeof sample === 'number' ? Number.isSafeInteger(value) : typeof value === typeof sample;
}

const frozen = (value: Value): Value => (Array.isArray(value) ? Object.freeze([...value]) : value);

const camelCase = (key: string): string => key.replace(/_(\w)/g, (_, letter: string) => letter.toUpperCase());

/** @returns a configuration file with every setting at its default, each with its meaning. loadConfig() reads it back to the defaults. */
export function defaultToml(): string {
  const entries = settings.map((setting) => {
    const flag = setting.flag === undefined ? '' : ` Flag: --${setting.flag}.`;
    return `# ${setting.meaning}${flag}\n${setting.key} = ${JSON.stringify(setting.default).replaceAll(',', ', ')}\n`;
  });
  return `# Configuration of berth. Every setting is shown with its default.\n\n${entries.join('\n')}`;
}
