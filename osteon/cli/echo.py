"""``osteon echo``: whether a peer answers."""

import click

from osteon.cli.options import config_option, example, json_option, settings_in_force
from osteon.cli.output import write_json
from osteon.cli.peers import peer_named
from osteon.results.scu import echo


@click.command(name="echo", epilog=example("osteon echo pacs", "osteon echo 10.0.0.9:104:PACS"))
@config_option
@json_option
@click.argument("name")
def command(name: str, as_json: bool) -> None:
    """Say whether a destination answers a C-ECHO, and how fast.

    NAME is a destination of the configuration, or HOST:PORT:AE_TITLE.
    """
    peer = peer_named(settings_in_force(), name)
    latency_s = echo(peer)
    if as_json:
        write_json({"destination": str(peer), "latency_ms": round(latency_s * 1000, 3)})
    else:
        click.echo(f"{peer} answered in {latency_s * 1000:.1f} ms")
