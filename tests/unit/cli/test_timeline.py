"""The timeline of a story, whole and in the middle of the way."""

from typing import Any

from osteon.cli.timeline import rows_of, timeline
from osteon.cli.trace import lines_of

AT = "2025-03-01T10:00:{:06.3f}+00:00"


def event(second: float, name: str, stage: str | None, job_id: int | None = 1) -> dict[str, Any]:
    return {
        "at": AT.format(second),
        "job_id": job_id,
        "event": name,
        "stage": stage,
        "state": "waiting",
        "who": "observer",
        "why": f"{name} because",
    }


STORY: dict[str, Any] = {
    "series_instance_uid": "1.2.3",
    "study_instance_uid": "1.2",
    "accession_number": "A1",
    "generation": 1,
    "modality": "CT",
    "instances": 60,
    "state": "complete",
    "waits_for": "",
    "first": AT.format(0),
    "last": AT.format(2),
    "associations": [
        {
            "calling_ae_title": "CT1\x1b[2J",
            "called_ae_title": "OSTEON",
            "address": "10.0.0.5",
            "opened": AT.format(0),
            "closed": AT.format(3),
            "outcome": "released",
            "instances": 60,
            "again": 0,
            "refused": 0,
            "refusal": "",
            "rejected": 0,
        }
    ],
    "uploaded": 0,
    "source": "CT1",
    "events": [
        event(0, "open", None, None),
        event(7.25, "complete", None, None),
        event(7.25, "create", "admission"),
        event(8, "finish", "boneseg"),
        event(9, "finish", "encode"),
        event(10.5, "finish", "deliver"),
        event(12, "complete", "deliver"),
    ],
    "jobs": [
        {
            "id": "1",
            "status": "done",
            "state": "done",
            "reason": "delivered to pacs",
            "since": None,
            "until": None,
            "results": [
                {
                    "deliveries": [
                        {
                            "destination": "pacs",
                            "state": "delivered",
                            "updated": AT.format(11),
                            "next_attempt": None,
                            "reason": "",
                        }
                    ],
                    "delivered_before": [],
                }
            ],
        }
    ],
}


def test_a_delivered_series_has_passed_every_station() -> None:
    rows = rows_of(timeline(STORY))
    assert [(name, since, step) for name, _, since, step in rows] == [
        ("first slice", "0.00", "+0.00"),
        ("last slice", "2.00", "+2.00"),
        ("complete", "7.25", "+5.25"),
        ("predicted", "8.00", "+0.75"),
        ("combined", "9.00", "+1.00"),
        ("encoded", "10.50", "+1.50"),
        ("delivered", "11.00", "+0.50"),
    ]


def test_a_series_on_its_way_has_passed_what_it_has_passed() -> None:
    story = STORY | {"events": STORY["events"][:4], "jobs": []}
    names = [milestone.name for milestone in timeline(story)]
    assert names == ["first slice", "last slice", "complete", "predicted"]


def test_a_story_is_told_in_order_and_says_what_is_now() -> None:
    lines = list(lines_of(STORY))
    at = [line.split()[1] for line in lines if line.startswith("  20")]
    assert at == sorted(at)
    assert any("last instance durable" in line for line in lines)
    assert "  now: job 1 is done: delivered to pacs" in lines
    assert lines[-1] == "  now: pacs delivered"


def test_a_story_tells_what_came_when_and_by_which_way() -> None:
    (came,) = STORY["associations"]
    again = {"instances": 0, "again": 60, "refused": 2, "refusal": "0xA700: full"}
    story = STORY | {
        "associations": [came, came | again, came | {"closed": None, "outcome": None}],
        "uploaded": 3,
    }
    lines = list(lines_of(story))
    assert "  3 instances without an association: uploaded, or put back on record" in lines[2]
    told = [line.partition(" association of ")[2] for line in lines[3:6]]
    assert told[0].startswith("CT1\x1b[2J at 10.0.0.5 to OSTEON until 2025-03-01 ")
    assert told[0].endswith("03.000: 60 instances; released")
    assert told[1].endswith(
        ": 0 instances, 60 held already, 2 refused, the last with 0xA700: full; released"
    )
    assert told[2].endswith(": 60 instances, still open")
    assert "  3 instances by HTTP upload" in lines_of(story | {"source": "HTTP"})


def test_one_association_for_each_slice_is_one_line() -> None:
    (came,) = STORY["associations"]
    each = [
        came | {"opened": AT.format(n), "closed": AT.format(n + 0.5), "instances": 1}
        for n in range(30)
    ]
    each[20] |= {"refused": 1, "refusal": "0xA700: full"}
    lines = [line for line in lines_of(STORY | {"associations": each}) if " of CT1" in line]
    assert len(lines) == 3
    assert "  20 associations of CT1" in lines[0]
    assert lines[0].endswith("19.500: 20 instances; released")
    assert "  association of CT1" in lines[1]
    assert "  9 associations of CT1" in lines[2]


def test_a_receiving_series_says_what_it_waits_for() -> None:
    waits = {"waits_for": "slices 3-7 missing", "since": AT.format(2), "until": AT.format(50)}
    story = STORY | {"state": "receiving", "jobs": []} | waits
    said = list(lines_of(story))[-1]
    assert said.startswith("  now: waits for slices 3-7 missing, for ")
    assert said.endswith(", due now")
