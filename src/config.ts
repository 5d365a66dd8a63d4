/**
 * The settings: one table that makes the flags, the configuration file's keys, their checks and the default file.
 *
 * Pure: reads neither arguments, environment nor files itself; a problem is a BerthError INVALID_ARGUMENT that names the setting.
 */
import { parse } from 'smol-toml';
import { splitAtEquals, unknownText } from './lib/did-you-mean.ts';
import { invalidArgument, reasonOf } from './lib/errors.ts';

/** Effective settings. Paths are absolute. */
export type Config = {
  readonly socket: string;
  readonly root: string;
  readonly state: string;
  readonly cniConfDir: string;
  readonly cniBinDirs: readonly string[];
  readonly registryDir: string;
  /** '': every image may run. */
  readonly signaturePolicy: string;
  /** `address:port`, or null: no metrics are served. */
  readonly metrics: string | null;
  /** Whether those are there of each pod and container, too. */
  readonly metricsContainers: boolean;
  /** Where cAdvisor is answered in CRI-O's place, or null: nowhere. */
  readonly cadvisorSocket: string | null;
  /** Where exec, attach and port-forward are served. */
  readonly stream: {
    readonly address: string;
    /** 0: any free one. */
    readonly port: number;
    readonly tls?: { readonly certFile: string; readonly keyFile: string };
  };
  /** Null: nothing is traced. */
  readonly tracing: { readonly endpoint: string; readonly samplingRatePerMillion: number } | null;
  readonly logLevel: string;
  readonly cgroupDriver: 'auto' | 'systemd' | 'cgroupfs';
  readonly cgroupParent: string;
  /** `daemon`, `pod`, or a cgroup. */
  readonly monitorCgroup: string;
  /** Null: none. */
  readonly blockioConfigFile: string | null;
  /** Path or name. */
  readonly criu: string;
  readonly netnsDir: string;
  readonly cniTimeoutMs: number;
  readonly pullIdleTimeoutMs: number;
  readonly maxConcurrentDownloads: number;
  readonly maxContainerLogLineSize: number;
  readonly isVolatile: boolean;
  readonly snapshotter: 'auto' | 'overlay' | 'native' | 'fuse-overlayfs';
  readonly imageDevices: 'keep' | 'skip' | 'refuse';
  readonly cdiSpecDirs: readonly string[];
  readonly pinnedImages: readonly string[];
  readonly defaultUlimits: readonly Ulimit[];
  readonly defaultSysctls: Readonly<Record<string, string>>;
};

/** `name` as in setrlimit(2) without `RLIMIT_`, lower case. */
export type Ulimit = { readonly name: string; readonly soft: number; readonly hard: number };

/** Values of flags, by key of the file; a flag wins over the file. */
export type Flags = Readonly<Record<string, string>>;

type Value = string | number | boolean | readonly string[];

type Setting = {
  readonly key: string;
  /** Present when the command line has it too. */
  readonly flag?: string;
  readonly default: Value;
  readonly meaning: string;
  /** Of each string of the value. */
  readonly format?: { readonly pattern: RegExp; readonly text: string };
  /** Bounds of a number. */
  readonly min?: number;
  readonly max?: number;
};

const absolutePath = { pattern: /^\//, text: 'an absolute path' };

const settings = [
  {
    key: 'socket',
    flag: 'socket',
    default: '/run/berth/berth.sock',
    format: absolutePath,
    meaning: 'The CRI socket that the kubelet and crictl talk to.',
  },
  { key: 'root', flag: 'root', default: '/var/lib/berth', format: absolutePath, meaning: 'Images, layers and writable layers; survives a reboot.' },
  {
    key: 'state',
    flag: 'state',
    default: '/run/berth',
    format: absolutePath,
    meaning: 'Records of sandboxes and containers; must not survive a reboot.',
  },
  {
    key: 'cni_conf_dir',
    flag: 'cni-conf-dir',
    default: '/etc/cni/net.d',
    format: absolutePath,
    meaning: 'Where network configuration lists lie; the first valid one is used.',
  },
  {
    key: 'cni_bin_dirs',
    flag: 'cni-bin-dir',
    default: ['/opt/cni/bin', '/usr/lib/cni'],
    format: absolutePath,
    meaning: 'Where network plugins are looked for, in this order. The flag may be repeated, or name several joined by colons.',
  },
  {
    key: 'registry_dir',
    flag: 'registry-dir',
    default: '/etc/berth/certs.d',
    format: absolutePath,
    meaning: 'A directory per registry host with its hosts.toml: mirrors and certificates.',
  },
  {
    key: 'signature_policy',
    default: '',
    format: { pattern: /^($|\/)/, text: 'an absolute path' },
    meaning:
      'Which images may be pulled and run, as containers-policy.json(5) says it (/etc/containers/policy.json): accept, reject, or signed with a sigstore key. Empty: all may.',
  },
  {
    key: 'metrics',
    flag: 'metrics',
    default: 'off',
    format: { pattern: /^(off|.+:\d{1,5})$/, text: '"off" or ADDRESS:PORT' },
    meaning: 'Where /metrics is served over HTTP, or "off". Nobody is asked who they are: take a loopback address, or one behind a firewall.',
  },
  {
    key: 'metrics_containers',
    default: false,
    meaning:
      'true: /metrics also has what each pod and container uses, under the names and labels of cAdvisor. Some 80 series a container; each scrape reads them.',
  },
  {
    key: 'cadvisor_socket',
    default: '',
    format: { pattern: /^($|\/)/, text: 'an absolute path' },
    meaning:
      'Where the cAdvisor inside the kubelet is answered in the place of CRI-O, so that /metrics/cadvisor has the labels and the network of pods: /var/run/crio/crio.sock, for it looks nowhere else, and only when the kubelet starts; empty: nowhere. New cgroups are called crio-ID.scope then.',
  },
  {
    key: 'tracing_endpoint',
    default: '',
    format: { pattern: /^($|https?:\/\/[^\s/])/, text: 'an http or https URL' },
    meaning:
      'Where spans are sent by OTLP over HTTP, as http://127.0.0.1:4318 (/v1/traces is appended); empty: nothing is traced. OTEL_EXPORTER_OTLP_HEADERS, OTEL_EXPORTER_OTLP_CERTIFICATE, OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES of the environment hold.',
  },
  {
    key: 'tracing_sampling_rate_per_million',
    default: 0,
    min: 0,
    max: 1_000_000,
    meaning: 'How many of a million calls are traced that no trace of the caller comes with; for all others the caller has decided.',
  },
  {
    key: 'stream_address',
    default: '127.0.0.1',
    format: { pattern: /^[0-9a-fA-F.:]+$/, text: 'an IP address' },
    meaning: 'Where exec, attach and port-forward are served; the kubelet and crictl connect there.',
  },
  { key: 'stream_port', default: 0, min: 0, max: 65_535, meaning: 'The port of that; 0: any free one.' },
  {
    key: 'stream_tls_cert',
    default: '',
    format: { pattern: /^($|\/)/, text: 'an absolute path' },
    meaning: 'A PEM certificate, read again when it changes, with which that is served over TLS; empty: no TLS.',
  },
  { key: 'stream_tls_key', default: '', format: { pattern: /^($|\/)/, text: 'an absolute path' }, meaning: 'The key of that certificate.' },
  {
    key: 'log_level',
    flag: 'log-level',
    default: 'info',
    format: { pattern: /^(trace|debug|info|warn|error|fatal|silent)$/, text: 'trace, debug, info, warn, error, fatal or silent' },
    meaning:
      'The least severe messages that are logged: trace, debug, info, warn, error, fatal or silent. SIGHUP makes a running daemon read it again.',
  },
  {
    key: 'cgroup_driver',
    default: 'auto',
    format: { pattern: /^(auto|systemd|cgroupfs)$/, text: 'auto, systemd or cgroupfs' },
    meaning:
      'Who makes cgroups: systemd (scopes in its slices; cgroup v2), cgroupfs (berth alone), or auto: systemd where it runs the node. The kubelet asks for it.',
  },
  {
    key: 'cgroup_parent',
    default: '/berth',
    format: absolutePath,
    meaning: 'Cgroup of sandboxes for which the kubelet names none. With the driver systemd a slice, else system.slice is taken.',
  },
  {
    key: 'monitor_cgroup',
    default: 'daemon',
    format: { pattern: /^(daemon|pod|\/.+|[^/]+\.slice)$/, text: 'daemon, pod, an absolute path or a slice' },
    meaning:
      'Where the monitors of containers, about 100 KB each, are accounted: in the cgroup of the daemon, of their pod, or below one that is named: a path, with the driver systemd a slice.',
  },
  {
    key: 'blockio_config_file',
    default: '',
    format: { pattern: /^($|\/)/, text: 'an absolute path' },
    meaning:
      'Classes of block I/O, in the format of containerd and CRI-O, as JSON; pods choose by annotation (blockio.resources.beta.kubernetes.io/pod). Empty: the annotations count for nothing.',
  },
  {
    key: 'criu',
    default: 'criu',
    format: { pattern: /^[^/\s]+$|^\/\S+$/, text: 'an absolute path, or a name' },
    meaning: 'The program that saves processes, for checkpoints of containers: a path, or a name that PATH has. Nothing else needs it.',
  },
  {
    key: 'netns_dir',
    default: '/run/netns',
    format: absolutePath,
    meaning: 'Where network namespaces are pinned: where network agents look for them. It is made a shared mount.',
  },
  {
    key: 'cni_timeout_ms',
    default: 120_000,
    min: 1000,
    max: 3_600_000,
    meaning: 'How long attaching or detaching a sandbox may take in all, in milliseconds.',
  },
  {
    key: 'pull_idle_timeout_ms',
    default: 60_000,
    min: 1000,
    max: 3_600_000,
    meaning: 'A download that receives nothing for so long is given up, in milliseconds.',
  },
  { key: 'pull_parallel_layers', default: 3, min: 1, max: 32, meaning: 'Layers of one image that are downloaded and unpacked at the same time.' },
  {
    key: 'log_line_bytes_max',
    default: 16_384,
    min: 512,
    max: 65_536,
    meaning: 'Longer lines of a container are logged in parts of this size, in bytes.',
  },
  {
    key: 'volatile_layers',
    default: true,
    meaning: 'true: writable layers are not synced to disk; after a crash of the machine no container is left to miss them.',
  },
  {
    key: 'snapshotter',
    flag: 'snapshotter',
    default: 'auto',
    format: { pattern: /^(auto|overlay|native|fuse-overlayfs)$/, text: 'auto, overlay, native or fuse-overlayfs' },
    meaning:
      'How containers get their roots: overlay stacks layers; native copies them, for file systems without overlay: slow, and without image volumes; fuse-overlayfs, when installed, stacks them by a process for each container. auto: native where overlay does not work.',
  },
  {
    key: 'image_devices',
    default: 'keep',
    format: { pattern: /^(keep|skip|refuse)$/, text: 'keep, skip or refuse' },
    meaning:
      'Device nodes in images: keep makes them (a container opens only those that its pod gives it), skip leaves them out, refuse fails the pull. For layers that are unpacked from then on.',
  },
  {
    key: 'cdi_spec_dirs',
    default: ['/etc/cdi', '/var/run/cdi'],
    format: absolutePath,
    meaning:
      'Where the files of the Container Device Interface lie (.json, .yaml), which say what a device that is asked for by name changes about a container. Read at each use; the later directory wins. Empty: a container that asks is refused.',
  },
  { key: 'pinned_images', default: [], meaning: 'References of images that the kubelet must not collect.' },
  {
    key: 'default_ulimits',
    default: ['nofile=1024:524288'],
    format: { pattern: /^[a-z]+=\d+:\d+$/, text: 'NAME=SOFT:HARD' },
    meaning: "Resource limits of containers, each NAME=SOFT:HARD; a hard limit above the daemon's own is lowered to it.",
  },
  {
    key: 'default_sysctls',
    default: ['net.ipv4.ip_unprivileged_port_start=0', 'net.ipv4.ping_group_range=0 2147483647'],
    format: { pattern: /^[a-z0-9_./-]+=.+$/i, text: 'NAME=VALUE' },
    meaning: 'Kernel parameters of each sandbox with a network of its own, unless the kubelet sets them, each NAME=VALUE.',
  },
] as const satisfies readonly Setting[];

const table: readonly Setting[] = settings;

/** The settings that the command line has, too. A list may be given more than once. */
export const flagSettings = table.flatMap(({ flag, key, meaning, default: value }) =>
  flag === undefined ? [] : [{ flag, key, meaning, isList: Array.isArray(value) }],
);

/**
 * @param tomlText the configuration file; '' when there is none.
 * @throws {BerthError} INVALID_ARGUMENT for text that is no TOML, an unknown key (with the nearest known one), a wrong type or a value out of bounds.
 */
export function loadConfig(tomlText: string, flags: Flags): Config {
  const file = parseToml(tomlText);
  const known = table.map((setting) => setting.key);
  for (const key of Object.keys(file)) if (!known.includes(key)) throw invalidArgument(unknownText('key', key, known));
  const values = new Map(table.map((setting) => [setting.key, effectiveValue(setting, file[setting.key], flags[setting.key])]));
  return toConfig((key) => values.get(key));
}

function toConfig(value: (key: (typeof settings)[number]['key']) => Value | undefined): Config {
  const text = (key: Parameters<typeof value>[0]) => value(key) as string;
  const number = (key: Parameters<typeof value>[0]) => value(key) as number;
  const list = (key: Parameters<typeof value>[0]) => Object.freeze([...(value(key) as readonly string[])]);
  return Object.freeze({
    socket: text('socket'),
    root: text('root'),
    state: text('state'),
    cniConfDir: text('cni_conf_dir'),
    cniBinDirs: list('cni_bin_dirs'),
    registryDir: text('registry_dir'),
    signaturePolicy: text('signature_policy'),
    metrics: text('metrics') === 'off' ? null : text('metrics'),
    metricsContainers: value('metrics_containers') as boolean,
    cadvisorSocket: text('cadvisor_socket') || null,
    stream: Object.freeze({
      address: text('stream_address'),
      port: number('stream_port'),
      ...toTls(text('stream_tls_cert'), text('stream_tls_key')),
    }),
    tracing: toTracing(text('tracing_endpoint'), number('tracing_sampling_rate_per_million')),
    logLevel: text('log_level'),
    cgroupDriver: text('cgroup_driver') as Config['cgroupDriver'],
    cgroupParent: text('cgroup_parent'),
    monitorCgroup: text('monitor_cgroup'),
    blockioConfigFile: text('blockio_config_file') || null,
    criu: text('criu'),
    netnsDir: text('netns_dir'),
    cniTimeoutMs: number('cni_timeout_ms'),
    pullIdleTimeoutMs: number('pull_idle_timeout_ms'),
    maxConcurrentDownloads: number('pull_parallel_layers'),
    maxContainerLogLineSize: number('log_line_bytes_max'),
    isVolatile: value('volatile_layers') as boolean,
    snapshotter: text('snapshotter') as Config['snapshotter'],
    imageDevices: text('image_devices') as Config['imageDevices'],
    cdiSpecDirs: list('cdi_spec_dirs'),
    pinnedImages: list('pinned_images'),
    defaultUlimits: Object.freeze(list('default_ulimits').map(toUlimit)),
    defaultSysctls: Object.freeze(Object.fromEntries(list('default_sysctls').map((entry) => splitAtEquals(entry) as [string, string]))),
  });
}

function toTracing(endpoint: string, samplingRatePerMillion: number): Config['tracing'] {
  if (endpoint === '') return null;
  // It may hold a password.
  if (!URL.canParse(endpoint)) throw invalidArgument('tracing_endpoint: it is no URL');
  return Object.freeze({ endpoint: `${endpoint.replace(/\/+$/, '')}/v1/traces`, samplingRatePerMillion });
}

function toTls(certFile: string, keyFile: string): Pick<Config['stream'], 'tls'> {
  if ((certFile === '') !== (keyFile === '')) throw invalidArgument('stream_tls_cert and stream_tls_key: one is given without the other');
  return certFile === '' ? {} : { tls: Object.freeze({ certFile, keyFile }) };
}

function toUlimit(text: string): Ulimit {
  const [name = '', soft = '', hard = ''] = text.split(/[=:]/);
  if (Number(soft) > Number(hard)) throw invalidArgument(`default_ulimits: ${text}: the soft limit is above the hard one`);
  return Object.freeze({ name, soft: Number(soft), hard: Number(hard) });
}

function parseToml(text: string): Record<string, unknown> {
  try {
    return parse(text);
  } catch (error) {
    throw invalidArgument(`reading the configuration: ${reasonOf(error)}`.split('\n')[0] ?? '', error);
  }
}

function effectiveValue(setting: Setting, fromFile: unknown, fromFlag: string | undefined): Value {
  // Only texts and lists have flags.
  if (fromFlag !== undefined) return checked(setting, Array.isArray(setting.default) ? fromFlag.split(':') : fromFlag, `flag --${setting.flag}`);
  return fromFile === undefined ? setting.default : checked(setting, fromFile, setting.key);
}

function checked(setting: Setting, value: unknown, name: string): Value {
  const wanted = Array.isArray(setting.default)
    ? 'a list of texts'
    : { string: 'a text', number: 'a whole number', boolean: 'true or false' }[typeof setting.default as 'string'];
  if (!hasTypeOf(setting.default, value)) throw invalidArgument(`${name}: ${JSON.stringify(value)} is not ${wanted}`);
  const { min = -Infinity, max = Infinity, format } = setting;
  if (typeof value === 'number' && (value < min || value > max)) throw invalidArgument(`${name}: ${value} is not between ${min} and ${max}`);
  const texts = typeof value === 'string' ? [value] : Array.isArray(value) ? (value as readonly string[]) : [];
  const wrong = format && texts.find((text) => !format.pattern.test(text));
  if (wrong !== undefined) throw invalidArgument(`${name}: ${JSON.stringify(wrong)} is not ${format?.text}`);
  return value;
}

function hasTypeOf(sample: Value, value: unknown): value is Value {
  if (Array.isArray(sample)) return Array.isArray(value) && value.every((item) => typeof item === 'string');
  return typeof sample === 'number' ? Number.isSafeInteger(value) : typeof value === typeof sample;
}

/** @returns a configuration file with every setting at its default, each with its meaning; loadConfig() reads it back to the defaults. */
export function defaultToml(): string {
  const entries = table.map((setting) => {
    const flag = setting.flag === undefined ? '' : ` Flag: --${setting.flag}.`;
    return `# ${setting.meaning}${flag}\n${setting.key} = ${JSON.stringify(setting.default).replaceAll(',', ', ')}\n`;
  });
  return `# Configuration of berth. Every setting is shown with its default.\n\n${entries.join('\n')}`;
}
