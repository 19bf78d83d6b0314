"""``osteon routes``: which route takes what, and which condition decides."""

from pathlib import Path
from typing import Any

import click

from osteon.cli.folder import Series, read_folder
from osteon.cli.options import config_option, example, json_option, settings_in_force
from osteon.cli.output import printable, progress, write_json, write_skipped, write_table
from osteon.config.settings import Condition, Settings
from osteon.pipeline.routes import Candidate, choose, decide


@click.group(name="routes", epilog=example("osteon routes test ct/"))
def command() -> None:
    """List routes, and try them on a folder."""


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
            route.series,
            ", ".join(d.name for d in settings.destinations_of(route)) or "none",
            "; ".join(f"{key} {_words(condition)}" for key, condition in route.match.items()),
        )
        for route in settings.routes
    ]
    write_table(("route", "model", "series", "destinations", "conditions"), rows)


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
    with progress("reading") as bar:
        found, skipped = read_folder(folder, bar.show)
    answers = _ask(settings, found, called or settings.scp.ae_title)
    if as_json:
        files = [{"path": str(one.path), "reason": one.why} for one in skipped]
        write_json({"series": answers, "skipped_files": files})
        return
    for series, answer in zip(found, answers, strict=True):
        click.echo(printable(f"{series.series_instance_uid}: {series}"))
        for said in answer["routes"]:
            taken = "takes it" if said["taken"] else "leaves it"
            click.echo(printable(f"  {said['route']} {taken}: {said['why']}"))
    write_skipped([(one.path, one.why) for one in skipped])


def _ask(settings: Settings, found: list[Series], called: str) -> list[dict[str, Any]]:
    candidates = {
        series.series_instance_uid: Candidate(
            series.series_instance_uid, called, series.first.values, len(series.instances)
        )
        for series in found
    }
    answers = []
    for series in found:
        candidate = candidates[series.series_instance_uid]
        said = []
        for decision in decide(settings.routes, candidate):
            taken, why = decision.taken, decision.why
            if taken and decision.route.series != "all":
                study = series.first.study_instance_uid
                rivals = [
                    candidates[other.series_instance_uid]
                    for other in found
                    if other.first.study_instance_uid == study
                    and decide([decision.route], candidates[other.series_instance_uid])[0].taken
                ]
                chosen = choose(decision.route, rivals)
                taken = chosen is candidate
                if not taken:
                    best = chosen.series_instance_uid
                    why = f"the {decision.route.series} series of its study is {best}"
            said.append({"route": decision.route.name, "taken": taken, "why": why})
        answers.append(
            {
                "series_instance_uid": series.series_instance_uid,
                "modality": series.first.modality,
                "instances": len(series.instances),
                "routes": said,
            }
        )
    return answers


def _words(condition: Condition) -> str:
    parts = condition.model_dump(mode="json", exclude_none=True)
    return " ".join(f"{name.replace('_', ' ')} {value}" for name, value in parts.items())
