"""``osteon cluster``: GPUs on several machines, from the certificates to the workers.

Names of hosts and the section ``[cluster]`` enter; PEM files and configurations leave, or the
process is the scheduler or a worker until SIGTERM or Ctrl-C.
"""

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from osteon.cli.logging import configure_logging
from osteon.cli.options import config_option, example, json_option, settings_in_force
from osteon.cli.output import write_json
from osteon.cli.toml import to_toml
from osteon.config.extras import load_extra
from osteon.config.load import load_settings
from osteon.config.settings import ClusterSettings, Settings
from osteon.errors import ConfigError

EXTRA = "cluster"
PORT = 8786


@click.group(name="cluster", epilog=example("osteon cluster ca /etc/osteon/cluster --name node1"))
def command() -> None:
    """Run the stages on GPUs of several machines."""


@command.command(
    epilog=example(
        "osteon cluster ca /etc/osteon/cluster --name node1,10.0.0.1 --name gpu1 --name gpu2"
    )
)
@config_option
@json_option
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--name",
    "names",
    multiple=True,
    metavar="HOST[,HOST]",
    help="A host, and further names and addresses of it.  [default: this host]",
)
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=PORT,
    show_default=True,
    metavar="N",
    help="Scheduler's; where hosts have one already, theirs.",
)
@click.option("--renew", is_flag=True, help="Replace certificates that are there.")
def ca(folder: Path, names: tuple[str, ...], port: int, renew: bool, as_json: bool) -> None:
    """Issue a certificate to each host, and write its configuration."""
    certificates = load_extra("osteon.pipeline.clusters.certificates", EXTRA, "osteon cluster")
    folder = folder.absolute()
    hosts = [
        [one for one in name.split(",") if one] for name in (*names,) or (socket.gethostname(),)
    ]
    authority = certificates.Authority(folder)
    first = f"[{hosts[0][0]}]" if ":" in hosts[0][0] else hosts[0][0]
    scheduler = _scheduler_of(folder) or f"tls://{first}:{port}"
    chosen = click.get_current_context().get_parameter_source("port")
    if chosen is ParameterSource.COMMANDLINE and not scheduler.endswith(f":{port}"):
        raise ConfigError(
            f"--port {port}: the hosts of {folder} have the scheduler {scheduler}: leave it out, or"
            " take another folder"
        )
    issues = []
    for host in hosts:
        issued = authority.issue(host, renew=renew)
        section = {
            "scheduler": scheduler,
            "certificate": str(issued.certificate),
            "key": str(issued.key),
            "ca": str(authority.certificate),
        }
        config = folder / f"{issued.name}.toml"
        config.write_text(to_toml({"cluster": section}), encoding="utf-8")
        expires = f"{issued.expires:%Y-%m-%d}"
        issues.append({"names": host, "config": str(config), "expires": expires, **section})
    if as_json:
        write_json({"ca": str(authority.certificate), "new": authority.is_new, "hosts": issues})
        return
    click.echo(f"{folder}/ca.pem  {'new' if authority.is_new else 'as it was'}")
    for one in issues:
        click.echo(f"{one['certificate']}  for {', '.join(one['names'])} until {one['expires']}")
    click.echo(
        f"Copy ca.pem and a host's own three files to {folder} there; ca.key stays here.\n"
        f"The node takes the section of its .toml into its own configuration."
    )


@command.command(epilog=example("osteon cluster scheduler --config /etc/osteon/cluster/node1.toml"))
@config_option
@click.option("--host", default="0.0.0.0", show_default=True, help="Address to listen on.")  # noqa: S104 - only TLS is spoken there
def scheduler(host: str) -> None:
    """Run the scheduler, which node and workers meet at."""
    settings, cluster = _settings()
    servers = load_extra("osteon.pipeline.clusters.clusterservers", EXTRA, "osteon cluster")
    configure_logging(settings.log, "scheduler")
    _run(lambda stop: servers.run_scheduler(cluster, host, stop))


@command.command(epilog=example("osteon cluster worker --config /etc/osteon/cluster/gpu1.toml"))
@config_option
@click.option("--name", help="What it is called in logs.  [default: HOST-GPU]")
@click.option("--host", help="Address of this host that the others reach.")
@click.option(
    "--port",
    type=click.IntRange(0, 65534),
    default=0,
    metavar="N",
    help="Its port, and the next one; any where absent.",
)
def worker(name: str | None, host: str | None, port: int) -> None:
    """Run one worker, on the GPU that CUDA_VISIBLE_DEVICES names."""
    settings, _ = _settings()
    servers = load_extra("osteon.pipeline.clusters.clusterservers", EXTRA, "osteon cluster")
    configure_logging(settings.log, "worker")
    name = name or f"{socket.gethostname()}-{os.environ.get('CUDA_VISIBLE_DEVICES', os.getpid())}"
    _run(lambda stop: servers.run_worker(settings, stop, name=name, host=host, port=port))


def _settings() -> tuple[Settings, ClusterSettings]:
    settings = settings_in_force()
    if settings.cluster is None:
        raise ConfigError(
            "the configuration has no section [cluster]: `osteon cluster ca` writes one,"
            " and --config names it"
        )
    return settings, settings.cluster


def _scheduler_of(folder: Path) -> str | None:
    """Return the scheduler that the hosts of a folder have, where it has some already."""
    for config in sorted(folder.glob("*.toml")):
        cluster = load_settings(config).cluster
        if cluster is not None:
            return cluster.scheduler
    return None


def _run(process: Callable[[asyncio.Event], Coroutine[Any, Any, None]]) -> None:
    """Run a process of the cluster until SIGTERM or SIGINT; a second one ends it at once."""
    asyncio.run(_until_stopped(process))


async def _until_stopped(process: Callable[[asyncio.Event], Coroutine[Any, Any, None]]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def note(number: signal.Signals) -> None:
        """Ask for the end; a second signal ends the process at once."""
        stop.set()
        loop.remove_signal_handler(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, note, number)
    await process(stop)
