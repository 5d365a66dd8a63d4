import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { createRandom, mutated, pick } from '../../../test/support/mutate.ts';
import { BerthError } from '../../lib/errors.ts';
import { checkLayerCount, type Descriptor, manifestBytesMax, parseImageConfig, parseManifest, selectPlatform, toMediaType } from './manifest.ts';
import { checkPlatform, type Platform, toPlatform } from './platform.ts';

const ociManifest = 'application/vnd.oci.image.manifest.v1+json';
const ociIndex = 'application/vnd.oci.image.index.v1+json';
const dockerManifest = 'application/vnd.docker.distribution.manifest.v2+json';
const dockerList = 'application/vnd.docker.distribution.manifest.list.v2+json';
const digest = (character: string): string => `sha256:${character.repeat(64)}`;
const config = { mediaType: 'application/vnd.oci.image.config.v1+json', digest: digest('c'), size: 10 };
const layer = { mediaType: 'application/vnd.oci.image.layer.v1.tar+gzip', digest: digest('1'), size: 20 };
const manifest = { schemaVersion: 2, config, layers: [layer] };
const entry = { mediaType: ociManifest, digest: digest('a'), size: 30, platform: { os: 'linux', architecture: 'amd64' } };
const toBytes = (value: unknown): Buffer => Buffer.from(typeof value === 'string' ? value : JSON.stringify(value));
const parse = (value: unknown, mediaType = ociManifest) => parseManifest(toBytes(value), mediaType);

/** Expects an error of the given code, FAILED_PRECONDITION by default, whose message is one line and matches the pattern. */
function refuses(act: () => unknown, pattern: RegExp, code = 'FAILED_PRECONDITION'): void {
  assert.throws(act, (error) => {
    assert.ok(error instanceof BerthError && error.code === code, String(error));
    assert.match(error.message, pattern);
    return !error.message.includes('\n') && error.message.length < 1000;
  });
}

describe('parseManifest()', () => {
  test('reads a manifest', () => {
    const expected = {
      kind: 'manifest',
      config: { mediaType: config.mediaType, digest: config.digest, sizeBytes: 10 },
      layers: [{ mediaType: layer.mediaType, digest: layer.digest, sizeBytes: 20 }],
    };
    assert.deepEqual(parse(manifest), expected);
    assert.deepEqual(parse({ ...manifest, mediaType: dockerManifest }, dockerManifest), expected);
    assert.deepEqual(parse({ ...manifest, layers: [], annotations: { a: 1 }, unknown: [] }), { ...expected, layers: [] });
  });

  test('reads keys in any case, and absent and null values as Go does', () => {
    const inUpperCase = JSON.stringify({
      SCHEMAVERSION: 2,
      MediaType: ociManifest,
      Config: { MEDIATYPE: config.mediaType, Digest: config.digest, Size: 10 },
    });
    assert.deepEqual(
      parse(inUpperCase.replace(/}$/, `,"Layers":[{"MediaType":"${layer.mediaType}","DIGEST":"${layer.digest}","SIZE":20}]}`)),
      parse(manifest),
    );
    const { size: _, ...withoutSize } = config;
    for (const document of [
      { config: withoutSize },
      { schemaVersion: null, mediaType: null, config: { ...withoutSize, size: null }, layers: null },
    ]) {
      assert.deepEqual(parse(document), {
        kind: 'manifest',
        config: { mediaType: config.mediaType, digest: config.digest, sizeBytes: 0 },
        layers: [],
      });
    }
    refuses(() => parse({ ...manifest, Manifests: [entry] }), /both an image index and an image manifest/);
    assert.equal(toMediaType('text/plain', toBytes({ MEDIATYPE: dockerManifest })), dockerManifest);
  });

  test('reads an index of which some entries cannot be used', () => {
    const odd = [null, 5, {}, { ...entry, digest: 'blake3:00' }, { ...entry, size: -1 }, { ...entry, platform: 'linux' }];
    const index = parse({ manifests: [...odd, entry] }, ociIndex);
    assert.ok(index.kind === 'index');
    assert.deepEqual(
      index.manifests.map((descriptor) => descriptor.digest),
      [entry.digest],
    );
    assert.equal(index.refusals.length, odd.length);
    assert.match(index.refusals.join('\n'), /manifests\[1\]: must be an object, not 5\n.*\n.*"blake3:00".*\n.*size.*\n.*platform: must be an object/);
    refuses(
      () => selectPlatform({ ...index, manifests: [] }, toPlatform('x64')),
      /available: none; 6 entries cannot be used: .*manifests\[0\]/,
      'NOT_FOUND',
    );
  });

  test('reads an index with platforms', () => {
    const arm = { ...entry, platform: { os: 'linux', architecture: 'arm', variant: 'v7', 'os.version': '1' } };
    for (const type of [ociIndex, dockerList]) {
      assert.deepEqual(parse({ schemaVersion: 2, manifests: [arm, { ...entry, platform: null }] }, type), {
        kind: 'index',
        refusals: [],
        manifests: [
          { mediaType: ociManifest, digest: entry.digest, sizeBytes: 30, platform: { os: 'linux', architecture: 'arm', variant: 'v7' } },
          { mediaType: ociManifest, digest: entry.digest, sizeBytes: 30 },
        ],
      });
    }
  });

  for (const type of [
    'oci.image.layer.v1.tar',
    'oci.image.layer.v1.tar+zstd',
    'oci.image.layer.nondistributable.v1.tar+gzip',
    'docker.image.rootfs.diff.tar',
    'docker.image.rootfs.diff.tar.gzip',
    'docker.image.rootfs.diff.tar.zstd',
    'docker.image.rootfs.foreign.diff.tar.gzip',
  ]) {
    test(`accepts layers of type ${type}`, () => void parse({ ...manifest, layers: [{ ...layer, mediaType: `application/vnd.${type}` }] }));
  }

  const refused: readonly (readonly [string, unknown, RegExp, string?])[] = [
    ['an empty document', '', /invalid JSON/],
    ['a truncated document', '{"schemaVersion":2', /invalid JSON/],
    ['a list', [], /must be an object, not a list/],
    ['deep nesting', '['.repeat(200_000) + ']'.repeat(200_000), /more than 100 levels/],
    ['deep nesting in an ignored field', `{"schemaVersion":2,"x":${'[{"a":'.repeat(50_000)}0${'}]'.repeat(50_000)}}`, /more than 100 levels/],
    ['millions of values', `{"schemaVersion":2,"x":[${'[],'.repeat(2_000_000)}0]}`, /more than 250000 values/],
    ['invalid UTF-8', Buffer.from([0x7b, 0xff, 0x7d]), /invalid JSON/],
    ['schema 1 by type', manifest, /schema 1/, 'application/vnd.docker.distribution.manifest.v1+prettyjws'],
    ['schema 1 by version', { schemaVersion: 1 }, /schema 1/],
    ['a schema version that is a string', { ...manifest, schemaVersion: '2' }, /schemaVersion must be 2/],
    ['another media type', manifest, /unsupported media type "text\/html"/, 'text/html'],
    ['a type that the body contradicts', { ...manifest, mediaType: ociIndex }, /does not match mediaType/],
    ['a document that is both index and manifest', { ...manifest, manifests: [entry] }, /both an image index and an image manifest/],
    ['a missing config', { ...manifest, config: undefined }, /manifest config: digest "" is neither/],
    ['an artifact', { ...manifest, config: { ...config, mediaType: 'application/vnd.cncf.helm.config.v1+json' } }, /not a container image: .*helm/],
    ['an empty config', { ...manifest, config: { ...config, mediaType: 'application/vnd.oci.empty.v1+json' } }, /not a container image/],
    ['layers that are an object', { ...manifest, layers: {} }, /must be a list/],
    ['a layer that is null', { ...manifest, layers: [null] }, /layers\[0\]: digest "" is neither/],
    ['an encrypted layer', { ...manifest, layers: [{ ...layer, mediaType: `${layer.mediaType}+encrypted` }] }, /encrypted/],
    ['a layer of another kind', { ...manifest, layers: [layer, { ...layer, mediaType: 'application/wasm' }] }, /layers\[1\].*application\/wasm/],
    ['an md5 digest', { ...manifest, config: { ...config, digest: 'md5:00' } }, /neither sha256 nor sha512/],
    ['a digest with a path', { ...manifest, config: { ...config, digest: 'sha256:../../etc/passwd' } }, /neither sha256 nor sha512/],
    ['a digest in upper case', { ...manifest, config: { ...config, digest: digest('A') } }, /neither sha256/],
    ['a digest that is a number', { ...manifest, config: { ...config, digest: 7 } }, /must be a string, not 7/],
    ['a size that is a string', { ...manifest, config: { ...config, size: '10' } }, /must be a size in bytes/],
    ['a negative size', { ...manifest, config: { ...config, size: -1 } }, /must be a size in bytes/],
    ['a fractional size', { ...manifest, config: { ...config, size: 1.5 } }, /must be a size in bytes/],
    ['a size beyond integers', `{"schemaVersion":2,"config":{"mediaType":"a","digest":"${digest('1')}","size":1e300},"layers":[]}`, /size in bytes/],
    [
      'a media type with control characters',
      { ...manifest, config: { ...config, mediaType: 'a\n\u001b[31m\u202e' } },
      /not a container image: config of type "a\\n/,
    ],
    ['a huge media type', { ...manifest, config: { ...config, mediaType: 'a'.repeat(256) } }, /longer than 255/],
    ['an index whose manifests are an object', { schemaVersion: 2, manifests: {} }, /index manifests: must be a list/, ociIndex],
  ];
  for (const [name, value, pattern, mediaType] of refused) {
    test(`refuses ${name}`, () => refuses(() => parseManifest(Buffer.isBuffer(value) ? value : toBytes(value), mediaType ?? ociManifest), pattern));
  }

  test('accepts 500 layers and refuses 501', () => {
    const layers = (count: number) => ({ ...manifest, layers: Array.from({ length: count }, () => layer) });
    const parsed = parse(layers(500));
    assert.ok(parsed.kind === 'manifest' && parsed.layers.length === 500);
    refuses(() => parse(layers(501)), /501 entries exceed the limit of 500/);
  });

  test('accepts 8 MiB and refuses one byte more', () => {
    const text = JSON.stringify(manifest);
    parse(text + ' '.repeat(manifestBytesMax - text.length));
    refuses(() => parse(text + ' '.repeat(manifestBytesMax + 1 - text.length)), /exceeds the limit of 8388608/);
  });

  test('returns a checked result for arbitrary input, or throws FAILED_PRECONDITION', () => {
    const random = createRandom(3);
    const texts = [JSON.stringify(manifest), JSON.stringify({ schemaVersion: 2, mediaType: ociIndex, manifests: [entry, entry] })];
    const fragments = ['null', '[]', '{}', '"', ',', ':', '-1', '1e999', '"__proto__":{}', '"size":0', '\\u0000', '"layers":[]', '"manifests":[]'];
    for (let round = 0; round < 4000; round += 1) {
      const text = mutated(random, pick(random, texts), fragments);
      for (const mediaType of [ociManifest, ociIndex]) {
        try {
          const result = parseManifest(Buffer.from(text), mediaType);
          const all = result.kind === 'index' ? result.manifests : [result.config, ...result.layers];
          for (const { digest: found, sizeBytes } of all) assert.ok(/^sha(256|512):[0-9a-f]+$/.test(found) && sizeBytes >= 0);
        } catch (error) {
          assert.ok(error instanceof BerthError && error.code === 'FAILED_PRECONDITION', `${text}: ${error}`);
        }
      }
      toMediaType('text/plain', Buffer.from(text));
    }
  });
});

test('toMediaType() prefers a known header to the document', () => {
  const bytes = toBytes({ ...manifest, mediaType: dockerManifest });
  assert.equal(toMediaType(`${ociIndex}; charset=utf-8`, bytes), ociIndex);
  assert.equal(toMediaType('Application/vnd.OCI.image.index.v1+json', bytes), ociIndex);
  assert.equal(toMediaType('text/plain', bytes), dockerManifest);
  assert.equal(toMediaType(undefined, toBytes(manifest)), ociManifest);
  assert.equal(toMediaType('', toBytes({ schemaVersion: 2, manifests: [] })), ociIndex);
  assert.match(toMediaType('application/json', toBytes({ schemaVersion: 1 })), /manifest\.v1\+json$/);
  assert.equal(toMediaType('text/html', toBytes('<html>')), 'text/html');
});

describe('selectPlatform()', () => {
  const offer = (...platforms: (string | undefined)[]): Descriptor[] =>
    platforms.map((text, index) => {
      const base = { mediaType: ociManifest, digest: digest(String(index)), sizeBytes: 1 };
      if (text === undefined) return base;
      const [os = '', architecture = '', variant] = text.split('/');
      return { ...base, platform: variant === undefined ? { os, architecture } : { os, architecture, variant } };
    });
  const amd64: Platform = { os: 'linux', architecture: 'amd64' };
  const arm64 = toPlatform('arm64');
  const armV7 = toPlatform('arm');
  const cases: readonly (readonly [string, Platform, (string | undefined)[], number])[] = [
    ['the only match', amd64, ['linux/arm64', 'linux/amd64'], 1],
    ['the first of equal ones', amd64, ['linux/amd64', 'linux/amd64'], 0],
    ['the image instead of an attestation', amd64, ['unknown/unknown', 'linux/amd64'], 1],
    ['the image of the right system', amd64, ['windows/amd64', 'linux/amd64'], 1],
    ['the baseline of amd64', amd64, ['linux/amd64/v3', 'linux/amd64/v1'], 1],
    ['the best that amd64/v3 can run', { ...amd64, variant: 'v3' }, ['linux/amd64', 'linux/amd64/v4', 'linux/amd64/v2', 'linux/amd64/v3'], 3],
    ['x86_64 for amd64', amd64, ['linux/x86_64'], 0],
    ['arm64 with variant v8', arm64, ['linux/arm/v7', 'linux/arm64/v8'], 1],
    ['arm64 without variant', arm64, ['linux/amd64', 'linux/arm64'], 1],
    ['aarch64 for arm64', arm64, ['linux/aarch64'], 0],
    ['arm v7 before v6', armV7, ['linux/arm/v5', 'linux/arm/v6', 'linux/arm/v7'], 2],
    ['arm v6 if there is no v7', armV7, ['linux/arm/v8', 'linux/arm/v6', 'linux/arm/v5'], 1],
    ['arm with variant 7', armV7, ['linux/arm/v6', 'linux/arm/7'], 1],
    ['an entry without platform as the last resort', amd64, [undefined, 'linux/amd64'], 1],
    ['an entry without platform if no platform matches', amd64, ['linux/arm64', undefined], 1],
    ['names in upper case', amd64, ['Linux/ARM64', 'Linux/AMD64'], 1],
    ['an entry without a system', amd64, ['/arm64', '/amd64'], 1],
    ['an unknown architecture', { os: 'linux', architecture: 'riscv64' }, ['linux/amd64', 'linux/riscv64'], 1],
  ];
  for (const [name, platform, offers, expected] of cases) {
    test(`selects ${name}`, () =>
      assert.equal(selectPlatform({ manifests: offer(...offers), refusals: [] }, platform)[0]?.digest, digest(String(expected))));
  }
  const none: readonly (readonly [Platform, string[], RegExp])[] = [
    [amd64, [], /available: none/],
    [amd64, ['unknown/unknown'], /no image for platform linux\/amd64; available: none/],
    [amd64, ['linux/amd64/v2'], /available: "linux\/amd64\/v2"/],
    [{ os: 'linux', architecture: 'arm', variant: 'v6' }, ['linux/arm/v7'], /no image for platform linux\/arm\/v6/],
    [arm64, ['linux/arm/v7', 'linux/amd64'], /available: "linux\/arm\/v7, linux\/amd64"/],
  ];
  for (const [platform, offers, pattern] of none) {
    test(`finds nothing in [${offers}] for ${platform.architecture}`, () =>
      refuses(() => selectPlatform({ manifests: offer(...offers), refusals: [] }, platform), pattern, 'NOT_FOUND'));
  }
  test('ignores entries that are neither manifests nor indexes', () => {
    const unknown = offer('linux/amd64').map((descriptor) => ({ ...descriptor, mediaType: 'application/wasm' }));
    refuses(() => selectPlatform({ manifests: unknown, refusals: [] }, amd64), /no image for platform/, 'NOT_FOUND');
  });
});

test('selectPlatform() orders all that can run', () => {
  const manifests = [undefined, 'v4', 'v2', 'v3', ''].map((variant, index) => {
    const base = { mediaType: ociManifest, digest: digest(String(index)), sizeBytes: 1 };
    return variant === undefined ? base : { ...base, platform: { os: 'linux', architecture: 'amd64', variant } };
  });
  const order = selectPlatform({ manifests, refusals: [] }, { os: 'linux', architecture: 'amd64', variant: 'v3' });
  assert.deepEqual(
    order.map((descriptor) => descriptor.digest),
    [3, 2, 4, 0].map((index) => digest(String(index))),
  );
});

test('toPlatform() returns the highest level whose flags the CPU has, with all levels below', () => {
  const v2 = ['cx16', 'lahf_lm', 'popcnt', 'pni', 'sse4_1', 'sse4_2', 'ssse3'];
  const v3 = [...v2, 'avx', 'avx2', 'bmi1', 'bmi2', 'f16c', 'fma', 'abm', 'movbe', 'xsave'];
  const v4 = [...v3, 'avx512f', 'avx512bw', 'avx512cd', 'avx512dq', 'avx512vl'];
  const levelOf = (flags: readonly string[]) => toPlatform('x64', new Set(flags)).variant;
  assert.deepEqual([[], v2, v3, v4].map(levelOf), [undefined, 'v2', 'v3', 'v4']);
  assert.deepEqual([v2.slice(1), v3.slice(1), v4.slice(0, -1)].map(levelOf), [undefined, undefined, 'v3']);
  assert.equal(toPlatform('arm64', new Set(v4)).variant, 'v8');
});

test('checkPlatform() accepts an unset or equal platform, and refuses another one', () => {
  const node = toPlatform('x64');
  checkPlatform({ os: 'linux', architecture: 'amd64' }, node);
  checkPlatform({ os: '', architecture: '' }, node);
  checkPlatform({ os: 'linux', architecture: 'x86_64' }, node);
  refuses(
    () => checkPlatform({ os: 'linux', architecture: 'arm64' }, node),
    /image platform "linux\/arm64" does not match node platform linux\/amd64/,
    'NOT_FOUND',
  );
  refuses(() => checkPlatform({ os: 'windows', architecture: 'amd64' }, node), /windows/, 'NOT_FOUND');
});

describe('parseImageConfig()', () => {
  const rootfs = { type: 'layers', diff_ids: [digest('d')] };

  test('reads all container defaults', () => {
    const blob = {
      os: 'linux',
      architecture: 'arm',
      variant: 'v7',
      created: '2026-01-01T00:00:00Z',
      rootfs,
      history: 'ignored',
      config: {
        Entrypoint: ['/e'],
        Cmd: ['c'],
        Env: ['A=1', 'B=', 'C=x=y', 'ignored', '=ignored'],
        WorkingDir: '/w',
        User: '1:2',
        StopSignal: 'SIGQUIT',
        Volumes: { '/v': {} },
        Labels: { __proto__x: '1', l: null },
        ExposedPorts: { '80/tcp': {} },
      },
    };
    assert.deepEqual(parseImageConfig(toBytes(blob)), {
      entrypoint: ['/e'],
      cmd: ['c'],
      env: ['A=1', 'B=', 'C=x=y'],
      workingDir: '/w',
      user: '1:2',
      stopSignal: 'SIGQUIT',
      volumes: ['/v'],
      labels: { __proto__x: '1', l: '' },
      diffIds: [digest('d')],
      os: 'linux',
      architecture: 'arm',
      variant: 'v7',
      created: '2026-01-01T00:00:00Z',
    });
  });

  test('reads absent and null values as empty', () => {
    const empty = parseImageConfig(
      toBytes({ rootfs: { type: 'layers', diff_ids: null }, config: { Cmd: null, Env: null, Labels: null, Volumes: null } }),
    );
    assert.deepEqual([empty.entrypoint, empty.cmd, empty.env, empty.volumes, empty.labels, empty.diffIds, empty.user], [[], [], [], [], {}, [], '']);
    assert.deepEqual(parseImageConfig(toBytes({ rootfs, config: { Cmd: 'shell form' } })).cmd, ['shell form']);
  });

  test('reads keys in any case, the exact one first, and null elements as empty texts', () => {
    const keys = { entrypoint: ['/e'], CMD: ['other'], Cmd: ['exact'], cmd: ['another'], env: ['A=1', null], user: '1', workingdir: '/w' };
    const found = parseImageConfig(
      toBytes({ OS: 'linux', RootFS: { TYPE: 'layers', Diff_IDs: [digest('d')] }, Config: { ...keys, LABELS: { l: 'x' } } }),
    );
    assert.deepEqual([found.entrypoint, found.cmd, found.env, found.user], [['/e'], ['exact'], ['A=1'], '1']);
    assert.deepEqual([found.workingDir, found.labels, found.diffIds, found.os], ['/w', { l: 'x' }, [digest('d')], 'linux']);
    assert.deepEqual(parseImageConfig(toBytes({ config: { Cmd: ['a', null] } })).cmd, ['a', '']);
    assert.deepEqual(parseImageConfig(toBytes({ rootfs: null, config: null })).diffIds, []);
  });

  test('reads an entry point of one empty string as none', () => {
    for (const Entrypoint of [[''], [null], '']) assert.deepEqual(parseImageConfig(toBytes({ config: { Entrypoint } })).entrypoint, []);
    assert.deepEqual(parseImageConfig(toBytes({ config: { Entrypoint: ['', 'x'], Cmd: [''] } })).entrypoint, ['', 'x']);
  });

  test('replaces invalid UTF-8 in strings', () => {
    const bytes = Buffer.from('{"config":{"Labels":{"l":"a\u00ff"}}}', 'latin1');
    assert.deepEqual(parseImageConfig(bytes).labels, { l: 'a\ufffd' });
  });

  const refused: readonly (readonly [string, unknown, RegExp])[] = [
    ['a rootfs that is a list', { rootfs: [] }, /rootfs: must be an object/],
    ['another type of rootfs', { rootfs: { type: 'base' } }, /type must be "layers"/],
    ['a diff id that is not a digest', { rootfs: { type: 'layers', diff_ids: ['sha256:1'] } }, /diff_ids: "sha256:1"/],
    ['more than 500 diff ids', { rootfs: { type: 'layers', diff_ids: Array(501).fill(digest('d')) } }, /501 entries/],
    ['numbers in Cmd', { rootfs, config: { Cmd: [1] } }, /Cmd\[0\]: must be a string, not 1/],
    ['a NUL in Env', { rootfs, config: { Env: ['A=\0'] } }, /contains a NUL/],
    ['a list as config', { rootfs, config: [] }, /must be an object/],
    ['Volumes as a list', { rootfs, config: { Volumes: ['/v'] } }, /Volumes: must be an object/],
    ['User as a number', { rootfs, config: { User: 0 } }, /User: must be a string, not 0/],
    ['a user that is too long', { rootfs, config: { User: 'u'.repeat(1025) } }, /User: 1025 characters exceed/],
    ['a directory longer than PATH_MAX', { rootfs, config: { WorkingDir: '/'.repeat(4097) } }, /WorkingDir: 4097 characters exceed/],
    ['a creation time that is too long', { rootfs, created: 'x'.repeat(2000) }, /created: 2000 characters/],
    ['millions of values', `{"history":[${'{},'.repeat(300_000)}{}]}`, /more than 250000 values/],
    ['too many variables', { rootfs, config: { Env: Array(10_001).fill('A=1') } }, /10001 entries/],
  ];
  for (const [name, value, pattern] of refused) test(`refuses ${name}`, () => refuses(() => parseImageConfig(toBytes(value)), pattern));

  test('returns a config for arbitrary input, or throws FAILED_PRECONDITION', () => {
    const random = createRandom(4);
    const text = JSON.stringify({ os: 'linux', rootfs, config: { Entrypoint: ['/e'], Env: ['A=1'], Volumes: { '/v': {} }, Labels: { a: 'b' } } });
    for (let round = 0; round < 4000; round += 1) {
      try {
        const parsed = parseImageConfig(Buffer.from(mutated(random, text, ['null', '[]', '{}', '1', '"', '"__proto__":{}', '\\u0000', 'true'])));
        assert.ok(parsed.env.every((variable) => variable.includes('=')));
      } catch (error) {
        assert.ok(error instanceof BerthError && error.code === 'FAILED_PRECONDITION', String(error));
      }
    }
  });
});

test('checkLayerCount() requires as many layers as diff ids', () => {
  const configOf = (count: number) => parseImageConfig(toBytes({ rootfs: { type: 'layers', diff_ids: Array(count).fill(digest('d')) } }));
  const layers = [{ mediaType: layer.mediaType, digest: layer.digest, sizeBytes: 20 }];
  checkLayerCount(layers, configOf(1));
  refuses(() => checkLayerCount(layers, configOf(2)), /2 layers, but the manifest has 1/);
});
