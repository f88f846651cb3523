"""How a batch stands: a live table in a terminal, a line an asset elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from systems.batching.dispatch import Dispatcher, Outcome

_REFRESH_S = 0.5
_SHOWN_FAILURES = 3


class Progress:
    """Counts outcomes and shows them; use as a context.

    Args:
        total: assets of the batch.
        before: how many of them were done already.
        refused: how many cannot be made, because their line is wrong.
    """

    def __init__(self, console: Console, total: int, before: int, refused: int) -> None:
        self.console, self.total, self.before = console, total, before
        self.counts = Counter(done=before, failed=refused)
        self.made = 0
        self.failures: list[str] = []
        self.started = time.monotonic()
        self._live: Live | None = None
        self._shown_at = 0.0

    def __enter__(self) -> Progress:
        if self.console.is_terminal:
            self._live = Live(console=self.console, auto_refresh=False)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def ended(self, outcome: Outcome, is_done: bool) -> None:
        """Count an outcome, and print it where there is no terminal."""
        self.made += 1
        self.counts["done" if is_done else "failed"] += 1
        said = "done" if is_done else f"FAILED ({outcome.result.problem})"
        line = f"'{shortened(outcome.job.prompt)}' {said}, {outcome.result.seconds:.1f} s"
        if not is_done:
            self.failures.append(line)
        if self._live is None:
            count = self.counts["done"] + self.counts["failed"]
            self.console.print(f"{count}/{self.total}  {line}", markup=False, soft_wrap=True)

    def left_s(self, waiting: int, running: int) -> float | None:
        """Return the seconds that are left at the pace so far, None before the first asset has ended."""
        if not self.made:
            return None
        return (time.monotonic() - self.started) / self.made * (waiting + 0.5 * running)

    def tick(self, dispatcher: Dispatcher) -> None:
        """Draw the table again, twice a second at most."""
        if self._live is None or time.monotonic() - self._shown_at < _REFRESH_S:
            return
        self._shown_at = time.monotonic()
        self._live.update(self._table(dispatcher), refresh=True)

    def _table(self, dispatcher: Dispatcher) -> Group:
        waiting, running = len(dispatcher.waiting), len(dispatcher.running)
        left = self.left_s(waiting, running)
        counts = f"{self.counts['done']} done, {running} running, {waiting} waiting, {self.counts['failed']} failed"
        line = f"{counts} of {self.total}; {'time left: soon' if left is None else f'{clock(left)} left'}"
        table = Table()
        for column in ("worker", "prompt", "for", "attempt"):
            table.add_column(column, overflow="fold")
        for slot in dispatcher.slots.values():
            job = slot.job
            text = escape(shortened(job.prompt)) if job else slot.state
            attempt = str(dispatcher.attempts.get(job.key, 0)) if job else ""
            table.add_row(escape(slot.worker), text, clock(time.monotonic() - slot.since), attempt)
        for failure in self.failures[-_SHOWN_FAILURES:]:
            table.add_row("", escape(failure[:300]), "", "")
        return Group(Text(line), table)  # as a title the line would be as narrow as the table


def shortened(prompt: str) -> str:
    """Return a prompt that fits on a line."""
    return prompt if len(prompt) <= 60 else f"{prompt[:57]}..."


def clock(seconds: float) -> str:
    """Return a time as m:ss or h:mm:ss."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"
