"""What a person can do about jobs: ``osteon jobs retry``, ``reroute``, ``priority``, ``cancel``.

A name enters, the jobs that it means are moved, and what became of each is said. ``jobs.py`` makes
commands of its group of them.
"""

import getpass
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import click

from osteon.cli.options import (
    config_option,
    days_option,
    example,
    job_table,
    json_option,
    settings_in_force,
)
from osteon.cli.output import printable, write_json
from osteon.config.settings import Priority, Settings
from osteon.errors import NotRunnableError, StaleTransition
from osteon.pipeline import reroute as rerouting
from osteon.pipeline.job import STAGES_OF, Event, State
from osteon.pipeline.table import jobs
from osteon.pipeline.table.connection import Row, Table
from osteon.pipeline.table.names import jobs_named
from osteon.pipeline.table.rerouting import series_named

DAY_S = 86400.0


@dataclass(frozen=True)
class Done:
    """What was done to a job: in one word for programs, and in a few for people."""

    id: int | None  # None where nothing was done to a series
    became: str
    words: str


@click.command(epilog=example("osteon jobs retry 17", "osteon jobs retry A4711"))
@config_option
@json_option
@click.argument("name", metavar="ID|ACCESSION")
def retry(name: str, as_json: bool) -> None:
    """Run a finished job again on the same input.

    It goes by a job, a series or study UID, or an accession number; of several jobs those are run
    that failed or were cancelled. The result keeps its UIDs. Of a series that no route took, the
    present routes are asked.
    """
    settings = settings_in_force()

    def act(table: Table, job: Row, who: str) -> list[Done]:
        """Have a job run again, by the present routes."""
        return [_done(one) for one in rerouting.retry(settings, table, job, who)]

    _each(settings, name, _failed, "has failed or was cancelled", act, as_json=as_json)


@click.command(epilog=example("osteon jobs priority A4711 stat"))
@config_option
@json_option
@click.argument("name", metavar="ID|ACCESSION")
@click.argument("to", metavar="CLASS", type=click.Choice([c.value for c in Priority]))
def priority(name: str, to: str, as_json: bool) -> None:
    """Give a job that waits another priority class.

    CLASS is stat, urgent, routine or bulk. It goes by a job, a series or study UID, or an accession
    number; of several jobs all are meant that wait for the throttler, a worker or another attempt.
    What runs already runs on.
    """

    def act(table: Table, job: Row, who: str) -> list[Done]:
        """Give a job another priority."""
        if jobs.prioritize(table, job, Priority(to), who):
            return [Done(job["id"], "prioritized", f"is {to} now")]
        return [Done(job["id"], "kept", f"is {to} already")]

    _each(settings_in_force(), name, _waits, "waits for its turn", act, as_json=as_json)


@click.command(epilog=example("osteon jobs reroute A4711", "osteon jobs reroute --gained --days 2"))
@config_option
@json_option
@click.argument("name", metavar="[ID|ACCESSION]", required=False)
@click.option("--gained", is_flag=True, help="All series that no route took, and one takes now.")
@days_option("How far back --gained looks.")
@click.option("--route", metavar="ROUTE", help="Only this one; what other routes give stays.")
def reroute(name: str | None, gained: bool, days: float, route: str | None, as_json: bool) -> None:
    """Ask the present routes what becomes of a series that is held.

    It goes by a job, a series or study UID, or an accession number. What no route had taken runs;
    what the routes do not give any more is replaced; what is just as they say is left alone. Where
    the configuration was changed, start the node with it first.
    """
    if (name is None) != gained:
        raise click.UsageError("name a job, series, study or accession number, or --gained")
    if gained and route is not None:
        raise click.UsageError("--gained asks all routes: leave out --route")
    settings, who = settings_in_force(), _who()
    done: list[Done] = []
    with job_table(settings) as table:
        if name is None:
            found = rerouting.never_taken(settings, table, table.clock() - days * DAY_S)
        else:
            found = series_named(table, name)
        for series in found:
            try:
                became = rerouting.reroute(settings, table, series, who, only=route)
                done += [_done(one) for one in became]
            except NotRunnableError as error:
                if len(found) == 1:
                    raise
                done.append(Done(None, "left", f"left as it is: {error.message}"))
    if found and all(one.id is None for one in done):
        raise NotRunnableError(f"of {name} nothing is taken: {'; '.join(d.words for d in done)}")
    _report(done, as_json=as_json)
    if not found and not as_json:
        click.echo(f"no series of the last {days:g} days is newly taken")


@click.command(epilog=example("osteon jobs cancel 17", "osteon jobs cancel A4711"))
@config_option
@json_option
@click.argument("name", metavar="ID|ACCESSION")
def cancel(name: str, as_json: bool) -> None:
    """Stop a job that is not finished.

    It goes by a job, a series or study UID, or an accession number; of several jobs all are stopped
    that are not finished.
    """

    def act(table: Table, job: Row, who: str) -> list[Done]:
        """Cancel a job."""
        jobs.cancel(table, job, who)
        return [Done(job["id"], "cancelled", "is cancelled")]

    _each(settings_in_force(), name, _unfinished, "is unfinished", act, as_json=as_json)


def _failed(job: Row) -> bool:
    return job["state"] in (State.FAILED, State.CANCELLED)


def _unfinished(job: Row) -> bool:
    return not State(job["state"]).final


def _waits(job: Row) -> bool:
    waits = job["state"] in (State.WAITING, State.BACKOFF) and job["shadow_of"] is None
    return waits and job["stage"] in STAGES_OF[Event.PRIORITIZE]


def _each(
    settings: Settings,
    name: str,
    suits: Callable[[Row], bool],
    condition: str,
    act: Callable[[Table, Row, str], list[Done]],
    *,
    as_json: bool,
) -> None:
    """Do something to the job that a name means; of several, to those that suit."""
    with job_table(settings) as table:
        meant = jobs_named(table, name)
        chosen = meant if len(meant) == 1 else [job for job in meant if suits(job)]
        if not chosen:
            ids = ", ".join(str(job["id"]) for job in meant)
            raise StaleTransition(f"of {name}, none of the jobs {ids} {condition}: name one")
        done: list[Done] = []
        try:
            for job in chosen:
                done += act(table, job, _who())
        finally:
            if done:  # What was done before one could not be is told as well.
                _report(done, as_json=as_json)


def _done(one: rerouting.Rerouted) -> Done:
    return Done(one.id, one.became, one.words)


def _report(done: Sequence[Done], *, as_json: bool) -> None:
    if as_json:
        ids = (None if one.id is None else str(one.id) for one in done)
        write_json(
            [
                {"id": i, "became": d.became, "words": d.words}
                for i, d in zip(ids, done, strict=True)
            ]
        )
        return
    for one in done:
        click.echo(printable(one.words if one.id is None else f"job {one.id} {one.words}"))


def _who() -> str:
    """Name the person in the job's record."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in a container
        return "command line"
