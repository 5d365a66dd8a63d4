/** Holds proto/runtime-v1.proto and the generated types against proto/cri-v1.json. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import protobuf from 'protobufjs';
import { type Field, messagesSource, readContract } from '../../scripts/generate-messages.ts';
import { loadContract } from './contract.ts';
import type { CreateContainerRequest } from './wire/messages.ts';

const contract = readContract();
const proto = readFileSync(join(import.meta.dirname, '../../proto/runtime-v1.proto'), 'utf8');
const { root } = protobuf.parse(proto, { keepCase: true });
const namespace = root.lookup(contract.package) as protobuf.Namespace;
const declared = namespace.nestedArray;
const messages = declared.filter((each) => each instanceof protobuf.Type);
const nested = messages.flatMap((message) => message.nestedArray);
const enums = [...declared, ...nested].filter((each) => each instanceof protobuf.Enum);

test('the proto has the messages of the contract, no more and no fewer', () => {
  assert.deepEqual(messages.map(shortName).sort(), Object.keys(contract.messages).sort());
});

test('the proto has every field with its name, number, type and label', () => {
  for (const [name, { fields }] of Object.entries(contract.messages)) {
    const found = messages.find((message) => message.name === name)?.fieldsArray ?? [];
    assert.deepEqual(found.map(fromProto).sort(), fields.map(fromContract).sort(), name);
  }
});

test('the proto has every enum with its values', () => {
  assert.deepEqual(Object.fromEntries(enums.map((each) => [shortName(each), each.values])), contract.enums);
});

test('the proto has every rpc with its request, response and streaming', () => {
  for (const [service, rpcs] of Object.entries(contract.services)) {
    const found = (namespace.lookup(service) as protobuf.Service).methodsArray;
    const wanted = Object.entries(rpcs).map(
      ([rpc, { request, response, serverStreaming }]) => `${rpc}(${request}) ${serverStreaming ? 'stream ' : ''}${response}`,
    );
    assert.deepEqual(found.map(describeMethod).sort(), wanted.sort());
  }
});

test('loadContract() serves every rpc under the path that clients call', () => {
  const { runtime, image } = loadContract();
  const paths = [...Object.values(runtime), ...Object.values(image)].map((method) => method.path);
  const wanted = Object.entries(contract.services).flatMap(([service, rpcs]) => Object.keys(rpcs).map((rpc) => `/runtime.v1.${service}/${rpc}`));
  assert.deepEqual(paths.sort(), wanted.sort());
});

test('a request keeps apart what was not sent and what is zero; 64-bit numbers are text, bytes a Buffer', () => {
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

test('messages.ts is what the generator writes', () => {
  assert.equal(readFileSync(join(import.meta.dirname, 'wire/messages.ts'), 'utf8'), messagesSource(contract));
});

function shortName(object: protobuf.ReflectionObject): string {
  return object.fullName.slice(`.${contract.package}.`.length);
}

function describeMethod(method: protobuf.Method): string {
  assert.equal(method.requestStream ?? false, false);
  return `${method.name}(${method.requestType}) ${method.responseStream ? 'stream ' : ''}${method.responseType}`;
}

function fromProto(field: protobuf.Field): string {
  const type = field instanceof protobuf.MapField ? `map<${field.keyType}, ${field.type}>` : `${field.repeated ? 'repeated ' : ''}${field.type}`;
  return `${field.name} = ${field.id}: ${type}${field.options?.['deprecated'] ? ' deprecated' : ''}${field.options?.['debug_redact'] ? ' redacted' : ''}`;
}

function fromContract(field: Field): string {
  const type = field.type.split('.').at(-1);
  const text = field.label === 'map' ? `map<${field.keyType}, ${field.valueType}>` : `${field.label === 'repeated' ? 'repeated ' : ''}${type}`;
  return `${field.name} = ${field.number}: ${text}${field.deprecated ? ' deprecated' : ''}${field.debugRedact ? ' redacted' : ''}`;
}
