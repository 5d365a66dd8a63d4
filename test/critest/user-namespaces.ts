/**
 * A CRI proxy that gives each pod a user namespace, as a kubelet does for `hostUsers: false`. critest itself asks for one in a few specs only.
 */
import {
  Client,
  credentials,
  Metadata,
  type MethodDefinition,
  Server,
  ServerCredentials,
  type ServerUnaryCall,
  type ServerWritableStream,
  type sendUnaryData,
  type UntypedServiceImplementation,
} from '@grpc/grpc-js';
import { loadContract } from '../../src/cri/contract.ts';
import type { CreateContainerRequest, IDMapping, NamespaceOption, PodSandboxConfig, RunPodSandboxRequest } from '../../src/cri/wire/messages.ts';

export type SandboxRequest = {
  /** Milliseconds since 1970. */
  readonly atMs: number;
  /** Why the pod is in the host's user namespace, or has the mappings of the request; undefined if the proxy gave it a user namespace. */
  readonly unchangedBecause: string | undefined;
};

export type CriProxy = {
  /** `unix:///...`. */
  readonly endpoint: string;
  /** In the order of their arrival. */
  readonly sandboxes: readonly SandboxRequest[];
  readonly stop: () => void;
};

/** As the kubelet's default: idsPerPod. */
const idsPerPod = 65_536;
/** So that mappings end below 2^31. Few pods exist at the same time, so that those of two pods differ. */
const rangeCount = 30_000;
const limits = { 'grpc.max_receive_message_length': -1, 'grpc.max_send_message_length': -1 };

type Ids = { readonly uids: readonly IDMapping[]; readonly gids: readonly IDMapping[] };
/** By the id of the sandbox. */
type Options = Map<string, NamespaceOption>;
type State = { readonly client: Client; readonly optionsOf: Options; readonly sandboxes: SandboxRequest[] };

/** Serves both CRI services on a socket, and forwards all calls to the runtime. @param socket a path. @param endpoint of the runtime. */
export async function startUserNamespaceProxy(socket: string, endpoint: string): Promise<CriProxy> {
  const contract = loadContract();
  const state: State = { client: new Client(endpoint, credentials.createInsecure(), limits), optionsOf: new Map(), sandboxes: [] };
  const server = new Server(limits);
  for (const service of [contract.runtime, contract.image]) {
    const handlers = Object.entries(service).map(([rpc, method]) => [
      rpc,
      method.responseStream ? forwardStream(state, method) : forward(state, rpc, method),
    ]);
    server.addService(service, Object.fromEntries(handlers) as UntypedServiceImplementation);
  }
  await new Promise<void>((settle, reject) => {
    server.bindAsync(`unix://${socket}`, ServerCredentials.createInsecure(), (error) => (error === null ? settle() : reject(error)));
  });
  const stop = () => {
    server.forceShutdown();
    state.client.close();
  };
  return { endpoint: `unix://${socket}`, sandboxes: state.sandboxes, stop };
}

type Method = MethodDefinition<object, object>;

function forward(state: State, rpc: string, { path, requestSerialize, responseDeserialize }: Method) {
  return (call: ServerUnaryCall<object, object>, respond: sendUnaryData<object>) => {
    const { request, answered } = mapped(state, rpc, call.request);
    const options = { deadline: call.getDeadline() };
    const forwarded = state.client.makeUnaryRequest(
      path,
      requestSerialize,
      responseDeserialize,
      request,
      call.metadata,
      options,
      (error, response) => {
        if (error === null && response !== undefined) answered(response);
        respond(error, response);
      },
    );
    call.once('cancelled', () => forwarded.cancel());
  };
}

function forwardStream({ client }: State, { path, requestSerialize, responseDeserialize }: Method) {
  return (call: ServerWritableStream<object, object>) => {
    const forwarded = client.makeServerStreamRequest(path, requestSerialize, responseDeserialize, call.request, new Metadata());
    forwarded.on('error', (error) => call.destroy(error));
    forwarded.on('data', (message: object) => call.write(message)).on('end', () => call.end());
    call.once('cancelled', () => forwarded.cancel());
  };
}

type Mapped = { readonly request: object; readonly answered: (response: object) => void };

function mapped({ optionsOf, sandboxes }: State, rpc: string, request: object): Mapped {
  const unchanged = { request, answered: () => undefined };
  if (rpc === 'CreateContainer') {
    const options = optionsOf.get((request as CreateContainerRequest).pod_sandbox_id ?? '');
    return options === undefined ? unchanged : { ...unchanged, request: containerWithIds(request, options) };
  }
  if (rpc !== 'RunPodSandbox') return unchanged;
  const { config } = request as RunPodSandboxRequest;
  const options = config?.linux?.security_context?.namespace_options ?? {};
  const unchangedBecause = whyUnchanged(options);
  sandboxes.push({ atMs: Date.now(), unchangedBecause });
  if (unchangedBecause !== undefined) return unchanged;
  const namespaces = withIds(options, idsOfPod(sandboxes.length));
  const answered = (response: object) => void optionsOf.set((response as { pod_sandbox_id: string }).pod_sandbox_id, namespaces);
  return { request: { ...request, config: sandboxWithIds(config, namespaces) }, answered };
}

/** The ids of users and groups differ, so that confusing them is noticed. */
function idsOfPod(number: number): Ids {
  const range = (offset: number) => [{ host_id: idsPerPod * (1 + ((2 * number + offset) % rangeCount)), container_id: 0, length: idsPerPod }];
  return { uids: range(0), gids: range(1) };
}

/**
 * Kubernetes does not allow a user namespace together with the host's pid or IPC namespace. It does with the host's network, if the runtime reports
 * `user_namespaces_host_network`.
 *
 * @returns undefined if the pod can have a user namespace.
 */
export function whyUnchanged({ pid, ipc, userns_options }: NamespaceOption): string | undefined {
  if (userns_options !== undefined) return 'requests a user namespace itself';
  const ofHost = Object.entries({ pid, ipc }).flatMap(([name, mode]) => (mode === 'NODE' ? [name] : []));
  return ofHost.length === 0 ? undefined : `uses the host's ${ofHost.join(' and ')}`;
}

function sandboxWithIds(config: PodSandboxConfig | undefined, namespace_options: NamespaceOption): PodSandboxConfig {
  return { ...config, linux: { ...config?.linux, security_context: { ...config?.linux?.security_context, namespace_options } } };
}

/**
 * Returns the request with the mappings of the pod for the container and for each of its volumes. A kubelet always sends namespaces.
 *
 * @param ofPod the namespaces of the pod.
 */
export function containerWithIds(request: CreateContainerRequest, ofPod: NamespaceOption): CreateContainerRequest {
  const { config, sandbox_config } = request;
  const { uids = [], gids = [] } = ofPod.userns_options ?? {};
  const security_context = { ...config?.linux?.security_context };
  const namespace_options = withIds(security_context.namespace_options ?? ofPod, { uids, gids });
  const mounts = (config?.mounts ?? []).map((mount) => ({ ...mount, uidMappings: uids, gidMappings: gids }));
  return {
    ...request,
    config: { ...config, mounts, linux: { ...config?.linux, security_context: { ...security_context, namespace_options } } },
    sandbox_config: sandboxWithIds(sandbox_config, ofPod),
  };
}

function withIds(options: NamespaceOption, ids: Ids): NamespaceOption {
  return { ...options, userns_options: { mode: 'POD', ...ids } };
}
