/**
 * Writes src/cri/wire/messages.ts, the types of the CRI's messages and methods, from proto/cri-v1.json.
 *
 * Run it after a change of that file: node scripts/generate-messages.ts. A test fails when the two differ.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const root = join(import.meta.dirname, '..');
const target = join(root, 'src/cri/wire/messages.ts');

export type Field = {
  readonly name: string;
  readonly number: number;
  readonly type: string;
  readonly label?: 'repeated' | 'map';
  readonly kind?: 'message' | 'enum';
  readonly keyType?: string;
  readonly valueType?: string;
  readonly deprecated?: boolean;
  readonly debugRedact?: boolean;
};
export type Rpc = { readonly request: string; readonly response: string; readonly serverStreaming?: boolean };
export type Contract = {
  readonly package: string;
  readonly services: Readonly<Record<string, Readonly<Record<string, Rpc>>>>;
  readonly messages: Readonly<Record<string, { readonly fields: readonly Field[] }>>;
  readonly enums: Readonly<Record<string, Readonly<Record<string, number>>>>;
};

type Change = {
  readonly enumRenames?: Readonly<Record<string, Readonly<Record<string, string>>>>;
  readonly rpcs?: Contract['services'];
  readonly messages?: Contract['messages'];
  readonly fields?: Readonly<Record<string, readonly Field[]>>;
};

/** The contract with everything that later versions change in it. */
export function readContract(): Contract {
  const file = JSON.parse(readFileSync(join(root, 'proto/cri-v1.json'), 'utf8')) as Contract & {
    readonly upcoming: Readonly<Record<string, Change>>;
  };
  return Object.values(file.upcoming).reduce<Contract>(withChange, file);
}

function withChange(contract: Contract, change: Change): Contract {
  const services = Object.entries(contract.services).map(([name, rpcs]) => [name, { ...rpcs, ...change.rpcs?.[name] }]);
  const messages = Object.entries(contract.messages).map(([name, { fields }]) => [name, { fields: [...fields, ...(change.fields?.[name] ?? [])] }]);
  const enums = Object.entries(contract.enums).map(([name, values]) => {
    const renamed = Object.entries(values).map(([value, number]) => [change.enumRenames?.[name]?.[value] ?? value, number]);
    return [name, Object.fromEntries(renamed)];
  });
  return {
    package: contract.package,
    services: Object.fromEntries(services),
    messages: { ...Object.fromEntries(messages), ...change.messages },
    enums: Object.fromEntries(enums),
  };
}

const header = `/**
 * The CRI's messages and methods as types. Generated from proto/cri-v1.json by scripts/generate-messages.ts: change that, not this.
 *
 * A field that was not sent is undefined, for absent and zero mean different things; lists always arrive as arrays. 64-bit numbers are decimal text.
 */

/** One request, one response. */
export type Unary<Request, Response> = { readonly kind: 'unary'; readonly request: Request; readonly response: Response };

/** One request, any number of responses. */
export type Streaming<Request, Response> = { readonly kind: 'streaming'; readonly request: Request; readonly response: Response };
`;

/** The text of src/cri/wire/messages.ts. */
export function messagesSource(contract: Contract): string {
  return [
    header,
    ...Object.entries(contract.services).map(([name, rpcs]) => serviceType(name, rpcs)),
    ...Object.entries(contract.messages).map(([name, { fields }]) => messageType(name, fields)),
    ...Object.entries(contract.enums).map(([name, values]) => enumType(name, Object.keys(values))),
  ].join('\n');
}

function serviceType(name: string, rpcs: Readonly<Record<string, Rpc>>): string {
  const lines = Object.entries(rpcs).map(
    ([rpc, { request, response, serverStreaming = false }]) =>
      `  readonly ${rpc}: ${serverStreaming ? 'Streaming' : 'Unary'}<${request}, ${response}>;\n`,
  );
  return `export type ${name} = {\n${lines.join('')}};\n`;
}

function messageType(name: string, fields: readonly Field[]): string {
  if (fields.length === 0) return `export type ${name} = Readonly<Record<string, never>>;\n`;
  return `export type ${name} = {\n${fields.map((field) => `  readonly ${field.name}?: ${fieldType(field)} | undefined;\n`).join('')}};\n`;
}

function fieldType({ type, label, keyType, valueType }: Field): string {
  if (label === 'map') return `Readonly<Record<${scalarType(keyType ?? '')}, ${scalarType(valueType ?? '')}>>`;
  return label === 'repeated' ? `readonly ${scalarType(type)}[]` : scalarType(type);
}

const scalars: Readonly<Record<string, string>> = {
  ...{ string: 'string', bool: 'boolean', bytes: 'Buffer', double: 'number', int32: 'number', uint32: 'number', int64: 'string', uint64: 'string' },
};

const scalarType = (type: string): string => scalars[type] ?? localName(type);

/** Nested types have names of their own. */
const localName = (type: string): string => type.split('.').at(-1) ?? type;

function enumType(name: string, values: readonly string[]): string {
  const oneLine = `export type ${localName(name)} = ${values.map((value) => `'${value}'`).join(' | ')};`;
  if (oneLine.length <= 150) return `${oneLine}\n`;
  return `export type ${localName(name)} =\n${values.map((value) => `  | '${value}'`).join('\n')};\n`;
}

if (import.meta.main) writeFileSync(target, messagesSource(readContract()));
