"""Query plans: what is asked at every tick goes through an index, however long the table is."""

import re

import pytest

from osteon.pipeline.job import Status
from osteon.pipeline.table import (
    associations,
    deliveries,
    jobs,
    lines,
    listening,
    purging,
    reception,
    series,
    shadow,
    shares,
    stored,
    views,
)
from tests.pipeline_parts import ct_slice
from tests.unit.pipeline.table.rows import add_series, delivering, results_of, running_encode

from osteon.pipeline.instances.index import read_header  # isort: skip
from osteon.pipeline.table.reception import Origin, Received  # isort: skip


def plans_of(table, call) -> list[str]:
    """Run something and return the plan of every statement that it ran, in one line each."""
    statements: list[str] = []
    table._conn.set_trace_callback(statements.append)
    call()
    table._conn.set_trace_callback(None)
    asked = [s for s in statements if re.match(r"SELECT|UPDATE|WITH", s)]
    assert asked
    return [
        " | ".join(row["detail"] for row in table.rows(f"EXPLAIN QUERY PLAN {sql}"))
        for sql in asked
    ]


@pytest.fixture
def filled(table):
    job = delivering(table)
    add_series(table, "1.2.3.9")
    return job


SERIES_ROW = {
    "series_instance_uid": "1.2.3.1",
    "generation": 2,
    "id": 1,
    "last": 0,
    "instances": 0,
    "waits_for": "",
}
PLANS = {
    "series.due": (lambda t, j: series.due(t), "series_due"),
    "series.next_due": (lambda t, j: series.next_due(t), "series_due"),
    "series.input_of": (lambda t, j: series.input_of(t, SERIES_ROW), "instance_series"),
    "series.of_study": (lambda t, j: series.of_study(t, "1.2.3"), "series_study"),
    "heads": (lambda t, j: lines.heads(t), "job_line"),
    "head": (lambda t, j: lines.head(t, "CT1", "builtin:bone"), "job_line"),
    "ahead_of": (lambda t, j: lines.ahead_of(t, j, 9), "job_line"),
    "most_urgent": (lambda t, j: lines.most_urgent(t), "job_waiting"),
    "inside": (lambda t, j: lines.inside(t), "job_inside"),
    "shares.began": (lambda t, j: shares.began(t, 2), "share_began"),
    "shares.served": (lambda t, j: shares.served(t, 2), "PRIMARY KEY"),
    "ready": (lambda t, j: lines.ready(t, 2), "job_waiting"),
    "running": (lambda t, j: lines.running(t), "job_running"),
    "leases": (lambda t, j: lines.leases(t), "job_running"),
    "lapsed": (lambda t, j: lines.lapsed(t), "job_running"),
    "resumable": (lambda t, j: lines.resumable(t), "job_backoff"),
    "next_resume": (lambda t, j: lines.next_resume(t), "job_backoff"),
    "earlier_unfinished": (lambda t, j: lines.earlier_unfinished(t, SERIES_ROW, "bone"), "job"),
    "all_delivered": (lambda t, j: lines.all_delivered(t), "job_waiting"),
    "deliveries.due": (lambda t, j: deliveries.due(t), "delivery_waiting"),
    "deliveries.next_due": (lambda t, j: deliveries.next_due(t), "delivery_waiting"),
    "deliveries.rest": (lambda t, j: deliveries.rest(t, "pacs", 9e9, ""), "delivery_waiting"),
    "deliveries.of_job": (lambda t, j: deliveries.of_job(t, 1), "delivery"),
    "deliveries.recover": (lambda t, j: deliveries.recover(t), "delivery_sending"),
    "count_waiting": (lambda t, j: views.count_waiting(t), ""),
    "shadow.next_due": (lambda t, j: shadow.next_due(t), "comparison_due"),
    "shadow.count_failed": (lambda t, j: shadow.count_failed(t), "job_shadow_failed"),
    "shadow.count_open": (lambda t, j: shadow.count_open(t), "job_shadow_open"),
    "shadow.count_waiting": (lambda t, j: shadow.count_waiting(t), "job_shadow_open"),
    "shadow.of_job": (lambda t, j: shadow.of_job(t, 1), "job_shadow"),
    "shadow.summaries": (lambda t, j: shadow.summaries(t), "comparison_dice"),
    "shadow.worst": (lambda t, j: shadow.worst(t, "a", "b", 5), "comparison_dice"),
    "left_open": (lambda t, j: listening.left_open(t, "CT1", "OSTEON"), "association_open"),
    "outputs": (lambda t, j: lines.outputs(t, 1), "PRIMARY KEY"),
}


VIEWS = {
    "jobs": views.jobs,
    "predict": lambda t: views.predict(t, "1"),
    "predict, a series": lambda t: views.predict(t, "1.2.3.9"),
    "trace": lambda t: views.trace(t, "A1"),
    "files of a series": lambda t: stored.files(t, "inputs/1.2.3.1/"),
    "files of some series": lambda t: stored.files(t, "inputs/1.2"),
    "files of a job": lambda t: stored.files(t, "results/1/"),
    "purge": lambda t: list(purging.over(t, 9e9)),
    **{f"jobs, {s}": lambda t, s=s: views.jobs(t, status=s) for s in Status},
}


@pytest.mark.parametrize("name", VIEWS)
def test_what_people_ask_for_goes_through_an_index(table, filled, name):
    for plan in plans_of(table, lambda: VIEWS[name](table)):
        scanned = re.findall(r"SCAN (\w+)(?! USING)(?: \||$)", plan)
        assert not {"job", "series", "instance", "result", "delivery", "transition"} & set(scanned)


def test_files_of_one_series_are_bounded_at_both_ends(table, filled):
    for name in ("files of a series", "files of a job"):
        plans = plans_of(table, lambda name=name: VIEWS[name](table))
        assert any(re.search(r"SEARCH \w+ USING INDEX.*>.*<", plan) for plan in plans), plans


@pytest.mark.parametrize("name", PLANS)
def test_hot_queries_use_their_index(table, filled, name):
    call, index = PLANS[name]
    for plan in plans_of(table, lambda: call(table, filled)):
        assert index in plan
        assert not re.search(
            r"SCAN (series|job|instance|delivery|result|transition)\b(?! USING)", plan
        )


def test_how_a_series_was_sent_is_found_without_a_scan(table, filled):
    for plan in plans_of(table, lambda: listening.decisive_association(table, SERIES_ROW)):
        assert "instance_series" in plan
        assert not re.search(r"SCAN (association|instance)\b", plan)


def test_the_latest_associations_come_in_index_order(table, filled):
    for asked in ({}, {"calling": "CT1"}, {"since": 5.0}):
        for plan in plans_of(table, lambda: associations.latest(table, **asked)):  # noqa: B023
            assert not re.search(r"association\b.*TEMP B-TREE", plan)
            assert not re.search(r"SCAN (association|rejection)\b(?! USING)", plan)


def test_storing_an_instance_scans_nothing(table, filled):
    header = read_header(ct_slice(9), "1.2.840.10008.1.2.1")
    received = Received(header, "1.2.840.10008.1.2.1", "ab" * 32, "spool/x/y.dcm", 1)
    origin = Origin("CT1", "OSTEON", "::1")

    def store():
        reception.find_instance(table, header, "ab" * 32)
        reception.add_instance(table, origin, received, quiet_s=5.0)

    for plan in plans_of(table, store):
        assert "SCAN" not in plan


def test_finishing_a_job_scans_nothing(table):
    job = running_encode(table)

    def finish():
        jobs.finish_encode(table, job, job["attempt"], results_of(job), [], "done")

    for plan in plans_of(table, finish):
        assert not re.search(
            r"SCAN (series|job|instance|delivery|result|transition)\b(?! USING)", plan
        )


def test_ready_jobs_come_in_index_order(table, filled):
    for plan in plans_of(table, lambda: lines.heads(table)):
        assert "TEMP B-TREE" not in plan
    for plan in plans_of(table, lambda: lines.ready(table, 8)):
        assert "TEMP B-TREE" not in plan
    for plan in plans_of(table, lambda: deliveries.due(table)):
        assert "TEMP B-TREE" not in plan
