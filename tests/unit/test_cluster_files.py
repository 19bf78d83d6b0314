"""What docs/cluster.md hands out: units and a manifest that hold, commands and keys that exist."""

import configparser
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import kubernetes_validate
import pytest
import yaml
from click.testing import CliRunner

from osteon.cli.main import cli
from osteon.config.load import load_settings
from osteon.config.settings import ClusterSettings, PipelineSettings
from osteon.pipeline.clusters.clustertls import security_of

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "cluster.md").read_text()
UNITS = ("osteon-scheduler.service", "osteon-worker@.service")
MANIFEST = list(yaml.safe_load_all((ROOT / "docs" / "cluster" / "kubernetes.yaml").read_text()))
DEPLOYMENTS = [one for one in MANIFEST if one["kind"] == "Deployment"]


def _commands() -> Iterator[list[str]]:
    """Yield every command line of osteon that page, units and manifest hold."""
    for line in re.findall(r"^    (osteon .*)$", PAGE, re.M):
        yield shlex.split(line, comments=True)
    for unit in UNITS:
        for line in re.findall(
            r"^ExecStart=\S*/(osteon .*)$", (ROOT / "systemd" / unit).read_text(), re.M
        ):
            yield shlex.split(line.replace("%i", "0"))
    for deployment in DEPLOYMENTS:
        yield deployment["spec"]["template"]["spec"]["containers"][0]["command"]


@pytest.mark.parametrize("words", list(_commands()), ids=" ".join)
def test_commands_exist_with_their_options(words: list[str]) -> None:
    command: click.Command = cli
    words = words[1:]
    while isinstance(command, click.Group):
        found = command.get_command(click.Context(command), words.pop(0))
        assert found is not None
        command = found
    command.make_context("osteon", list(words), resilient_parsing=False)


def test_the_authority_answers_in_json(tmp_path: Path) -> None:
    line = ["cluster", "ca", str(tmp_path), "--name", "node1,10.0.0.1", "--name", "gpu1", "--json"]
    told = [
        json.loads(CliRunner().invoke(cli, [*line, *more]).stdout) for more in ([], ["--renew"])
    ]
    assert [one["new"] for one in told] == [True, False]
    assert told[0]["ca"] == f"{tmp_path}/ca.pem"
    assert [host["names"] for host in told[0]["hosts"]] == [["node1", "10.0.0.1"], ["gpu1"]]
    for host in told[0]["hosts"]:
        assert host["scheduler"] == "tls://node1:8786"
        assert all(Path(host[key]).is_file() for key in ("config", "certificate", "key", "ca"))
        assert re.fullmatch(r"\d{4}-\d{2}-\d{2}", host["expires"])


def test_a_port_that_the_hosts_do_not_have_is_refused(tmp_path: Path) -> None:
    line = ["cluster", "ca", str(tmp_path), "--name"]
    assert CliRunner().invoke(cli, [*line, "node1", "--port", "9000"]).exit_code == 0
    refused = CliRunner().invoke(cli, [*line, "gpu1", "--port", "9001"])
    assert refused.exit_code == 2
    assert "have the scheduler tls://node1:9000" in refused.stderr
    assert not (tmp_path / "gpu1.toml").exists()
    assert CliRunner().invoke(cli, [*line, "gpu1"]).exit_code == 0
    assert "tls://node1:9000" in (tmp_path / "gpu1.toml").read_text()


@pytest.mark.parametrize("version", ["1.30", "1.34"])
@pytest.mark.parametrize("document", MANIFEST, ids=lambda d: f"{d['kind']}-{d['metadata']['name']}")
def test_the_manifest_is_what_kubernetes_takes(document: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(document, version, strict=True)


def test_a_manifest_that_kubernetes_does_not_take_is_seen() -> None:
    wrong = {**DEPLOYMENTS[0], "spec": {**DEPLOYMENTS[0]["spec"], "replica": 1}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.34", strict=True)


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda d: d["metadata"]["name"])
def test_a_deployment_finds_itself_and_is_configured(
    deployment: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = deployment["spec"]["template"]
    assert deployment["spec"]["selector"]["matchLabels"] == template["metadata"]["labels"]
    (container,) = template["spec"]["containers"]
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert set(mounted) == {volume["name"] for volume in template["spec"]["volumes"]}

    # The page's own commands fill the secret; the environment must name what it holds.
    line = next(line for line in re.findall(r"^    (osteon cluster ca pki .*)$", PAGE, re.M))
    words = shlex.split(line.replace(" pki ", f" {tmp_path} "))[1:]
    assert CliRunner().invoke(cli, words).exit_code == 0
    in_secret = set(re.findall(r"--from-file=pki/(\S+)", PAGE))
    monkeypatch.chdir(tmp_path)
    for variable in container["env"]:
        if "value" in variable:
            path = Path(variable["value"])
            inside = path.parent == Path(mounted["cluster"])
            assert not inside or path.name in in_secret
            value = str(tmp_path / path.name) if inside else variable["value"]
            monkeypatch.setenv(variable["name"], value)
    (tmp_path / "none.toml").write_text("")
    cluster = load_settings(tmp_path / "none.toml").cluster
    assert cluster is not None
    security_of(cluster)
    service = next(one for one in MANIFEST if one["kind"] == "Service")
    port = service["spec"]["ports"][0]["port"]
    assert cluster.scheduler == f"tls://{service['metadata']['name']}:{port}"


@pytest.mark.parametrize("unit", UNITS)
def test_units_run_as_a_user_without_rights_and_start_again(unit: str) -> None:
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign] # its documented use
    parser.read(ROOT / "systemd" / unit)
    service = parser["Service"]
    assert service["User"] == "osteon"
    assert service["Restart"] == "always"
    assert service["RestartPreventExitStatus"] == "2"
    assert service["NoNewPrivileges"] == "yes"
    assert parser["Install"]["WantedBy"] == "multi-user.target"
    assert unit in PAGE


def test_keys_that_the_page_names_exist() -> None:
    for section, model in (("cluster", ClusterSettings), ("pipeline", PipelineSettings)):
        named = set(re.findall(rf"`{section}\.(\w+)`", PAGE))
        assert named
        assert named <= set(model.model_fields)
