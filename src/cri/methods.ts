/**
 * The table of all RPCs: which handler answers, or what is not there yet.
 *
 * The type holds it against the contract: a method that is missing, or has another request or response, does not compile.
 */
import { unimplemented } from '../lib/errors.ts';
import { attach } from './attach.ts';
import { checkpointContainer } from './checkpoint-container.ts';
import { containerStats } from './container-stats.ts';
import { containerStatus } from './container-status.ts';
import { createContainer } from './create-container.ts';
import type { CriDeps } from './deps.ts';
import type { EncodedMessage } from './encoded.ts';
import { exec } from './exec.ts';
import { execSync } from './exec-sync.ts';
import { exportImages } from './export-images.ts';
import { getContainerEvents } from './get-container-events.ts';
import { imageFsInfo } from './image-fs-info.ts';
import { imageStatus } from './image-status.ts';
import { importImages } from './import-images.ts';
import { listContainerStats, streamContainerStats } from './list-container-stats.ts';
import { listContainers, streamContainers } from './list-containers.ts';
import { listImages, streamImages } from './list-images.ts';
import { listMetricDescriptors } from './list-metric-descriptors.ts';
import { listPodSandbox, streamPodSandboxes } from './list-pod-sandbox.ts';
import { listPodSandboxMetrics, streamPodSandboxMetrics } from './list-pod-sandbox-metrics.ts';
import { listPodSandboxStats, streamPodSandboxStats } from './list-pod-sandbox-stats.ts';
import { listPulls } from './list-pulls.ts';
import type { ImageService, RuntimeService, Streaming, Unary } from './messages.ts';
import { podSandboxStats } from './pod-sandbox-stats.ts';
import { podSandboxStatus } from './pod-sandbox-status.ts';
import { portForward } from './port-forward.ts';
import { pullImage } from './pull-image.ts';
import { removeContainer } from './remove-container.ts';
import { removeImage } from './remove-image.ts';
import { removePodSandbox } from './remove-pod-sandbox.ts';
import { reopenContainerLog } from './reopen-container-log.ts';
import { runPodSandbox } from './run-pod-sandbox.ts';
import { runtimeConfig, updateRuntimeConfig } from './runtime-config.ts';
import { startContainer } from './start-container.ts';
import { status } from './status.ts';
import { stopContainer } from './stop-container.ts';
import { stopPodSandbox } from './stop-pod-sandbox.ts';
import { updateContainerResources } from './update-container-resources.ts';
import { updatePodSandboxResources } from './update-pod-sandbox-resources.ts';
import { version } from './version.ts';
import { watchedPull } from './watched-pull.ts';

type Handler<Request, Result> = (deps: CriDeps, request: Request, signal: AbortSignal) => Result;

/** `change`: one log line for each call; `poll`: none. */
type Served<Request, Result> = { readonly kind: 'change' | 'poll'; readonly handle: Handler<Request, Result> };
type Missing = { readonly kind: 'missing'; readonly sentence: string };

export type UnaryMethod<Request, Response> = Served<Request, Promise<Response | EncodedMessage>> | Missing;
export type StreamingMethod<Request, Response> =
  | Served<Request, Iterable<Response | EncodedMessage> | AsyncIterable<Response | EncodedMessage>>
  | Missing;

type Table<Service> = {
  readonly [Rpc in keyof Service]: Service[Rpc] extends Unary<infer Request, infer Response>
    ? UnaryMethod<Request, Response>
    : Service[Rpc] extends Streaming<infer Request, infer Response>
      ? StreamingMethod<Request, Response>
      : never;
};

const change = <Request, Result>(handle: Handler<Request, Result>) => ({ kind: 'change', handle }) as const;
const poll = <Request, Result>(handle: Handler<Request, Result>) => ({ kind: 'poll', handle }) as const;
const missing = (sentence: string) => ({ kind: 'missing', sentence }) as const;

const noPodCheckpoints = 'berth saves containers (CheckpointContainer), not whole pods, and restores neither';

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
  // Probes come every few seconds for each container.
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
};

/** What the CRI has no call for: proto/berth-v1.proto. */
export const ownMethods = {
  Import: change(importImages),
  Export: change(exportImages),
  Pull: change(watchedPull),
  Pulls: poll(listPulls),
} as const;

/** A method whose request and response types are known to match, since the tables above compiled. */
export type AnyMethod = UnaryMethod<unknown, unknown> | StreamingMethod<unknown, unknown>;

/** @throws {BerthError} UNIMPLEMENTED, with what is not there yet. */
export function refuse(rpc: string, { sentence }: Missing): never {
  throw unimplemented(`${rpc}: ${sentence}`);
}
