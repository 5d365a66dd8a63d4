/**
 * Reads ginkgo's JSON report and compares it with the list of specs that do not pass yet. Pure.
 */

export type Spec = {
  readonly name: string;
  readonly state: 'passed' | 'failed' | 'skipped';
  readonly seconds: number;
  /** Milliseconds since 1970. */
  readonly startedAtMs: number;
  readonly endedAtMs: number;
  /** Why it failed or was skipped; '' if it passed. */
  readonly message: string;
};

/** An entry of not-passing.json. */
export type Expected = {
  readonly name: string;
  readonly reason: string;
  /** A feature that the machine may lack. The spec may pass on a machine that has it. */
  readonly needs?: string;
};

type GinkgoSpec = {
  readonly ContainerHierarchyTexts: readonly string[] | null;
  readonly LeafNodeText: string;
  readonly LeafNodeType: string;
  readonly State: string;
  readonly RunTime: number;
  readonly StartTime: string;
  readonly EndTime: string;
  readonly Failure?: { readonly Message?: string };
};

/** Returns the specs that ran or skipped themselves, sorted by name, without those that the focus excluded. */
export function readReport(json: string): Spec[] {
  const suites = JSON.parse(json) as readonly { readonly SpecReports: readonly GinkgoSpec[] | null }[];
  const specs = suites.flatMap((suite) => suite.SpecReports ?? []).filter((spec) => spec.LeafNodeType === 'It' && !isExcluded(spec));
  return specs.map(toSpec).sort((a, b) => (a.name < b.name ? -1 : 1));
}

function isExcluded(spec: GinkgoSpec): boolean {
  return spec.State === 'pending' || (spec.State === 'skipped' && !spec.Failure?.Message);
}

function toSpec(spec: GinkgoSpec): Spec {
  const name = [...(spec.ContainerHierarchyTexts ?? []), spec.LeafNodeText].join(' ');
  const state = spec.State === 'passed' || spec.State === 'skipped' ? spec.State : 'failed';
  const times = { seconds: spec.RunTime / 1e9, startedAtMs: Date.parse(spec.StartTime), endedAtMs: Date.parse(spec.EndTime) };
  return { name, state, ...times, message: spec.Failure?.Message ?? '' };
}

/** Compares the specs with the expected results. @returns one line for each unexpected result. */
export function unexpectedResults(specs: readonly Spec[], expected: readonly Expected[]): string[] {
  const listed = new Map(expected.map((entry) => [entry.name, entry]));
  return specs.flatMap((spec) => {
    const entry = listed.get(spec.name);
    if (spec.state === 'passed')
      return entry && entry.needs === undefined ? [`passes, but is listed as not passing (${entry.reason}): ${spec.name}`] : [];
    return entry ? [] : [`${spec.state}: ${spec.name}: ${firstLine(spec.message)}`];
  });
}

/** Returns entries of the list that match no spec. Meaningful only after a run of all specs. */
export function unknownNames(specs: readonly Spec[], expected: readonly Expected[]): string[] {
  const names = new Set(specs.map((spec) => spec.name));
  return expected.filter((entry) => !names.has(entry.name)).map((entry) => `listed as not passing, but unknown: ${entry.name}`);
}

export function countStates(specs: readonly Spec[]): { passed: number; failed: number; skipped: number } {
  const count = (state: Spec['state']) => specs.filter((spec) => spec.state === state).length;
  return { passed: count('passed'), failed: count('failed'), skipped: count('skipped') };
}

function firstLine(text: string): string {
  return text.split('\n', 1)[0] ?? '';
}
