/** Tests the contracts in proto/: generated types, compatibility with the released CRI v1, and the wire format. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import protobuf from 'protobufjs';
import { type Contract, generatedFiles, messagesSource, readContract, redactedFields } from '../../scripts/generate-messages.ts';
import { loadContract } from './contract.ts';
import type { CreateContainerRequest } from './wire/messages.ts';

const contract = readContract('runtime-v1.proto');

/** The sha256 of linesOf(readContract(FILE)), where FILE is pkg/apis/runtime/v1/api.proto of cri-api v0.37.2. */
const releasedDigest = 'c92252d80f674d93ae6990af3fd5a929f68464a9e09dcd5733a6673a3bc0e262';
/** What the .proto has beyond that release: all additions of v0.38.0-beta.0. */
const addedLater: readonly string[] = [
  'Metric.double_value = 6: DoubleValue',
  'NamespaceOption.cgroupns_options = 6: CgroupNamespace',
  'CgroupNamespace.mode = 1: NamespaceMode',
  'LinuxContainerSecurityContext.cgroup_mount_mode = 18: CgroupMountMode',
  'RuntimeHandlerFeatures.cgroup_namespaces = 3: bool',
  'RuntimeFeatures.cgroup_mount_mode = 4: bool',
  'RuntimeFeatures.seccomp_profile_oci = 5: bool',
  'SecurityProfile.oci_ref = 3: string',
  'SecurityProfile.base_profile = 4: SecurityProfileBase',
  'SecurityProfileBase.localhost_ref = 2: string',
  'ImageService/PullSecurityProfile: PullSecurityProfileRequest, PullSecurityProfileResponse',
  'ImageService/ListSecurityProfiles: ListSecurityProfilesRequest, ListSecurityProfilesResponse',
  'ImageService/RemoveSecurityProfile: RemoveSecurityProfileRequest, RemoveSecurityProfileResponse',
  'PullSecurityProfileRequest.image = 1: ImageSpec',
  'PullSecurityProfileRequest.auth = 2: AuthConfig',
  'PullSecurityProfileRequest.sandbox_config = 3: PodSandboxConfig',
  'PullSecurityProfileRequest.profile_kind = 4: SecurityProfileKind',
  'PullSecurityProfileResponse.cached = 1: bool',
  'ListSecurityProfilesResponse.profiles = 1: repeated SecurityProfileInfo',
  'SecurityProfileInfo.digest = 1: string',
  'SecurityProfileInfo.refs = 2: repeated string',
  'SecurityProfileInfo.size = 3: uint64',
  'RemoveSecurityProfileRequest.digest = 1: string',
  'SecurityProfileBase.type = 1: BaseType',
  'ProfileType.OCI = 3',
  'BaseType.RuntimeDefault = 0',
  'BaseType.Localhost = 1',
  'CgroupMountMode.CGROUP_MOUNT_MODE_UNSPECIFIED = 0',
  'CgroupMountMode.CGROUP_MOUNT_MODE_READ_ONLY = 1',
  'CgroupMountMode.CGROUP_MOUNT_MODE_READ_WRITE = 2',
  'SecurityProfileKind.SecurityProfileKindUnspecified = 0',
  'SecurityProfileKind.Seccomp = 1',
  'DoubleValue.value = 1: double',
];

for (const [file, target] of Object.entries(generatedFiles)) {
  test(`${target.split('/').at(-1)} is up to date with ${file}`, () => {
    assert.equal(readFileSync(target, 'utf8'), messagesSource(file, readContract(file)), 'run `npm run generate`');
  });
}

test('every RPC, field number, field type and enum number of the released CRI v1 is unchanged', () => {
  const lines = linesOf(contract);
  assert.deepEqual(
    addedLater.filter((line) => !lines.includes(line)),
    [],
  );
  const released = lines.filter((line) => !addedLater.includes(line));
  assert.equal(createHash('sha256').update(released.join('\n')).digest('hex'), releasedDigest, 'the wire format of a released field has changed');
});

test('exactly the credentials of a pull are marked debug_redact', () => {
  assert.deepEqual(redactedFields(contract), ['AuthConfig.password', 'AuthConfig.auth', 'AuthConfig.identity_token', 'AuthConfig.registry_token']);
});

test('loadContract() serves every RPC under its path', () => {
  const { runtime, image, own } = loadContract();
  const paths = [runtime, image, own].flatMap((service) => Object.values(service).map((method) => method.path));
  const expected = [contract, readContract('berth-v1.proto')].flatMap((each) =>
    each.services.flatMap((service) => service.methodsArray.map(({ name }) => `/${each.package}.${service.name}/${name}`)),
  );
  assert.deepEqual(paths.sort(), expected.sort());
});

test('a request distinguishes unset from zero; 64-bit integers are strings, bytes are Buffers', () => {
  const method = loadContract().runtime['CreateContainer'];
  assert.ok(method);
  const security_context = { seccomp: {}, run_as_user: { value: '9007199254740993' } };
  const sent = { config: { envs: [{ key: 'A', value: Buffer.from([0xff]) }], CDI_devices: [{ name: 'x' }], linux: { security_context } } };
  const { config } = method.requestDeserialize(method.requestSerialize(sent)) as CreateContainerRequest;
  const security = config?.linux?.security_context;
  assert.equal(security?.run_as_user?.value, '9007199254740993');
  assert.deepEqual(Object.keys(security.seccomp ?? { absent: true }), []);
  assert.deepEqual([security.apparmor, security.privileged, config?.linux?.resources, config?.tty], [undefined, undefined, undefined, undefined]);
  assert.deepEqual(config?.envs, [{ key: 'A', value: Buffer.from([0xff]) }]);
  assert.deepEqual(config?.CDI_devices, [{ name: 'x' }]);
});

/**
 * Everything in a contract that affects the wire, one line each, sorted. Without the prefix SIGNAL_, which the release lacks: only the names of signals
 * differ, not their numbers.
 */
function linesOf({ services, messages, enums }: Contract): string[] {
  const stream = (isStream: boolean | undefined, type: string) => (isStream ? `stream ${type}` : type);
  return [
    ...services.flatMap(({ name, methodsArray }) =>
      methodsArray.map((each) => {
        const [request, response] = [stream(each.requestStream, each.requestType), stream(each.responseStream, each.responseType)];
        return `${name}/${each.name}: ${request}, ${response}`;
      }),
    ),
    ...messages.flatMap(({ name, fieldsArray }) => fieldsArray.map((field) => `${name}.${field.name} = ${field.id}: ${typeOf(field)}`)),
    ...enums.flatMap(({ name, values }) => Object.entries(values).map(([value, number]) => `${name}.${value.replace(/^SIGNAL_/, '')} = ${number}`)),
  ].sort();
}

function typeOf(field: protobuf.Field): string {
  if (field instanceof protobuf.MapField) return `map<${field.keyType}, ${field.type}>`;
  return `${field.repeated ? 'repeated ' : ''}${field.type}${field.options?.['deprecated'] ? ' deprecated' : ''}`;
}
