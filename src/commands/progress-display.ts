/**
 * Shows progress on standard error while something goes on: lines that change in place on a terminal, now and then a new line elsewhere.
 *
 * Knows nothing of what it shows.
 */

export type ProgressDisplay = {
  /** @param lines of which the first is the summary. */
  readonly show: (lines: readonly string[]) => void;
  /** What was shown in place goes. Idempotent. */
  readonly end: () => void;
  /** How many lines there is room for. */
  readonly rowsMax: () => number;
};

/** Of `process.stderr`. */
export type Terminal = { readonly isTTY?: boolean; readonly columns?: number; readonly rows?: number; readonly write: (text: string) => unknown };

/** Between two lines where nothing can be drawn over: a log is no bar. */
const plainIntervalMs = 10_000;

export function openProgressDisplay(terminal: Terminal, nowMs: () => number = () => performance.now()): ProgressDisplay {
  return terminal.isTTY === true ? inPlace(terminal) : asLines(terminal, nowMs);
}

function inPlace(terminal: Terminal): ProgressDisplay {
  let shown = 0;
  // Up to the first line, then away with all below.
  const clear = (): string => (shown === 0 ? '' : `\x1b[${shown}A\x1b[J`);
  return {
    show: (lines) => {
      const width = Math.max(20, terminal.columns ?? 80) - 1;
      terminal.write(`${clear()}${lines.map((line) => `${line.slice(0, width)}\n`).join('')}`);
      shown = lines.length;
    },
    end: () => {
      terminal.write(clear());
      shown = 0;
    },
    rowsMax: () => Math.max(1, (terminal.rows ?? 24) - 2),
  };
}

function asLines(terminal: Terminal, nowMs: () => number): ProgressDisplay {
  let nextMs = nowMs() + plainIntervalMs;
  return {
    show: ([summary = '']) => {
      if (nowMs() < nextMs) return;
      nextMs = nowMs() + plainIntervalMs;
      terminal.write(`${summary}\n`);
    },
    end: () => undefined,
    rowsMax: () => 1,
  };
}
