/**
 * Shows progress on standard error: lines redrawn in place on a terminal, otherwise a new line at intervals. Does no I/O itself: it is given the output.
 */

export type ProgressDisplay = {
  /** @param lines the first one is the summary. */
  readonly show: (lines: readonly string[]) => void;
  /** Clears the lines on a terminal. Idempotent. */
  readonly end: () => void;
  /** Returns how many lines fit. */
  readonly rowsMax: () => number;
};

/** The part of `process.stderr` used here. */
export type Terminal = { readonly isTTY?: boolean; readonly columns?: number; readonly rows?: number; readonly write: (text: string) => unknown };

/** Interval between lines if the output is not a terminal. */
const plainIntervalMs = 10_000;

export function openProgressDisplay(terminal: Terminal, nowMs: () => number = () => performance.now()): ProgressDisplay {
  return terminal.isTTY === true ? inPlace(terminal) : asLines(terminal, nowMs);
}

function inPlace(terminal: Terminal): ProgressDisplay {
  let shown = 0;
  // Moves to the first line and erases everything below.
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
