/**
 * CreateContainer: validates the request and prepares the container. StartContainer starts its process.
 */
import { containerState } from '../../../engine/state/records.ts';
import type { ContainerSpec, Mount } from '../../../engine/state/spec.ts';
import { failedPrecondition, notFound } from '../../../lib/errors.ts';
import type { CriDeps, ImageView } from '../../deps.ts';
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
  const asked = withTarget(engine, containerSpecFrom(request, sandbox.spec, engine.facts()), sandbox.id);
  const names = deviceNames(request.config ?? {});
  const edits = names.length === 0 ? {} : { edits: await devices.resolve(names) };
  const spec = { ...asked, ...edits, mounts: await Promise.all(asked.mounts.map((mount) => withImage(images, mount))) };
  const image = findImage(images, spec.image.requested);
  images.requireAllowed(image, spec.image.userSpecified || spec.image.requested);
  const { config, layerDirs, diffIds } = await images.rootOf(image);
  const known = {
    id: image.id,
    ref: image.repoDigests[0] ?? image.id,
    name: image.repoTags[0] ?? (spec.image.userSpecified || spec.image.requested),
  };
  return { container_id: await engine.createContainer(sandbox.id, spec, { ...known, config, layerDirs, diffIds }) };
}

/** Finds an image, but does not pull it: PullImage does, with the pod's credentials. */
function findImage(images: CriDeps['images'], reference: string): ImageView {
  const image = images.find(reference);
  if (image === undefined) throw notFound(`image ${quoted(reference)} is not on this node; pull it first`);
  return image;
}

/** Resolves the image of an image volume. */
async function withImage(images: CriDeps['images'], mount: Mount): Promise<Mount> {
  if (mount.image === undefined) return mount;
  const image = findImage(images, mount.image.requested);
  images.requireAllowed(image, mount.image.requested);
  const { layerDirs, diffIds } = await images.rootOf(image);
  return { ...mount, image: { ...mount.image, found: { id: image.id, ref: image.repoDigests[0] ?? image.id, layerDirs, diffIds } } };
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
