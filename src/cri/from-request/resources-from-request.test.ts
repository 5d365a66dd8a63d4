import assert from 'node:assert/strict';
import { test } from 'node:test';
import { initialResourcesFrom, resourcesFrom } from './resources-from-request.ts';

test('resourcesFrom() omits zero and empty fields', () => {
  const zeros = {
    cpu_period: '0',
    cpu_quota: '0',
    cpu_shares: '0',
    memory_limit_in_bytes: '0',
    oom_score_adj: '0',
    cpuset_cpus: '',
    hugepage_limits: [],
    unified: {},
  };
  assert.deepEqual(resourcesFrom(zeros), {});
  assert.deepEqual(resourcesFrom(undefined), {});
});

test('initialResourcesFrom() always sets the oom score, which would otherwise be inherited from the daemon', () => {
  assert.deepEqual(initialResourcesFrom(undefined), { oomScoreAdj: 0 });
  assert.deepEqual(initialResourcesFrom({ oom_score_adj: '-997' }), { oomScoreAdj: -997 });
});

test('resourcesFrom() returns unlimited as -1, and reduces huge limits to the largest safe integer', () => {
  const { cpuQuotaUs, memoryLimitBytes, memorySwapLimitBytes, hugepageLimits } = resourcesFrom({
    cpu_quota: '-5',
    memory_limit_in_bytes: '-1',
    memory_swap_limit_in_bytes: '-1',
    hugepage_limits: [{ page_size: '2MB', limit: '9223372036854771712' }, { page_size: '1GB' }],
  });
  assert.deepEqual([cpuQuotaUs, memoryLimitBytes, memorySwapLimitBytes], [-1, -1, -1]);
  assert.deepEqual(hugepageLimits, [
    { pageSize: '2MB', limitBytes: Number.MAX_SAFE_INTEGER },
    { pageSize: '1GB', limitBytes: 0 },
  ]);
});

test('resourcesFrom() refuses a limit of memory and swap below the memory limit', () => {
  const both = (memory: string, swap: string) => () => resourcesFrom({ memory_limit_in_bytes: memory, memory_swap_limit_in_bytes: swap });
  for (const [memory, swap] of [
    ['100', '100'],
    ['100', '200'],
    ['100', '-1'],
    ['100', '0'],
    ['-1', '-1'],
    ['-1', '0'],
  ] as const)
    both(memory, swap)();
  for (const [memory, swap] of [
    ['100', '99'],
    ['-1', '100'],
  ] as const) {
    assert.throws(both(memory, swap), { code: 'INVALID_ARGUMENT', message: /limits memory plus swap/ });
  }
});

test('resourcesFrom() refuses values outside the ranges of the kernel', () => {
  const refused = (message: object, field: string) => {
    assert.throws(() => resourcesFrom(message), { code: 'INVALID_ARGUMENT', message: new RegExp(`^${field}`) }, JSON.stringify(message));
  };
  for (const value of ['999', '1000001', '-1']) refused({ cpu_period: value }, 'cpu_period');
  for (const value of ['1', '999']) refused({ cpu_quota: value }, 'cpu_quota');
  for (const value of ['-1001', '1001']) refused({ oom_score_adj: value }, 'oom_score_adj');
  refused({ cpu_shares: '-1' }, 'cpu_shares');
  refused({ memory_limit_in_bytes: '-2' }, 'memory_limit_in_bytes');
  for (const list of ['a', '0,', '1-', '0\n1']) refused({ cpuset_cpus: list }, 'cpuset_cpus');
  for (const page_size of ['', '2M', '2MB/../x']) refused({ hugepage_limits: [{ page_size }] }, 'hugepage_limits');
  for (const file of ['', 'memory', 'memory.max/x', '../x.y', 'cgroup..procs']) refused({ unified: { [file]: '1' } }, 'unified');
  assert.deepEqual(resourcesFrom({ cpu_period: '1000', cpu_quota: '1000', cpuset_mems: '0-3,7', unified: { 'memory.high': 'max' } }), {
    cpuPeriodUs: 1000,
    cpuQuotaUs: 1000,
    cpusetMems: '0-3,7',
    unified: { 'memory.high': 'max' },
  });
});
