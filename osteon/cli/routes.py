"""``osteon routes``: which route takes what, and what another configuration would change."""

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from osteon.cli.folder import Series, read_folder
from osteon.cli.options import (
    config_option,
    days_option,
    example,
    job_table,
    json_option,
    settings_in_force,
)
from osteon.cli.output import (
    local_time,
    printable,
    progress,
    write_json,
    write_skipped,
    write_table,
)
from osteon.config.load import load_settings
from osteon.config.settings import Condition, Settings
from osteon.errors import NotFoundError, OsteonError
from osteon.pipeline.routediff import Change, Comparison, Difference, Plan, compare
from osteon.pipeline.routes import Candidate, decide_in_study
from osteon.pipeline.table.connection import Row
from osteon.pipeline.table.times import iso
from osteon.scp.access import check_titles, is_source, unknown_calling

DAY_S = 86400.0


@click.group(name="routes", epilog=example("osteon routes test ct/"))
def command() -> None:
    """List routes, try them, and compare two configurations."""


@command.command(name="list", epilog=example("osteon routes list --json"))
@config_option
@json_option
def list_routes(as_json: bool) -> None:
    """List the routes in force, in the order in which they are asked."""
    settings = settings_in_force()
    if as_json:
        write_json([route.model_dump(mode="json") for route in settings.routes])
        return
    rows = [
        (
            route.name,
            route.model,
            ", ".join(route.shadow),
            route.series,
            ", ".join(d.name for d in settings.destinations_of(route)) or "none",
            "; ".join(f"{key} {_words(condition)}" for key, condition in route.match.items()),
        )
        for route in settings.routes
    ]
    write_table(("route", "model", "shadow", "series", "destinations", "conditions"), rows)


@command.command(epilog=example("osteon routes test ct/ --called BONES"))
@config_option
@json_option
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.option("--called", metavar="AE_TITLE", help="Called AE title; scp.ae_title where absent.")
def test(folder: Path, called: str | None, as_json: bool) -> None:
    """Say which routes would take the series in a folder, and why.

    The condition that decides is named.
    """
    settings = settings_in_force()
    called = called or settings.scp.ae_title
    if called not in settings.called_ae_titles:
        answers_to = ", ".join(sorted(settings.called_ae_titles))
        raise NotFoundError(f"this node does not answer to {called!r}: it is called {answers_to}")
    with progress("reading") as bar:
        found, skipped = read_folder(folder, bar.show)
    answers = _ask(settings, found, called)
    if as_json:
        files = [{"path": str(one.path), "reason": one.why} for one in skipped]
        write_json({"series": answers, "skipped_files": files})
    else:
        _write_answers(found, answers)
        write_skipped([(one.path, one.why) for one in skipped])
    if not found:
        raise NotFoundError(f"{folder}: no DICOM series there")


def _write_answers(found: list[Series], answers: list[dict[str, Any]]) -> None:
    for series, answer in zip(found, answers, strict=True):
        click.echo(printable(f"{series.series_instance_uid}: {series}"))
        for said in answer["routes"]:
            taken = "takes it" if said["taken"] else "leaves it"
            click.echo(printable(f"  {said['route']} {taken}: {said['why']}"))


@command.command(
    epilog=example("osteon routes diff new.toml", "osteon routes diff new.toml --exit-code")
)
@config_option
@json_option
@click.argument("new", metavar="NEW", type=click.Path(path_type=Path))
@days_option("How far back to look.")
@click.option(
    "--exit-code", is_flag=True, help="End with 1 if a series would be decided otherwise."
)
def diff(new: Path, days: float, exit_code: bool, as_json: bool) -> None:
    """Compare a new configuration with the one in force.

    Every series of the last days is decided by both; nothing is changed. Of each that would be
    decided otherwise it says what it was and what it would be.
    """
    was, would_be = settings_in_force(), load_settings(new)
    with job_table(was) as table:
        found = compare(table, was, would_be, table.clock() - days * DAY_S, _refusal)
    changes = Counter(difference.change for difference in found.differences)
    if as_json:
        write_json(_as_json(found, days, changes))
    else:
        for difference in found.differences:
            for line in _lines_of(difference):
                click.echo(printable(line))
        click.echo(
            f"{found.looked_at} series of the last {days:g} days:"
            f" {found.looked_at - len(found.differences)} as before,"
            f" {changes[Change.GAINED]} newly taken, {changes[Change.LOST]} no longer taken,"
            f" {changes[Change.OTHER]} taken otherwise"
        )
        if changes[Change.GAINED]:
            cure = "`osteon jobs reroute --gained` takes the newly taken ones"
            click.echo(f"when {printable(new)} is in force, {cure}")
    if exit_code and found.differences:
        raise OsteonError(f"{new} would decide {len(found.differences)} series otherwise")


def _refusal(settings: Settings, series: Row, address: str) -> str | None:
    """Return why the sender of a series would not be let in, or None."""
    calling, called = series["calling_ae_title"], series["called_ae_title"]
    if not is_source(settings, calling, address):
        return unknown_calling(calling, address).why
    rejection = check_titles(settings, calling, called, address)
    return None if rejection is None else rejection.why


def _lines_of(difference: Difference) -> list[str]:
    series = difference.series
    accession = series["accession_number"] or "none"
    return [
        f"{series['series_instance_uid']}: {series['modality']}, {series['instances']} instances,"
        f" accession number {accession}, {local_time(iso(series['last']))}",
        *(f"  was       {words}" for words in _plan_words(difference.was)),
        *(f"  would be  {words}" for words in _plan_words(difference.would_be)),
    ]


def _plan_words(plan: Plan) -> list[str]:
    return [
        f"{job.route}: {job.model}, {job.priority},"
        f" {'to ' + ', '.join(job.destinations) if job.destinations else 'to nobody'}"
        + (f", shadow {', '.join(job.shadow)}" if job.shadow else "")
        for job in plan.jobs
    ] or [f"not taken: {plan.why}"]


def _as_json(found: Comparison, days: float, changes: Counter[Change]) -> dict[str, Any]:
    keys = ("series_instance_uid", "study_instance_uid", "accession_number", "generation")
    return {
        "days": days,
        "series": found.looked_at,
        "unchanged": found.looked_at - len(found.differences),
        **{change.value: changes[change] for change in Change},
        "differences": [
            {key: difference.series[key] for key in keys}
            | {
                "instances": difference.series["instances"],
                "last": iso(difference.series["last"]),
                "change": difference.change,
                "was": asdict(difference.was),
                "would_be": asdict(difference.would_be),
            }
            for difference in found.differences
        ],
    }


def _ask(settings: Settings, found: list[Series], called: str) -> list[dict[str, Any]]:
    candidates = [
        Candidate(series.series_instance_uid, called, series.first.values, len(series.instances))
        for series in found
    ]
    answers = []
    for series, candidate in zip(found, candidates, strict=True):
        study = [
            other
            for of, other in zip(found, candidates, strict=True)
            if of.first.study_instance_uid == series.first.study_instance_uid
        ]
        answers.append(
            {
                "series_instance_uid": series.series_instance_uid,
                "modality": series.first.modality,
                "instances": len(series.instances),
                "routes": [
                    {"route": d.route.name, "taken": d.taken, "why": d.why}
                    for d in decide_in_study(settings.routes, candidate, study)
                ],
            }
        )
    return answers


def _words(condition: Condition) -> str:
    parts = condition.model_dump(mode="json", exclude_none=True)
    return " ".join(f"{name.replace('_', ' ')} {value}" for name, value in parts.items())
