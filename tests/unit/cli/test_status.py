"""``osteon status``: what waits for what, in as few lines as tell it."""

from osteon.cli.status import REASONS_NAMED_MAX, _write

FOUND = {
    "roles": {"receive": True, "work": False, "http": True},
    "engine": {"slots": 0, "reason": "", "since": None, "idle": ""},
    "disk": {"free_gb": 12.34, "reserve_gb": 2.0},
    "backlog": {"waiting": 5, "waiting_max": 10},
    "counts": {"instances": 1, "series": 1, "jobs": {"waiting": 5}, "deliveries": {}},
}


def told(capsys, waits: list[dict[str, object]], **found: object) -> list[str]:
    _write(FOUND | found | {"waits": waits})
    return capsys.readouterr().out.splitlines()


def waits(count: int) -> list[dict[str, object]]:
    return [
        {"status": "waiting", "reason": f"waits for {n}", "jobs": count - n} for n in range(count)
    ]


def test_every_reason_is_told_with_how_many_wait_for_it(capsys) -> None:
    lines = told(capsys, waits(2))
    assert lines[0] == "roles       receive runs  work DOWN  http runs"
    assert lines[1] == "workers     not known before their first start"
    assert lines[-2:] == ["     2 waiting: waits for 0", "     1 waiting: waits for 1"]


def test_of_many_reasons_the_most_frequent_are_told(capsys) -> None:
    lines = told(capsys, waits(REASONS_NAMED_MAX + 3))
    assert lines[-1] == "     6 for other reasons: see `osteon jobs list`"
    assert len([line for line in lines if "waits for" in line]) == REASONS_NAMED_MAX


def test_a_reason_cannot_steer_the_terminal(capsys) -> None:
    (line,) = told(capsys, [{"status": "waiting", "reason": "a\x1b[2Jb", "jobs": 1}])[-1:]
    assert "\x1b" not in line


def test_why_there_is_no_worker(capsys) -> None:
    engine = {"slots": 0, "reason": "no scheduler", "since": "2026-01-02T03:04:05.000+00:00"}
    engine["idle"] = ""
    lines = told(capsys, [], engine=engine)
    assert lines[1].startswith("workers     none since 2026-01-0")
    assert lines[1].endswith(": no scheduler")


def test_gpus_that_stay_idle_are_named(capsys) -> None:
    engine = {"slots": 1, "reason": "", "since": "2026-01-02T03:04:05.000+00:00"}
    lines = told(capsys, [], engine=engine | {"idle": "GPU 1 stays idle: set pipeline.slots"})
    assert lines[2] == "idle        GPU 1 stays idle: set pipeline.slots"
    assert not [line for line in told(capsys, [], engine=engine | {"idle": ""}) if "idle" in line]
