"""Present routes asked about held series: by the command line, on a node's own record."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from osteon.cli.main import cli
from osteon.config.load import load_settings
from osteon.errors import NotRunnableError
from osteon.pipeline.choices import choices_of
from osteon.pipeline.reroute import retry
from osteon.pipeline.table import holdings, jobs, views
from tests.pipeline_parts import SERIES, STUDY, HandClock, Node, ThreadEngine

HEAD = """\
data_dir = "{folder}/data"
[pipeline]
disk_reserve_gb = 0
ahead = false
[[source]]
ae_title = "CT1"
[[destination]]
name = "pacs"
ae_title = "PACS"
host = "127.0.0.1"
port = 104
deliver = false
"""
STRICT = '[[route]]\nname = "bone"\nmatch = { instances = { min = 9 } }\n'
BONE = '[[route]]\nname = "bone"\n'


class Site:
    """A node and its configuration file, which a person changes before the node starts anew."""

    def __init__(self, folder: Path) -> None:
        self.config = folder / "osteon.toml"
        self.folder = folder
        self.write(STRICT)
        settings = load_settings(self.config)
        self.node = Node(settings.data_dir, settings, ThreadEngine(), HandClock(time.time() - 600))

    def write(self, routes: str) -> None:
        self.config.write_text(HEAD.replace("{folder}", str(self.folder)) + routes)

    def configure(self, routes: str) -> None:
        """Change the routes and start the node anew with them."""
        self.write(routes)
        self.node.settings = load_settings(self.config)
        self.node.restart()

    def osteon(self, *line: str) -> tuple[int, str]:
        result = CliRunner().invoke(cli, [*line, "--config", str(self.config)])
        return result.exit_code, result.stdout + result.stderr

    def became(self, *line: str) -> list[tuple[str | None, str]]:
        code, out = self.osteon("jobs", *line, "--json")
        assert code == 0, out
        return [(one["id"], one["became"]) for one in json.loads(out)]

    def receive(self, *series: str, state: str = "rejected") -> None:
        for uid in series:
            self.node.receive(range(1, 4), series=uid)
        self.node.tick_until(lambda: len(self.node.jobs()) >= len(series))
        if state:
            self.node.tick_until_state(state, len(series))

    def predict(self, name: str = SERIES) -> dict[str, Any]:
        return views.predict(self.node.table, name)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.node.close()


@pytest.mark.parametrize("command", ["retry", "reroute"])
@pytest.mark.parametrize("name", ["1", SERIES])
def test_a_series_that_no_route_took_runs_by_the_changed_routes(
    site: Site, command: str, name: str
) -> None:
    site.receive(SERIES)
    site.configure(BONE)
    assert site.became(command, name) == [("1", "rerouted")]
    job = site.node.tick_until_state("done")
    assert (job["route"], job["model"]) == ("bone", "builtin:bone")
    assert site.node.events()[:2] == ["reject", "reroute"]
    _, told = site.osteon("trace", SERIES)
    assert "to route bone, model builtin:bone; before: no route takes it: bone: instances" in told
    assert (site.predict()["id"], site.predict()["status"]) == ("1", "done")


@pytest.mark.parametrize("command", ["retry", "reroute"])
def test_the_condition_that_still_fails_is_told_and_nothing_changes(
    site: Site, command: str
) -> None:
    site.receive(SERIES)
    before = site.node.jobs()
    code, out = site.osteon("jobs", command, "1")
    assert code == 4
    assert "no route takes it: bone: instances is 3, below 9" in out
    assert site.node.jobs() == before
    with pytest.raises(NotRunnableError) as refused:
        retry(site.node.settings, site.node.table, jobs.get(site.node.table, 1), "ada")
    assert (refused.value.http_status, refused.value.retryable) == (409, False)


def test_what_several_routes_give_is_one_job_each(site: Site) -> None:
    site.receive(SERIES)
    site.configure(BONE + '[[route]]\nname = "second"\nmodel = "other"\n')
    assert site.became("reroute", SERIES) == [("1", "rerouted"), ("2", "new")]
    site.node.tick_until_state("done", 2)
    assert [j["route"] for j in site.node.jobs()] == ["bone", "second"]
    assert site.became("reroute", SERIES) == [("1", "kept"), ("2", "kept")]


def test_a_route_that_is_chosen_leaves_what_the_others_give(site: Site) -> None:
    site.receive(SERIES)
    site.configure(BONE + '[[route]]\nname = "second"\nmodel = "other"\n')
    assert site.became("reroute", SERIES, "--route", "second") == [("1", "rerouted")]
    site.node.tick_until_state("done")
    assert [j["route"] for j in site.node.jobs()] == ["second"]
    assert site.became("reroute", SERIES, "--route", "bone") == [("2", "new")]
    site.node.tick_until_state("done", 2)
    assert [(j["route"], j["state"]) for j in site.node.jobs()] == [
        ("second", "done"),
        ("bone", "done"),
    ]
    assert site.osteon("jobs", "reroute", SERIES, "--route", "third")[0] == 5
    assert site.osteon("jobs", "reroute", "--gained", "--route", "bone")[0] == 2


def test_a_chosen_route_whose_name_another_job_has_takes_it(site: Site) -> None:
    site.configure(BONE + '[[route]]\nname = "second"\nmodel = "other"\n')
    site.receive(SERIES, state="")
    site.node.tick_until_state("done", 2)
    site.configure('[[route]]\nname = "second"\n' + BONE + 'model = "other"\n')
    assert site.became("reroute", SERIES, "--route", "second") == [("1", "kept"), ("2", "kept")]
    assert [(j["route"], j["model"]) for j in site.node.jobs()] == [
        ("second", "builtin:bone"),
        ("bone", "other"),
    ]


def test_what_may_be_done_with_each_job(site: Site) -> None:
    def choices(job_id: int = 1) -> tuple[str, list[tuple[str, bool, str]]]:
        found = choices_of(site.node.settings, site.node.table, jobs.get(site.node.table, job_id))
        return found.why_not_again, [(one.route, one.takes, one.why) for one in found.routes]

    site.receive(SERIES)
    assert choices() == ("no route took it", [("bone", False, "instances is 3, below 9")])
    site.configure(BONE)
    assert choices() == ("no route took it", [("bone", True, "no condition")])
    assert site.became("reroute", "1") == [("1", "rerouted")]
    assert choices()[0].startswith("job 1 is waiting at admission: it is not over")
    site.node.tick_until_state("done")
    assert choices()[0] == ""
    site.configure('[[route]]\nname = "new"\nmodel = "other"\n')
    why, routes = choices()
    assert why.startswith("job 1 is of the model builtin:bone by route 'bone', which is not")
    assert routes == [("new", True, "no condition")]
    site.became("reroute", "1")
    site.node.tick_until_state("done", 2)
    assert choices() == ("job 1 was replaced by job 2: run that one again", [])


def test_gained_takes_what_diff_counted_and_nothing_else(site: Site) -> None:
    site.receive("1.2.1", "1.2.2")
    new = site.config.with_name("new.toml")
    new.write_text(site.config.read_text().replace("min = 9", "min = 2"))
    _, out = site.osteon("routes", "diff", str(new))
    assert "2 newly taken" in out
    assert "`osteon jobs reroute --gained` takes the newly taken ones" in out
    site.configure(STRICT.replace("9", "2"))
    assert site.became("reroute", "--gained", "--days", "0.0001") == []
    assert site.became("reroute", "--gained") == [("1", "rerouted"), ("2", "rerouted")]
    site.node.tick_until_state("done", 2)
    assert site.became("reroute", "--gained") == []
    assert site.osteon("jobs", "reroute")[0] == 2
    assert site.osteon("jobs", "reroute", "1", "--gained")[0] == 2


def test_a_study_of_which_one_series_is_taken(site: Site) -> None:
    site.receive("1.2.1", "1.2.2")
    site.configure('[[route]]\nname = "bone"\nseries = "largest"\n')
    assert site.became("reroute", STUDY) == [("1", "rerouted"), (None, "left")]
    site.node.tick_until_state("done")
    assert site.node.job(2)["state"] == "rejected"


def test_a_route_that_is_gone_is_not_retried_but_replaced(site: Site) -> None:
    """The old result stands until the new one is there, and is then marked as superseded."""
    site.configure('[[route]]\nname = "old"\ndestinations = ["pacs"]\n')
    site.receive(SERIES, state="")
    table = site.node.table
    site.node.tick_until(lambda: views.predict(table, "1")["results"])
    site.configure('[[route]]\nname = "new"\nmodel = "other"\n')
    table = site.node.table
    code, out = site.osteon("jobs", "cancel", "1")
    code, out = site.osteon("jobs", "retry", "1")
    assert code == 4
    assert "route 'old', which is not configured any more" in out
    assert site.became("reroute", "1") == [("2", "new"), ("1", "replaced")]
    assert site.predict("1")["reason"].endswith("; replaced by job 2")
    assert site.predict("1")["results"][0]["superseded"] is None
    site.node.tick_until_state("done", 2)
    assert all(result["superseded"] for result in site.predict("1")["results"])
    assert not any(result["superseded"] for result in site.predict()["results"])
    assert site.predict()["id"] == "2"
    assert [d["state"] for d in site.predict("1")["results"][0]["deliveries"]] == ["cancelled"]
    code, out = site.osteon("jobs", "retry", "1")
    assert code == 4
    assert "job 1 was replaced by job 2" in out
    assert site.became("reroute", "1") == [("2", "kept")]


def test_an_unfinished_job_of_another_model_ends_at_once(site: Site) -> None:
    site.configure(BONE)
    site.receive(SERIES, state="")
    site.configure(BONE + 'model = "other"\n')
    assert site.became("reroute", SERIES) == [("2", "new"), ("1", "replaced")]
    assert site.node.job(1)["state"] == "superseded"
    assert site.node.job(1)["route"] == "bone before job 2"
    assert (site.node.job(2)["route"], site.node.job(2)["model"]) == ("bone", "other")
    site.configure(BONE + 'model = "third"\n')
    assert site.became("reroute", SERIES) == [("3", "new"), ("2", "replaced")]
    assert site.node.job(1)["replaced_by"] == 3
    site.node.tick_until_state("done", 3)


def test_one_model_has_one_result_whatever_its_route_is_called(site: Site) -> None:
    site.configure(BONE + '[[route]]\nname = "second"\nmodel = "other"\n')
    site.receive(SERIES, state="")
    site.node.tick_until_state("done", 2)
    # The two change their names, so that each is in the way of the other.
    site.configure(
        '[[route]]\nname = "second"\n' + BONE + 'model = "other"\ndestinations = ["pacs"]\n'
    )
    assert site.became("reroute", SERIES) == [("1", "kept"), ("2", "rerouted")]
    assert [(j["route"], j["model"]) for j in site.node.jobs()] == [
        ("second", "builtin:bone"),
        ("bone", "other"),
    ]
    assert "reroute" in site.node.events(1)
    site.node.tick_until(lambda: site.predict("2")["status"] == "delivering")
    assert len(site.node.table.rows("SELECT 1 FROM result WHERE kind = 'seg'")) == 2


def test_a_destination_that_is_gone_is_not_waited_for(site: Site) -> None:
    site.configure(BONE + 'destinations = ["pacs"]\n')
    site.receive(SERIES, state="")
    site.node.tick_until(lambda: site.predict("1")["results"])
    assert site.osteon("jobs", "cancel", "1")[0] == 0
    site.configure(BONE)
    assert site.became("reroute", SERIES) == [("1", "rerouted")]
    site.node.tick_until_state("done")
    assert site.predict()["results"][0]["deliveries"] == []


def test_what_earlier_runs_delivered_is_told_apart(site: Site) -> None:
    """A route that has no destination any more has delivered nothing, whatever was before."""
    site.configure(BONE + 'destinations = ["pacs"]\n')
    site.receive(SERIES, state="")
    deliver(site)
    assert site.node.job()["reason"] == "delivered to pacs"
    site.configure(BONE)
    assert site.became("reroute", SERIES) == [("1", "rerouted")]
    # Its result stands until there is a new one; this run has sent nothing of it.
    assert seg_of(site)["deliveries"] == []
    assert [before["destination"] for before in seg_of(site)["delivered_before"]] == ["pacs"]
    site.node.tick_until_state("done")
    assert site.node.job()["reason"] == ("kept here: its route has no destination; before: to pacs")
    assert seg_of(site)["deliveries"] == []
    assert [before["destination"] for before in seg_of(site)["delivered_before"]] == ["pacs"]
    for command in (["jobs", "list"], ["watch", "--once"], ["trace", SERIES]):
        assert (
            "kept here: its route has no destination; before: to pacs" in site.osteon(*command)[1]
        )
    assert "before: to pacs, delivered at" in site.osteon("jobs", "show", "1")[1]
    assert "  before: pacs has an earlier run's, since" in site.osteon("trace", "1")[1]
    assert list(holdings.delivered(site.node.table)) == []


def test_a_run_that_is_repeated_has_delivered_nothing_until_it_has(site: Site) -> None:
    site.configure(BONE + 'destinations = ["pacs"]\n')
    site.receive(SERIES, state="")
    deliver(site)
    assert site.became("retry", "1") == [("1", "again")]
    assert seg_of(site)["deliveries"] == []
    deliver(site)
    assert [d["state"] for d in seg_of(site)["deliveries"]] == ["delivered"]
    assert seg_of(site)["delivered_before"] == []
    assert site.node.job()["reason"] == "delivered to pacs"
    assert len(list(holdings.delivered(site.node.table))) == 1


def seg_of(site: Site) -> dict[str, Any]:
    return next(r for r in site.predict()["results"] if r["kind"] == "seg")


def deliver(site: Site) -> None:
    """Take a result to its destination as the delivery loop does, without a peer."""
    table = site.node.table

    def tried() -> Any:
        return table.row("SELECT 1 FROM delivery WHERE state = 'waiting' AND reason <> ''")

    site.node.tick_until(tried)
    with table.write():
        table.change("UPDATE delivery SET state = 'delivered', updated = ?", (table.clock(),))
    site.node.tick_until_state("done")


def test_a_series_that_is_still_receiving_is_decided_at_its_end(site: Site) -> None:
    site.node.receive(range(1, 4), settle_s=0.0)
    code, out = site.osteon("jobs", "reroute", SERIES)
    assert code == 4
    assert "still receiving" in out
    assert site.osteon("jobs", "reroute", "7.7")[0] == 5
