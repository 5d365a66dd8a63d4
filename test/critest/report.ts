/**
 * Reads ginkgo's JSON report and judges it against the list of specs that do not pass yet. Pure.
 */

export type Spec = {
  readonly name: string;
  readonly state: 'passed' | 'failed' | 'skipped';
  readonly seconds: number;
  /** Why it failed or skipped; '' when it passed. */
  readonly message: string;
};

/** An entry of not-passing.json. */
export type Expected = {
  readonly name: string;
  readonly reason: string;
  /** What a machine may lack: with it, the spec may also pass. */
  readonly needs?: string;
};

type GinkgoSpec = {
  readonly ContainerHierarchyTexts: readonly string[] | null;
  readonly LeafNodeText: string;
  readonly LeafNodeType: string;
  readonly State: string;
  readonly RunTime: number;
  readonly Failure?: { readonly Message?: string };
};

/** @returns the specs that ran or skipped themselves, by name; those that a focus left out are no part of it. */
export function readReport(json: string): Spec[] {
  const suites = JSON.parse(json) as readonly { readonly SpecReports: readonly GinkgoSpec[] | null }[];
  const specs = suites.flatMap((suite) => suite.SpecReports ?? []).filter((spec) => spec.LeafNodeType === 'It' && !isLeftOut(spec));
  return specs.map(toSpec).sort((a, b) => (a.name < b.name ? -1 : 1));
}

function isLeftOut(spec: GinkgoSpec): boolean {
  return spec.State === 'pending' || (spec.State === 'skipped' && !spec.Failure?.Message);
}

function toSpec(spec: GinkgoSpec): Spec {
  const name = [...(spec.ContainerHierarchyTexts ?? []), spec.LeafNodeText].join(' ');
  const state = spec.State === 'passed' || spec.State === 'skipped' ? spec.State : 'failed';
  return { name, state, seconds: spec.RunTime / 1e9, message: spec.Failure?.Message ?? '' };
}

/** @returns one line for each spec that is not as expected; none means that the run is good. */
export function judge(specs: readonly Spec[], expected: readonly Expected[]): string[] {
  const listed = new Map(expected.map((entry) => [entry.name, entry]));
  return specs.flatMap((spec) => {
    const entry = listed.get(spec.name);
    if (spec.state === 'passed')
      return entry && entry.needs === undefined ? [`passes, but is listed as not passing (${entry.reason}): ${spec.name}`] : [];
    return entry ? [] : [`${spec.state}: ${spec.name}: ${firstLine(spec.message)}`];
  });
}

/** Names in the list that no spec has: only meaningful after a run of all specs. */
export function unknownNames(specs: readonly Spec[], expected: readonly Expected[]): string[] {
  const names = new Set(specs.map((spec) => spec.name));
  return expected.filter((entry) => !names.has(entry.name)).map((entry) => `listed as not passing, but there is no such spec: ${entry.name}`);
}

export function countStates(specs: readonly Spec[]): { passed: number; failed: number; skipped: number } {
  const count = (state: Spec['state']) => specs.filter((spec) => spec.state === state).length;
  return { passed: count('passed'), failed: count('failed'), skipped: count('skipped') };
}

function firstLine(text: string): string {
  return text.split('\n', 1)[0] ?? '';
}
