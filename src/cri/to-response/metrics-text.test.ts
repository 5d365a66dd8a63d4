import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type MetricFamily, metricFamilies } from './metric-families.ts';
import { metricsText } from './metrics-text.ts';

const family = (name: string): MetricFamily => metricFamilies.find((each) => each.name === name) as MetricFamily;
const labels = (pod: string) => ['main', '/pods/x', 'img', 'id', 'ns', pod];

test('the series of a metric are grouped below its help and type across pods', () => {
  const [rss, cache] = [family('container_memory_rss'), family('container_memory_cache')];
  const text = metricsText([
    { family: cache, labels: labels('a'), value: 1 },
    { family: rss, labels: labels('a'), value: 2 },
    { family: cache, labels: labels('b'), value: 3n },
  ]);
  const common = 'container="main",id="/pods/x",image="img",name="id",namespace="ns"';
  assert.deepEqual(text.split('\n'), [
    `# HELP container_memory_rss ${rss.help}`,
    '# TYPE container_memory_rss gauge',
    `container_memory_rss{${common},pod="a"} 2`,
    `# HELP container_memory_cache ${cache.help}`,
    '# TYPE container_memory_cache gauge',
    `container_memory_cache{${common},pod="a"} 1`,
    `container_memory_cache{${common},pod="b"} 3`,
    '',
  ]);
});

test('seconds have nine decimals, and label values are escaped', () => {
  const value = (ns: bigint) =>
    / (\S+)\n$/.exec(metricsText([{ family: family('container_cpu_user_seconds_total'), labels: [], value: { ns } }]))?.[1];
  assert.deepEqual([0n, 7n, 1_000_000_000n, 12_345_678_901n].map(value), ['0.000000000', '0.000000007', '1.000000000', '12.345678901']);
  assert.match(metricsText([{ family: family('container_memory_rss'), labels: ['a"b\\c\nd'], value: 1 }]), /container="a\\"b\\\\c\\nd",id=""/);
});
