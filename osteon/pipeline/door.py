"""The door: jobs are let in as there is room, and the others are told what they wait for.

The lines of the table enter the throttler; the jobs that it chooses are admitted, and its clocks
move on with them in one transaction. The observer asks at every tick.
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress

from osteon.config.settings import Settings
from osteon.errors import StaleTransition
from osteon.pipeline.budget import at_the_door, limits_of
from osteon.pipeline.instances.spool import free_bytes
from osteon.pipeline.table import jobs, lines, shares
from osteon.pipeline.table.connection import Row, Table
from osteon.pipeline.throttler import Clocks, Inside, Waiting, advance, choose

EXPLAIN_S = 1.0
APART_S = 1e-6  # Jobs that are let in at one look stand in line in this order.


class Door:
    """Let jobs in while there is room, and write down what the others wait for.

    Parameters
    ----------
    settings : Settings
        Its limits are read anew at every look.
    """

    def __init__(self, settings: Settings, table: Table) -> None:
        self._settings = settings
        self._table = table
        self._looked_at = float("-inf")
        self._admitted_at = 0.0

    def admit(self, slots: int) -> None:
        """Let in what the throttler says.

        While the house is full the lines are looked at once a second only, to tell new heads what
        they wait for: with a thousand sources a look is not free.

        Parameters
        ----------
        slots : int
            How many stages run at once.
        """
        table, now = self._table, self._table.clock()
        urgent = lines.most_urgent(table)
        if urgent is None:
            return
        limits = limits_of(self._settings, slots)
        inside = Inside(map(at_the_door, lines.inside(table)))
        full = inside.as_urgent_as(urgent) >= limits.running_max
        if full and 0 <= now - self._looked_at < EXPLAIN_S:
            return
        self._looked_at = now
        rows = {(row["calling_ae_title"], row["model"]): row for row in lines.heads(table)}
        free = free_bytes(table.data_dir)
        held: dict[int, str] = {}
        while rows and not held:
            waiting = [at_the_door(row) for row in rows.values()]
            clocks = {
                priority: self._clocks(priority) for priority in {w.priority for w in waiting}
            }
            chosen, held = choose(waiting, inside, limits, free, clocks)
            if chosen is not None:
                line = chosen.source, chosen.model
                self._let_in(rows[line], chosen, advance(clocks[chosen.priority], chosen, limits))
                inside.add(chosen)
                following = lines.head(table, *line)
                if following is None:
                    del rows[line]
                else:
                    rows[line] = following
        self._explain(rows.values(), held)

    def _clocks(self, priority: int) -> Clocks:
        served = shares.served(self._table, priority)
        return Clocks(
            now=shares.began(self._table, priority),
            served={row["calling_ae_title"]: row["served"] for row in served},
        )

    def _let_in(self, row: Row, job: Waiting, span: tuple[float, float]) -> None:
        self._admitted_at = max(self._table.clock(), self._admitted_at + APART_S)
        with suppress(StaleTransition), self._table.write():  # A person may have cancelled it.
            jobs.admit(self._table, row, "waits for a worker", self._admitted_at)
            shares.advance(self._table, job.priority, job.source, *span)

    def _explain(self, rows: Iterable[Row], held: Mapping[int, str]) -> None:
        news = [row for row in rows if held.get(row["id"], row["reason"]) != row["reason"]]
        if news:
            with self._table.write():
                for row in news:
                    jobs.explain(self._table, row, held[row["id"]])
