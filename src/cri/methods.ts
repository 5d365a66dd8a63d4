/**
 * The table of all RPCs and their handlers.
 *
 * Its type is checked against the contract: a missing method, or one with a wrong request or response type, does not compile.
 */
import { unimplemented } from '../lib/errors.ts';
import type { CriDeps } from './deps.ts';
import { exportImages } from './rpc/berth/export-images.ts';
import { importImages } from './rpc/berth/import-images.ts';
import { listPulls } from './rpc/berth/list-pulls.ts';
import { pullWithProgress } from './rpc/berth/pull-progress.ts';
import { attach } from './rpc/container/attach.ts';
import { checkpointContainer } from './rpc/container/checkpoint-container.ts';
import { containerStatus } from './rpc/container/container-status.ts';
import { createContainer } from './rpc/container/create-container.ts';
import { exec } from './rpc/container/exec.ts';
import { execSync } from './rpc/container/exec-sync.ts';
import { listContainers, streamContainers } from './rpc/container/list-containers.ts';
import { removeContainer } from './rpc/container/remove-container.ts';
import { reopenContainerLog } from './rpc/container/reopen-container-log.ts';
import { startContainer } from './rpc/container/start-container.ts';
import { stopContainer } from './rpc/container/stop-container.ts';
import { updateContainerResources } from './rpc/container/update-container-resources.ts';
import { imageFsInfo } from './rpc/image/image-fs-info.ts';
import { imageStatus } from './rpc/image/image-status.ts';
import { listImages, streamImages } from './rpc/image/list-images.ts';
import { pullImage } from './rpc/image/pull-image.ts';
import { removeImage } from './rpc/image/remove-image.ts';
import { getContainerEvents } from './rpc/runtime/get-container-events.ts';
import { runtimeConfig, updateRuntimeConfig } from './rpc/runtime/runtime-config.ts';
import { status } from './rpc/runtime/status.ts';
import { version } from './rpc/runtime/version.ts';
import { listPodSandbox, streamPodSandboxes } from './rpc/sandbox/list-pod-sandbox.ts';
import { podSandboxStatus } from './rpc/sandbox/pod-sandbox-status.ts';
import { portForward } from './rpc/sandbox/port-forward.ts';
import { removePodSandbox } from './rpc/sandbox/remove-pod-sandbox.ts';
import { runPodSandbox } from './rpc/sandbox/run-pod-sandbox.ts';
import { stopPodSandbox } from './rpc/sandbox/stop-pod-sandbox.ts';
import { updatePodSandboxResources } from './rpc/sandbox/update-pod-sandbox-resources.ts';
import { containerStats } from './rpc/stats/container-stats.ts';
import { listContainerStats, streamContainerStats } from './rpc/stats/list-container-stats.ts';
import { listMetricDescriptors } from './rpc/stats/list-metric-descriptors.ts';
import { listPodSandboxMetrics, streamPodSandboxMetrics } from './rpc/stats/list-pod-sandbox-metrics.ts';
import { listPodSandboxStats, streamPodSandboxStats } from './rpc/stats/list-pod-sandbox-stats.ts';
import { podSandboxStats } from './rpc/stats/pod-sandbox-stats.ts';
import type { EncodedMessage } from './to-response/encoded.ts';
import type { Images } from './wire/berth-messages.ts';
import type { ImageService, RuntimeService } from './wire/messages.ts';
import type { Bidirectional, Streaming, Unary } from './wire/rpc.ts';

type Handler<Request, Result> = (deps: CriDeps, request: Request, signal: AbortSignal) => Result;

/** `change`: calls are logged; `poll`: only at debug level. */
type Served<Request, Result> = { readonly kind: 'change' | 'poll'; readonly handle: Handler<Request, Result> };
type Missing = { readonly kind: 'missing'; readonly reason: string };

type Messages<Response> = Iterable<Response | EncodedMessage> | AsyncIterable<Response | EncodedMessage>;

export type UnaryMethod<Request, Response> = Served<Request, Promise<Response | EncodedMessage>> | Missing;
export type StreamingMethod<Request, Response> = Served<Request, Messages<Response>> | Missing;
type BidirectionalMethod<Request, Response> = Served<AsyncIterable<Request>, Messages<Response>>;

type Table<Service> = {
  readonly [Rpc in keyof Service]: Service[Rpc] extends Unary<infer Request, infer Response>
    ? UnaryMethod<Request, Response>
    : Service[Rpc] extends Streaming<infer Request, infer Response>
      ? StreamingMethod<Request, Response>
      : Service[Rpc] extends Bidirectional<infer Request, infer Response>
        ? BidirectionalMethod<Request, Response>
        : never;
};

const change = <Request, Result>(handle: Handler<Request, Result>) => ({ kind: 'change', handle }) as const;
const poll = <Request, Result>(handle: Handler<Request, Result>) => ({ kind: 'poll', handle }) as const;
const missing = (reason: string) => ({ kind: 'missing', reason }) as const;

const noPodCheckpoints = 'not supported: only single containers can be checkpointed (CheckpointContainer), and checkpoints cannot be restored';

const noProfiles = 'not supported: seccomp profiles are files on the node (profile type Localhost)';

export const runtimeMethods: Table<RuntimeService> = {
  Version: poll(version),
  Status: poll(status),
  RuntimeConfig: poll(runtimeConfig),
  UpdateRuntimeConfig: change(updateRuntimeConfig),
  RunPodSandbox: change(runPodSandbox),
  StopPodSandbox: change(stopPodSandbox),
  RemovePodSandbox: change(removePodSandbox),
  PodSandboxStatus: poll(podSandboxStatus),
  ListPodSandbox: poll(listPodSandbox),
  StreamPodSandboxes: poll(streamPodSandboxes),
  CreateContainer: change(createContainer),
  StartContainer: change(startContainer),
  StopContainer: change(stopContainer),
  RemoveContainer: change(removeContainer),
  ListContainers: poll(listContainers),
  StreamContainers: poll(streamContainers),
  ContainerStatus: poll(containerStatus),
  UpdateContainerResources: change(updateContainerResources),
  UpdatePodSandboxResources: change(updatePodSandboxResources),
  ReopenContainerLog: change(reopenContainerLog),
  // Probes run every few seconds for each container.
  ExecSync: poll(execSync),
  Exec: change(exec),
  Attach: change(attach),
  PortForward: change(portForward),
  ContainerStats: poll(containerStats),
  ListContainerStats: poll(listContainerStats),
  StreamContainerStats: poll(streamContainerStats),
  PodSandboxStats: poll(podSandboxStats),
  ListPodSandboxStats: poll(listPodSandboxStats),
  StreamPodSandboxStats: poll(streamPodSandboxStats),
  ListMetricDescriptors: poll(listMetricDescriptors),
  ListPodSandboxMetrics: poll(listPodSandboxMetrics),
  StreamPodSandboxMetrics: poll(streamPodSandboxMetrics),
  GetContainerEvents: poll(getContainerEvents),
  CheckpointContainer: change(checkpointContainer),
  CheckpointPod: missing(noPodCheckpoints),
  RestorePod: missing(noPodCheckpoints),
};

export const imageMethods: Table<ImageService> = {
  ListImages: poll(listImages),
  StreamImages: poll(streamImages),
  ImageStatus: poll(imageStatus),
  PullImage: change(pullImage),
  RemoveImage: change(removeImage),
  ImageFsInfo: poll(imageFsInfo),
  PullSecurityProfile: missing(noProfiles),
  ListSecurityProfiles: missing(noProfiles),
  RemoveSecurityProfile: missing(noProfiles),
};

/** The RPCs of proto/berth-v1.proto. */
export const ownMethods: Table<Images> = {
  Import: change(importImages),
  Export: change(exportImages),
  Pull: change(pullWithProgress),
  Pulls: poll(listPulls),
};

/** A method of any type. The tables above have checked its request and response types. */
export type AnyMethod = UnaryMethod<unknown, unknown> | StreamingMethod<unknown, unknown>;

/** @throws {BerthError} UNIMPLEMENTED with the reason. */
export function refuse(rpc: string, { reason }: Missing): never {
  throw unimplemented(`${rpc}: ${reason}`);
}
