/**
 * CreateContainer: validates the request and prepares the container. StartContainer starts its process.
 */
import { containerState } from '../../../engine/state/records.ts';
import type { ContainerSpec, Mount } from '../../../engine/state/spec.ts';
import { failedPrecondition, notFound } from '../../../lib/errors.ts';
import type { CriDeps, UsableImage } from '../../deps.ts';
import { quoted, requiredName } from '../../from-request/checks.ts';
import { containerSpecFrom, deviceNames } from '../../from-request/container-from-request.ts';
import type { CreateContainerRequest, CreateContainerResponse } from '../../wire/messages.ts';

type Deps = Pick<CriDeps, 'engine' | 'images' | 'devices'>;

/**
 * @throws {BerthError} NOT_FOUND for an unknown sandbox or image, INVALID_ARGUMENT, FAILED_PRECONDITION and UNIMPLEMENTED as containerSpecFrom(),
 *   else as the engine. A retry after a deadline returns the container that the first call created.
 */
export async function createContainer({ engine, images, devices }: Deps, request: CreateContainerRequest): Promise<CreateContainerResponse> {
  const sandbox = engine.sandbox(requiredName('pod_sandbox_id', request.pod_sandbox_id)).record;
  const requested = withTarget(engine, containerSpecFrom(request, sandbox.spec, engine.facts()), sandbox.id);
  const cdiNames = deviceNames(request.config ?? {});
  const edits = cdiNames.length === 0 ? {} : { edits: await devices.resolve(cdiNames) };
  // No await from here to the engine's lease of the layers, so that no image is removed in between.
  const spec = { ...requested, ...edits, mounts: requested.mounts.map((mount) => withImage(images, mount)) };
  const name = spec.image.userSpecified || spec.image.requested;
  const { image, config, layerDirs, diffIds } = findImage(images, spec.image.requested, name);
  const names = { id: image.id, ref: image.repoDigests[0] ?? image.id, name: image.repoTags[0] ?? name };
  return { container_id: await engine.createContainer(sandbox.id, spec, { ...names, config, layerDirs, diffIds }) };
}

/** Finds an image, but does not pull it: PullImage does, with the pod's credentials. */
function findImage(images: CriDeps['images'], reference: string, name: string): UsableImage {
  const found = images.findUsable(reference, name);
  if (found === undefined) throw notFound(`image ${quoted(reference)} is not on this node; pull it first`);
  return found;
}

/** Resolves the image of an image volume. */
function withImage(images: CriDeps['images'], mount: Mount): Mount {
  if (mount.image === undefined) return mount;
  const { image, layerDirs, diffIds } = findImage(images, mount.image.requested, mount.image.requested);
  return { ...mount, image: { ...mount.image, found: { id: image.id, layerDirs, diffIds } } };
}

/** Resolves the target's full id. Its state is checked here, so that the pod's event reports a mistake early, and again at the start of the container. */
function withTarget(engine: CriDeps['engine'], spec: ContainerSpec, sandboxId: string): ContainerSpec {
  const { namespaces } = spec.security;
  if (namespaces.targetId === undefined) return spec;
  const { record, status } = engine.container(namespaces.targetId);
  if (record.sandboxId !== sandboxId) throw failedPrecondition(`namespace_options.target_id: container ${record.id} is in another sandbox`);
  if (containerState(status) !== 'running') throw failedPrecondition(`namespace_options.target_id: container ${record.id} is not running`);
  return { ...spec, security: { ...spec.security, namespaces: { ...namespaces, targetId: record.id } } };
}
