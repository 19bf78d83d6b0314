"""Counts of rows that the schema's triggers keep, so that no table is counted at every look.

Read by the status views and by intake; every INSERT, UPDATE and DELETE moves them in its own
transaction.
"""

from osteon.pipeline.job import Stage, State
from osteon.pipeline.table.connection import Table


def counts(table: Table) -> dict[str, int]:
    """Return every count that is not 0, by its name: ``instance``, ``job encode running``."""
    return {r["name"]: int(r["n"]) for r in table.rows("SELECT name, n FROM tally WHERE n <> 0")}


def jobs(table: Table) -> dict[tuple[Stage, State], int]:
    """Return how many jobs are at each stage in each state; those that none has are left out."""
    found = {}
    for name, count in counts(table).items():
        kind, _, place = name.partition(" ")
        if kind == "job":
            stage, state = place.split(" ")
            found[Stage(stage), State(state)] = count
    return found


def deliveries(table: Table) -> dict[str, int]:
    """Return how many deliveries are in each state; those that none has are left out."""
    parts = ((name.partition(" "), count) for name, count in counts(table).items())
    return {state: count for (kind, _, state), count in parts if kind == "delivery"}
