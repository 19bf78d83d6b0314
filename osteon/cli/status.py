"""``osteon status``: which roles run, how much is held, and what waits for what."""

import http.client
from collections import Counter
from typing import Any

import click

from osteon.cli.options import config_option, example, job_table, json_option, settings_in_force
from osteon.cli.output import local_time, printable, write_json
from osteon.config.settings import Settings
from osteon.errors import OsteonError
from osteon.http.status import address_here, engine_of, listens
from osteon.pipeline.instances.spool import free_bytes
from osteon.pipeline.intake import GIGABYTE
from osteon.pipeline.job import Status
from osteon.pipeline.table import views
from osteon.pipeline.table.connection import Table
from osteon.pipeline.worklock import work_is_running

PROBE_S = 2.0
UNFINISHED = (Status.RECEIVING, Status.WAITING, Status.RUNNING, Status.DELIVERING)
LOOKED_AT_MAX = 1000  # The newest; with a longer backlog the others wait for the same.
REASONS_NAMED_MAX = 12


@click.command(name="status", epilog=example("osteon status", "osteon status --json"))
@config_option
@json_option
def command(as_json: bool) -> None:
    """Say which roles run, what is held and what waits for what.

    The exit code is 1 if a role is down.
    """
    settings = settings_in_force()
    with job_table(settings) as table:
        found = status_of_node(settings, table)
    if as_json:
        write_json(found)
    else:
        _write(found)
    down = [role for role, runs in found["roles"].items() if not runs]
    if down:
        raise OsteonError(f"not running: {', '.join(down)}: start `osteon serve`")


def status_of_node(settings: Settings, table: Table) -> dict[str, Any]:
    """Look at roles, disk and table."""
    waits: Counter[tuple[str, str]] = Counter()
    for job in views.jobs(table, limit=LOOKED_AT_MAX):
        if job["status"] in UNFINISHED:
            waits[job["status"], job["reason"]] += 1
    return {
        "roles": {
            "receive": listens(settings.scp.host, settings.scp.port),
            "work": work_is_running(settings.data_dir),
            "http": _answers(settings.http.host, settings.http.port),
        },
        "engine": engine_of(table).model_dump(),
        "disk": {
            "free_gb": round(free_bytes(settings.data_dir) / GIGABYTE, 3),
            "reserve_gb": settings.pipeline.disk_reserve_gb,
        },
        "backlog": {
            "waiting": views.count_waiting(table),
            "waiting_max": settings.pipeline.waiting_max,
        },
        "counts": views.counts(table),
        "waits": [
            {"status": status, "reason": reason, "jobs": count}
            for (status, reason), count in waits.most_common()
        ],
    }


def _write(found: dict[str, Any]) -> None:
    counts = found["counts"]
    roles = (f"{role} {'runs' if runs else 'DOWN'}" for role, runs in found["roles"].items())
    disk, backlog = found["disk"], found["backlog"]
    lines = {
        "roles": "  ".join(roles),
        "workers": _workers_words(found["engine"]),
        "idle": found["engine"]["idle"],
        "disk": f"{disk['free_gb']:.1f} GB free, {disk['reserve_gb']:g} GB kept in reserve",
        "backlog": f"{backlog['waiting']} of at most {backlog['waiting_max']} jobs wait",
        "held": f"{counts['instances']} instances, {counts['series']} series",
        "jobs": _joined(counts["jobs"]),
        "deliveries": _joined(counts["deliveries"]) or "none",
    }
    for name, line in lines.items():
        if line:
            click.echo(printable(f"{name:<12}{line}"))
    for wait in found["waits"][:REASONS_NAMED_MAX]:
        click.echo(printable(f"{wait['jobs']:>6} {wait['status']}: {wait['reason']}"))
    others = sum(wait["jobs"] for wait in found["waits"][REASONS_NAMED_MAX:])
    if others:
        click.echo(f"{others:>6} for other reasons: see `osteon jobs list`")


def _workers_words(engine: dict[str, Any]) -> str:
    if engine["reason"]:
        return f"none since {local_time(engine['since'])}: {engine['reason']}"
    if engine["since"] is None:
        return "not known before their first start"
    slots = engine["slots"]
    return "1 stage can run at once" if slots == 1 else f"{slots} stages can run at once"


def _joined(counts: dict[str, int]) -> str:
    return "  ".join(f"{name} {count}" for name, count in counts.items())


def _answers(host: str, port: int) -> bool:
    connection = http.client.HTTPConnection(address_here(host), port, timeout=PROBE_S)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
