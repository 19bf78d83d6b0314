"""``osteon verify``: whether disk, table and destinations agree."""

from collections.abc import Iterator

import click

from osteon.cli.options import config_option, example, json_option, require_data, settings_in_force
from osteon.cli.output import printable, progress, write_json
from osteon.cli.peers import peer_named
from osteon.config.settings import Settings
from osteon.errors import DeliveryError, NotFoundError, OsteonError
from osteon.pipeline.instances.leftovers import recover_all
from osteon.pipeline.instances.spool import SPOOL
from osteon.pipeline.rebuild import Fault, adopt, compare
from osteon.pipeline.table import holdings
from osteon.pipeline.table.connection import Table, open_table
from osteon.results.scu import find_instance


@click.command(name="verify", epilog=example("osteon verify --deep", "osteon verify --rebuild"))
@config_option
@json_option
@click.option("--deep", is_flag=True, help="Read every file and compare its hash.")
@click.option("--pacs", is_flag=True, help="Ask the destinations for what was delivered to them.")
@click.option("--rebuild", is_flag=True, help="Put spool files without a row back on record.")
def command(deep: bool, pacs: bool, rebuild: bool, as_json: bool) -> None:
    """Compare the job table with the disk and the destinations.

    The exit code is 1 if something is lost or damaged.
    """
    settings = settings_in_force()
    require_data(settings, SPOOL, "spool")
    table = open_table(settings.data_dir)
    found: list[Fault] = []
    adopted = 0
    try:
        if rebuild:
            recover_all(settings, table)  # What a killed role has left is part of the spool.
        with progress("comparing") as bar:
            for fault in _faults(settings, table, deep=deep, pacs=pacs):
                if rebuild and fault.kind == "orphan":
                    adopt(settings, table, fault.path)
                    adopted += 1
                else:
                    found.append(fault)
                bar.show(adopted + len(found), what="faults")
    finally:
        table.close()
    if as_json:
        write_json({"faults": [vars(fault) for fault in found], "adopted": adopted})
    else:
        for fault in found:
            click.echo(printable(f"{fault.kind:<9}{fault.path}: {fault.why}"))
        if adopted:
            click.echo(f"{adopted} instances are back on record")
    if found:
        raise OsteonError(f"{len(found)} faults: disk, table and destinations do not agree")
    if not as_json:
        click.echo("OK")


def _faults(settings: Settings, table: Table, *, deep: bool, pacs: bool) -> Iterator[Fault]:
    yield from compare(table, deep=deep)
    if pacs:
        yield from _lost_at_destinations(settings, table)


def _lost_at_destinations(settings: Settings, table: Table) -> Iterator[Fault]:
    """Ask for every delivered result; one unreachable destination is one fault."""
    silent: set[str] = set()
    for row in holdings.delivered(table):
        name = row["destination"]
        if name in silent:
            continue
        try:
            held = find_instance(
                peer_named(settings, name),
                row["sop_instance_uid"],
                study_instance_uid=row["study_instance_uid"],
                series_instance_uid=row["series_instance_uid"],
            )
        except (DeliveryError, NotFoundError) as error:
            silent.add(name)
            yield Fault("pacs", row["path"], error.message)
        else:
            if held is None:
                silent.add(name)
                yield Fault("pacs", row["path"], f"{name} answers no C-FIND: it cannot be asked")
            elif not held:
                yield Fault("pacs", row["path"], f"{name} does not have it any more")
