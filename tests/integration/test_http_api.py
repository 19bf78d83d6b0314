"""The HTTP API as a program meets it: the real server on a port, the real table, the real disk."""

import fcntl
import io
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from prometheus_client.parser import text_string_to_metric_families
from pydicom import dcmread

from osteon.cli.main import cli
from osteon.errors import ConfigError
from osteon.http import body as body_room
from osteon.http import role
from osteon.pipeline.instances.part10 import decode_header
from osteon.pipeline.table import jobs, series, workers
from osteon.pipeline.table.connection import Table
from osteon.pipeline.table.jobs import NewResult
from osteon.pipeline.table.series import NewJob
from osteon.pipeline.worklock import WORK
from tests.http_parts import Served, dicom_file, http_settings, serving, zip_of
from tests.pipeline_parts import SERIES
from tests.tools import require_tool, wait_until

PROBLEM = "application/problem+json"
FILES, PREDICT = "/api/v1/files", "/api/v1/predict"
ONE = f"{FILES}/inputs/{SERIES}/{SERIES}.1.dcm"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server for the tests that only read, with one instance in it."""
    with serving(http_settings(tmp_path_factory.mktemp("http"))) as served:
        assert served.client.post(FILES, content=dicom_file()).status_code == 202
        yield served


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serving(http_settings(tmp_path)) as served:
        yield served


def problem_of(response: httpx.Response, status: int) -> dict[str, object]:
    assert (response.status_code, response.headers["content-type"]) == (status, PROBLEM)
    found: dict[str, object] = response.json()
    assert found.keys() >= {"type", "title", "status", "detail", "instance", "retryable"}
    if found["type"] == "about:blank":
        assert found["retryable"] == (status in {408, 429, 502, 503, 504, 507})
    assert (found["status"], found["instance"]) == (status, response.request.url.path)
    return found


# What a result of an older version says of a segment, and what a new one does.
OLD_SACRUM = {"label": "Sacrum", "volume_ml": 251.5}
SACRUM: dict[str, Any] = OLD_SACRUM | {
    "number": 1,
    "box": {
        "first_zyx": [3, 210, 190],
        "last_zyx": [31, 270, 320],
        "min_xyz_mm": [-45.5, 20.25, -300.0],
        "max_xyz_mm": [52.75, 66.0, -213.0],
    },
    "rgb": [230, 159, 0],
    "category": {"value": "123037004", "scheme": "SCT", "meaning": "Anatomical Structure"},
    "type": {"value": "54735007", "scheme": "SCT", "meaning": "Sacrum"},
    "laterality": None,
}


def finished_job(table: Table, uid: str = SERIES, found: Mapping[str, Any] = OLD_SACRUM) -> int:
    """Take the received series through the route by the table's own events."""
    row = table.row("SELECT * FROM series WHERE series_instance_uid = ?", (uid,))
    assert row is not None
    (job_id,) = series.complete(
        table, row, "quiet", [NewJob("bone", "builtin:bone", 2, '["pacs"]', "a")]
    )
    jobs.admit(table, jobs.get(table, job_id), "room")
    for _ in range(2):
        attempt = jobs.claim(table, jobs.get(table, job_id), "local", 60)
        jobs.finish(table, jobs.get(table, job_id), attempt, "out", "ok")
    attempt = jobs.claim(table, jobs.get(table, job_id), "local", 60)
    folder = table.data_dir / "results" / str(job_id)
    folder.mkdir(parents=True)
    (folder / "preview.png").write_bytes(b"\x89PNG")
    preview = NewResult("preview", f"results/{job_id}/preview.png", 4, "b" * 64, "image/png")
    (folder / "seg.dcm").write_bytes(b"seg")
    seg = NewResult("seg", f"results/{job_id}/seg.dcm", 3, "c" * 64, "application/dicom", "1.2.8")
    jobs.finish_encode(
        table, jobs.get(table, job_id), attempt, [seg, preview], [found], "encoded 1 segment"
    )
    return job_id


# Uploads


def test_an_upload_is_durable_listed_and_comes_back_unchanged(served: Served) -> None:
    sent = dicom_file()
    answer = served.client.post(FILES, content=sent, headers={"Content-Type": "application/dicom"})

    assert answer.status_code == 202
    (file,) = answer.json()["files"]
    assert answer.json()["ids"] == [SERIES]
    (listed,) = served.client.get(FILES, params={"prefix": f"inputs/{SERIES}/"}).json()["files"]
    assert (listed["path"], listed["media_type"]) == (file["path"], "application/dicom")
    back = served.client.get(f"{FILES}/{file['path']}").content
    assert back[decode_header(back)[1] :] == sent[decode_header(sent)[1] :]
    assert len(back) == listed["size"]
    view = served.client.get(f"{PREDICT}/{SERIES}").json()
    assert (view["status"], view["instances"]) == ("receiving", 1)
    row = served.table.row("SELECT calling_ae_title, called_ae_title FROM series")
    assert tuple(row or ()) == ("HTTP", "OSTEON")


def test_a_real_series_as_a_zip(served: Served, shared_data: Path) -> None:
    folder = shared_data / "ts_pelvis_3mm" / "dicom"
    slices = {path.name: path.read_bytes() for path in folder.iterdir()}
    body = zip_of(slices, zipfile.ZIP_STORED)

    answer = served.client.post(FILES, content=body, headers={"Content-Type": "application/zip"})

    assert answer.status_code == 202, answer.text
    accepted = answer.json()
    assert (len(accepted["files"]), accepted["skipped"]) == (112, [])
    assert served.client.get(f"{PREDICT}/{accepted['ids'][0]}").json()["instances"] == 112
    sent = {dcmread(io.BytesIO(raw)).SOPInstanceUID: raw for raw in slices.values()}
    for file in accepted["files"][::16]:
        back = served.client.get(f"{FILES}/{file['path']}").content
        raw = sent[file["sop_instance_uid"]]
        assert back[decode_header(back)[1] :] == raw[decode_header(raw)[1] :]


def test_a_form_of_files_and_zips(served: Served) -> None:
    answer = served.client.post(
        FILES,
        files=[
            ("files", ("1.dcm", dicom_file(1))),
            ("files", ("more.zip", zip_of({"2": dicom_file(2), "notes.txt": b"-"}))),
        ],
    )
    assert answer.status_code == 202
    assert [f["sop_instance_uid"] for f in answer.json()["files"]] == [f"{SERIES}.1", f"{SERIES}.2"]
    assert [f["name"] for f in answer.json()["skipped"]] == ["notes.txt"]


def test_a_file_that_was_cut_off_is_refused(served: Served) -> None:
    pixels = b"\xe0\x7f\x10\0OW\0\0" + (4000).to_bytes(4, "little") + bytes(3000)
    found = problem_of(served.client.post(FILES, content=dicom_file() + pixels), 422)
    assert "the data set is cut off" in str(found["detail"])
    whole = dicom_file() + pixels + bytes(1000)
    assert served.client.post(FILES, content=whole).status_code == 202


def test_nothing_to_store_says_why(served: Served) -> None:
    found = problem_of(served.client.post(FILES, content=zip_of({"readme": b"hello"})), 422)
    assert found["type"] == "/api/docs#unparseable"
    assert found["detail"] == "nothing to store: readme: not a DICOM file (PS3.10 7.1)"
    assert found["skipped"] == [{"name": "readme", "reason": "not a DICOM file (PS3.10 7.1)"}]


def test_a_damaged_form_names_what_was_stored(served: Served) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="f"\r\n\r\n'
    answer = served.client.post(
        FILES,
        content=head + dicom_file() + b"\r\n" + head + b"cut",
        headers={"Content-Type": "multipart/form-data; boundary=x"},
    )
    found = problem_of(answer, 400)
    assert found["ids"] == [SERIES]


def test_other_multiparts_are_refused(served: Served) -> None:
    kind = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=x'}
    problem_of(served.client.post(FILES, content=b"--x--", headers=kind), 415)


def test_an_upload_that_is_too_long(tmp_path: Path) -> None:
    with serving(http_settings(tmp_path, upload_bytes_max=2**20)) as served:
        announced = served.client.post(FILES, content=bytes(3 * 2**20))
        in_chunks = served.client.post(FILES, content=iter([bytes(2**19)] * 5))
    for answer in (announced, in_chunks):
        assert "http.upload_bytes_max" in str(problem_of(answer, 413)["detail"])


def test_a_full_disk_says_when_to_come_back(tmp_path: Path) -> None:
    settings = http_settings(tmp_path)
    limits = settings.pipeline.model_copy(update={"disk_reserve_gb": 10.0**9})
    with serving(settings.model_copy(update={"pipeline": limits})) as served:
        answer = served.client.post(FILES, content=dicom_file())
        found = problem_of(answer, 507)
        status = served.client.get("/api/v1/status").json()
    assert (found["files"], found["retryable"]) == ([], True)
    assert int(answer.headers["retry-after"]) > 0
    assert (status["accepting"], status["refusal"]) == (False, found["detail"])


def test_a_client_that_falls_silent(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_room, "SILENCE_MAX_S", 0.2)
    with socket.create_connection(("127.0.0.1", served.settings.http.port), 10) as sock:
        sock.sendall(f"POST {FILES} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc".encode())
        assert sock.recv(100).startswith(b"HTTP/1.1 408 ")


def test_a_client_that_goes_away_leaves_nothing(served: Served) -> None:
    with socket.create_connection(("127.0.0.1", served.settings.http.port), 10) as sock:
        head = f"POST {FILES} HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n\r\n"
        sock.sendall(head.encode() + bytes(3_000_000))
    assert served.client.post(FILES, content=dicom_file()).status_code == 202
    incoming = served.settings.data_dir / "incoming"

    def written() -> list[Path]:
        with suppress(FileNotFoundError):  # One that has got its last name meanwhile.
            return [p for p in incoming.rglob("*") if p.is_file() and p.stat().st_size]
        return [incoming]

    wait_until(lambda: not written(), 10)


# Files


def test_ranges_and_versions(shared: Served) -> None:
    whole = shared.client.get(ONE)
    size, etag = len(whole.content), whole.headers["etag"]
    assert whole.headers["accept-ranges"] == "bytes"
    assert whole.headers["content-disposition"] == f'attachment; filename="{SERIES}.1.dcm"'

    part = shared.client.get(ONE, headers={"Range": "bytes=128-131"})
    assert (part.status_code, part.content) == (206, b"DICM")
    assert part.headers["content-range"] == f"bytes 128-131/{size}"
    tail = shared.client.get(ONE, headers={"Range": "bytes=-7", "If-Range": etag})
    assert (tail.status_code, tail.content) == (206, whole.content[-7:])
    changed = shared.client.get(ONE, headers={"Range": "bytes=-7", "If-Range": '"old"'})
    assert (changed.status_code, changed.content) == (200, whole.content)

    behind = shared.client.get(ONE, headers={"Range": f"bytes={size}-"})
    problem_of(behind, 416)
    assert behind.headers["content-range"] == f"bytes */{size}"
    for tag in (etag, f'"other", W/{etag}', "*"):
        held = shared.client.get(ONE, headers={"If-None-Match": tag})
        assert (held.status_code, held.content, held.headers["etag"]) == (304, b"", etag)
    head = shared.client.head(ONE)
    assert (head.status_code, head.content) == (200, b"")
    assert int(head.headers["content-length"]) == size


@pytest.mark.parametrize(
    "path",
    [
        "../../../../etc/passwd",
        "..%2f..%2f..%2fetc%2fpasswd",
        "%2e%2e/%2e%2e/etc/passwd",
        "/etc/passwd",
        "inputs/../osteon.sqlite",
        f"inputs/{SERIES}/../{SERIES}/{SERIES}.1.dcm",
        "osteon.sqlite",
        "inputs/1.2/3.dcm",
        "inputs/%00/x",
        "",
    ],
)
def test_only_paths_of_the_table_are_served(shared: Served, path: str) -> None:
    with socket.create_connection(("127.0.0.1", shared.settings.http.port), 10) as sock:
        # A client library would tidy the path up.
        sock.sendall(f"GET {FILES}/{path} HTTP/1.0\r\n\r\n".encode())
        assert sock.recv(100).startswith((b"HTTP/1.1 404 ", b"HTTP/1.1 307 "))


def test_a_file_that_is_gone_from_the_disk(served: Served) -> None:
    served.client.post(FILES, content=dicom_file())
    for file in (served.settings.data_dir / "spool").rglob("*.dcm"):
        file.unlink()
    assert "file is gone" in str(problem_of(served.client.get(ONE), 404)["detail"])


def test_pages_of_files(served: Served) -> None:
    numbers = range(1, 8)
    served.client.post(FILES, content=zip_of({str(n): dicom_file(n) for n in numbers}))
    paths, after = [], ""
    while after is not None:
        page = served.client.get(FILES, params={"limit": 3, "after": after}).json()
        paths += [file["path"] for file in page["files"]]
        after = page["next"]
    assert paths == [f"inputs/{SERIES}/{SERIES}.{n}.dcm" for n in numbers]


# Predict


def test_a_job_from_end_to_end(served: Served) -> None:
    served.client.post(FILES, content=dicom_file())
    job_id = finished_job(served.table, found=SACRUM)

    view = served.client.get(f"{PREDICT}/{SERIES}").json()
    assert view == served.client.get(f"{PREDICT}/{job_id}").json()
    assert (view["id"], view["status"], view["stage"]) == (str(job_id), "delivering", "deliver")
    assert view["segments"] == [SACRUM]
    (seg,) = [result for result in view["results"] if result["kind"] == "seg"]
    assert [delivery["destination"] for delivery in seg["deliveries"]] == ["pacs"]
    assert served.client.get(f"{FILES}/{seg['path']}").content == b"seg"
    preview = served.client.get(f"{FILES}/results/{job_id}/preview.png")
    assert preview.headers["content-type"] == "image/png"
    assert preview.headers["content-disposition"].startswith("inline")

    busy = problem_of(served.client.post(f"{PREDICT}/{job_id}"), 409)
    assert busy["type"] == "/api/docs#stale-transition"
    jobs.complete(served.table, jobs.get(served.table, job_id), "delivered to pacs")
    again = served.client.post(f"{PREDICT}/{SERIES}")
    assert (again.status_code, again.json()["status"]) == (202, "waiting")
    assert again.json()["reason"] == (
        "waits for the throttler; before: run again by http 127.0.0.1"
    )


def test_a_result_of_an_older_version_tells_what_it_knows(served: Served) -> None:
    served.client.post(FILES, content=dicom_file())
    finished_job(served.table)
    assert served.client.get(f"{PREDICT}/{SERIES}").json()["segments"] == [
        dict.fromkeys(SACRUM) | OLD_SACRUM
    ]


def test_segments_are_described_to_programs(shared: Served) -> None:
    schemas = shared.client.get("/api/openapi.json").json()["components"]["schemas"]
    assert set(schemas["SegmentView"]["required"]) == set(SACRUM)
    assert set(schemas["BoxView"]["required"]) == set(SACRUM["box"])
    assert set(schemas["CodeView"]["required"]) == set(SACRUM["type"])


def test_the_views_of_the_table_are_told_whole(served: Served) -> None:
    """A key that the table's view gains must be in the answer and in OpenAPI as well."""
    from osteon.pipeline.table import views  # noqa: PLC0415 - the one test that looks behind

    served.client.post(FILES, content=dicom_file())
    receiving = views.predict(served.table, SERIES)
    assert served.client.get(f"{PREDICT}/{SERIES}").json() == json.loads(json.dumps(receiving))
    job_id = finished_job(served.table)
    expected = json.loads(json.dumps(views.predict(served.table, str(job_id))))
    assert served.client.get(f"{PREDICT}/{job_id}").json() == expected
    counts = views.counts(served.table)
    assert served.client.get("/api/v1/status").json().items() >= counts.items()


def test_a_series_that_is_still_receiving_does_not_run_again(served: Served) -> None:
    served.client.post(FILES, content=dicom_file())
    found = problem_of(served.client.post(f"{PREDICT}/{SERIES}"), 409)
    assert "still receiving" in str(found["detail"])


def test_a_series_that_no_route_takes_says_that_a_retry_is_of_no_use(served: Served) -> None:
    served.client.post(FILES, content=dicom_file())
    add_routeless(served.table)
    for query in ("", "?reroute=true"):
        found = problem_of(served.client.post(f"{PREDICT}/{SERIES}{query}"), 409)
        assert found["retryable"] is False
        assert found["type"] == "/api/docs#not-runnable"
        assert str(found["detail"]).endswith("bone: instances is 1, below 2")


def test_a_series_that_no_route_took_runs_by_the_present_ones(served: Served) -> None:
    served.client.post(FILES, content=zip_of({str(n): dicom_file(n) for n in (1, 2)}))
    add_routeless(served.table)
    again = served.client.post(f"{PREDICT}/{SERIES}")
    assert (again.status_code, again.json()["status"]) == (202, "waiting")
    assert (again.json()["id"], again.json()["route"]) == ("1", "bone")
    # Asked once more, the routes find the job that they gave.
    same = served.client.post(f"{PREDICT}/1?reroute=true").json()
    assert (same["id"], same["status"]) == ("1", "waiting")


def test_what_may_be_done_with_a_series_that_no_route_took(served: Served) -> None:
    receiving = served.client.post(FILES, content=dicom_file())
    assert receiving.status_code == 202
    assert "receiving" in str(problem_of(served.client.get(f"{PREDICT}/{SERIES}/routes"), 409))
    add_routeless(served.table)
    none = served.client.get(f"{PREDICT}/1/routes").json()
    assert none == {
        "again": False,
        "why_not": "no route took it",
        "routes": [
            {
                "route": "bone",
                "model": "builtin:bone",
                "takes": False,
                "why": "instances is 1, below 2",
            }
        ],
    }
    refused = problem_of(served.client.post(f"{PREDICT}/1?route=bone"), 409)
    assert str(refused["detail"]).startswith("route bone does not take series")
    problem_of(served.client.post(f"{PREDICT}/1?route=other"), 404)
    assert served.client.get(f"{PREDICT}/1").json()["status"] == "rejected"


def test_a_series_that_no_route_took_runs_by_the_one_that_is_chosen(served: Served) -> None:
    served.client.post(FILES, content=zip_of({str(n): dicom_file(n) for n in (1, 2)}))
    add_routeless(served.table)
    (choice,) = served.client.get(f"{PREDICT}/1/routes").json()["routes"]
    assert (choice["route"], choice["takes"]) == ("bone", True)
    chosen = served.client.post(f"{PREDICT}/1", params={"route": choice["route"]})
    assert (chosen.status_code, chosen.json()["status"]) == (202, "waiting")
    assert (chosen.json()["id"], chosen.json()["route"]) == ("1", "bone")
    waiting = served.client.get(f"{PREDICT}/1/routes").json()
    assert (waiting["again"], waiting["routes"]) == (False, [])
    assert "it is not over" in waiting["why_not"]


def test_a_failed_job_runs_again_as_it_was(served: Served) -> None:
    served.client.post(FILES, content=zip_of({str(n): dicom_file(n) for n in (1, 2)}))
    (row,) = served.table.rows("SELECT * FROM series")
    new = NewJob("bone", "builtin:bone", 2, "[]", "ab" * 32)
    (job_id,) = series.complete(served.table, row, "complete", [new])
    jobs.fail(served.table, jobs.get(served.table, job_id), "broken")
    found = served.client.get(f"{PREDICT}/{job_id}/routes").json()
    assert (found["again"], found["why_not"]) == (True, "")
    assert served.client.post(f"{PREDICT}/{job_id}").json()["status"] == "waiting"


def add_routeless(table: Table) -> None:
    """Close the one series that is receiving as a configuration did that had no route for it."""
    (row,) = table.rows("SELECT * FROM series")
    new = NewJob("none", "", 2, "[]", "ab" * 32, rejected="no route takes it")
    series.complete(table, row, "complete", [new])


def test_pages_of_jobs(served: Served) -> None:
    uids = [f"1.2.3.{n}" for n in range(1, 6)]
    served.client.post(FILES, content=zip_of({uid: dicom_file(1, series=uid) for uid in uids}))
    for uid in uids[:3]:
        finished_job(served.table, uid)

    ids, before = [], None
    while True:
        query = {"limit": 2} | ({} if before is None else {"before": before})
        page = served.client.get(PREDICT, params=query).json()
        ids += [job["id"] for job in page["jobs"]]
        before = page["next"]
        if before is None:
            break
    assert ids == [uids[4], uids[3], "3", "2", "1"]
    delivering = served.client.get(PREDICT, params={"status": "delivering"}).json()["jobs"]
    assert [job["id"] for job in delivering] == ["3", "2", "1"]


# Problems


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", f"{PREDICT}/999", 404),
        ("POST", f"{PREDICT}/1.2.999", 404),
        ("GET", "/nowhere", 404),
        ("DELETE", "/healthz", 405),
        ("GET", f"{PREDICT}?status=sleeping", 422),
        ("GET", f"{FILES}?limit=0", 422),
    ],
)
def test_every_failure_is_a_problem(shared: Served, method: str, path: str, status: int) -> None:
    answer = shared.client.request(method, path)
    problem_of(answer, status)
    assert status != 405 or answer.headers["allow"] == "GET"


def test_an_unexpected_error_is_a_problem_and_is_logged(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    served.client.post(FILES, content=dicom_file())
    job_id = finished_job(served.table)
    served.table.change("UPDATE job SET segments = 'no JSON'")
    found = problem_of(served.client.get(f"{PREDICT}/{job_id}"), 500)
    assert "JSON" not in str(found["detail"]), "what it was stays in the log"
    # The traceback follows the answer.
    wait_until(lambda: any("Exception in ASGI" in r.message for r in caplog.records), 5)


def test_a_broken_table_is_a_problem_that_may_pass(served: Served) -> None:
    served.table.change("ALTER TABLE series RENAME TO elsewhere")
    answer = served.client.get("/metrics")
    assert problem_of(answer, 503)["type"] == "/api/docs#table"
    assert "retry-after" in answer.headers


# Health


def test_ready_only_when_both_other_roles_answer(served: Served) -> None:
    def missing() -> list[str]:
        answer = served.client.get("/readyz")
        return list(answer.json().get("missing", ())) if answer.status_code == 503 else []

    found = problem_of(served.client.get("/readyz"), 503)
    assert found["missing"] == ["receive", "work"]
    folder = served.settings.data_dir / WORK
    folder.mkdir()
    descriptor = os.open(folder, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    wait_until(lambda: missing() == ["receive"], 5)
    with socket.create_server(("127.0.0.1", served.settings.scp.port)):
        wait_until(lambda: served.client.get("/readyz").status_code == 200, 5)
        os.close(descriptor)
        wait_until(lambda: missing() == ["work"], 5)
    assert served.client.get("/healthz").json() == {"status": "alive"}


def test_a_cluster_that_cannot_be_reached_is_told(served: Served, tmp_path: Path) -> None:
    assert served.client.get("/api/v1/status").json()["engine"]["slots"] == 0
    reason = "the scheduler tls://gpu:8786 does not answer"
    workers.note_engine(served.table, 0, reason)

    def told() -> object:
        return served.client.get("/api/v1/status").json()["engine"]["reason"]

    wait_until(lambda: told() == reason, 5)
    assert "osteon_slots 0.0" in served.client.get("/metrics").text
    config = tmp_path / "osteon.toml"
    config.write_text(
        f'data_dir = "{served.settings.data_dir}"\n[http]\nport = {served.settings.http.port}\n'
    )
    line = ["status", "--config", str(config)]
    assert f": {reason}\n" in CliRunner().invoke(cli, line).stdout
    workers.note_engine(served.table, 1, "")
    workers.note_idle_gpus(served.table, "GPU 1 stays idle: set pipeline.slots")
    assert "workers     1 stage can run at once" in CliRunner().invoke(cli, line).stdout
    json_line = CliRunner().invoke(cli, [*line, "--json"]).stdout
    assert json.loads(json_line)["engine"]["slots"] == 1
    assert json.loads(json_line)["engine"]["idle"] == "GPU 1 stays idle: set pipeline.slots"


def test_metrics(served: Served) -> None:
    served.client.post(FILES, content=zip_of({"1": dicom_file(1), "2": dicom_file(2)}))
    text = served.client.get("/metrics").text
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["osteon_instances",] == 2
    assert samples["osteon_jobs", "receiving"] == 1
    assert samples["osteon_jobs", "failed"] == 0
    states = ("waiting", "sending", "delivered", "refused", "given_up", "cancelled")
    assert [samples["osteon_deliveries", state] for state in states] == [0] * len(states)
    assert samples["osteon_role_up", "work"] == 0
    assert samples["osteon_accepting",] == 1
    assert samples["osteon_disk_free_bytes",] > 0


def test_the_page_documents_every_metric_and_call(shared: Served) -> None:
    page = (Path(__file__).parents[2] / "docs" / "http.md").read_text()
    text = shared.client.get("/metrics").text
    families = {f.name for f in text_string_to_metric_families(text)}
    families = {"osteon_info" if name == "osteon" else name for name in families}
    assert set(re.findall(r"`(osteon_\w+)", page)) == families
    paths = shared.client.get("/api/openapi.json").json()["paths"]
    named = {re.sub(r"<\w+>", "{}", p) for p in re.findall(r"\| `(?:GET|POST) (/[^`?]*)", page)}
    assert {re.sub(r"\{\w+\}", "{}", path) for path in paths} <= named


# Access


def test_the_token_opens_everything_and_nothing_else_does(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("s3cret\nsecond line\n")
    with serving(http_settings(tmp_path / "data", token_file=file)) as served:
        for path in ("/healthz", "/", "/api/docs"):
            assert served.client.get(path).status_code == 200
        wrong = [None, "Bearer", "Bearer wrong", "Bearer s3cre", "Basic s3cret", "bearer s3cret2"]
        for header in wrong:
            headers = {} if header is None else {"Authorization": header}
            for path in (FILES, ONE, PREDICT, "/readyz", "/metrics", "/api/openapi.json", "/x"):
                answer = served.client.get(path, headers=headers)
                problem_of(answer, 401)
                assert answer.headers["www-authenticate"] == 'Bearer realm="osteon"'
        problem_of(served.client.post(FILES, content=dicom_file()), 401)
        right = {"Authorization": "Bearer s3cret"}
        answer = served.client.post(FILES, content=dicom_file(), headers=right)
        assert answer.status_code == 202
        schema = served.client.get("/api/openapi.json", headers=right).json()
        assert schema["security"] == [{"token": []}]


def test_a_page_of_another_site_cannot_upload(shared: Served) -> None:
    headers = {"Sec-Fetch-Site": "cross-site"}
    problem_of(shared.client.post(FILES, content=dicom_file(), headers=headers), 403)
    own = {"Sec-Fetch-Site": "same-origin"}
    assert shared.client.post(FILES, content=dicom_file(), headers=own).status_code == 202


@pytest.mark.parametrize(
    ("path", "known"),
    [
        ("/api/v1/predict?stat=failed", "before, limit, state, status"),
        ("/api/v1/predict?limit=1&statsu=done", "before, limit, state, status"),
        (f"{FILES}?prefx=inputs", "after, limit, prefix"),
        ("/api/v1/predict/1?verbose=1", "none"),
    ],
)
def test_a_parameter_that_a_call_has_not_is_refused(shared: Served, path: str, known: str) -> None:
    said = problem_of(shared.client.get(path), 422)
    assert said["detail"].endswith(f"is no parameter of this call; it has {known}")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://evil"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://NODE"}, 202),
        ({}, 202),
        # A proxy in front speaks TLS and calls by another host: the browser's word holds.
        ({"Origin": "https://node.hospital", "Sec-Fetch-Site": "same-origin"}, 202),
        ({"Origin": "http://NODE", "Sec-Fetch-Site": "cross-site"}, 403),
    ],
)
def test_without_tls_the_origin_tells_a_page_of_another_site(
    shared: Served, headers: dict[str, str], status: int
) -> None:
    host = f"127.0.0.1:{shared.settings.http.port}"
    told = {name: value.replace("NODE", host) for name, value in headers.items()}
    answer = shared.client.post(FILES, content=dicom_file(), headers=told)
    assert answer.status_code == status


def test_a_port_in_use_is_a_configuration_error(shared: Served, tmp_path: Path) -> None:
    settings = http_settings(tmp_path, port=shared.settings.http.port)
    with pytest.raises(ConfigError, match=r"choose another http\.host or http\.port"):
        role.run_http(settings, threading.Event())


def test_no_answer_waits_for_a_delayed_ack(shared: Served) -> None:
    took = []
    for _ in range(20):
        began = time.monotonic()
        shared.client.get("/healthz")
        took.append(time.monotonic() - began)
    assert sorted(took)[5] < 0.030, took  # a delayed ACK is 40 ms


def test_silent_connections_are_closed(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(role, "REQUEST_WAIT_S", 0.5)
    address = ("127.0.0.1", served.settings.http.port)
    with socket.create_connection(address, 10) as nothing, socket.create_connection(address) as cut:
        cut.settimeout(10)
        cut.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = b""
        while not answer.endswith(b'"alive"}'):
            answer += cut.recv(4096)
        cut.sendall(b"GET /heal")
        for sock in (nothing, cut):
            try:
                assert sock.recv(10) == b""
            except ConnectionResetError:
                continue


def test_it_stops_in_the_middle_of_an_upload(tmp_path: Path) -> None:
    settings = http_settings(tmp_path)
    with socket.socket() as sock:
        with serving(settings):
            sock.connect(("127.0.0.1", settings.http.port))
            head = f"POST {FILES} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"
            sock.sendall(head.encode())
            began = time.monotonic()
        assert time.monotonic() - began < role.GRACE_S + 4


def test_the_role_never_loads_torch() -> None:
    code = "import sys, osteon.http.role; print('torch' in sys.modules, 'highdicom' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False False"


# Pages


def test_the_status_page_shows_a_job_in_a_real_browser(served: Served, tmp_path: Path) -> None:
    chromium = require_tool("/usr/bin/chromium")
    served.client.post(
        FILES, content=zip_of({"1": dicom_file(1), "2": dicom_file(1, series="1.9")})
    )
    finished_job(served.table)
    served.table.change(
        "INSERT INTO comparison (job_id, route, model, first_model, state, dice, updated)"
        " VALUES (NULL, 'bone shadow new', 'new', 'builtin:bone', 'compared', 0.9, 0)"
    )
    url = f"http://127.0.0.1:{served.settings.http.port}/"
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=4000"]
    flags += [f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--v=0"]
    found = subprocess.run(
        [chromium, *flags, "--dump-dom", url],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    page = found.stdout
    assert "Job 1" in page
    assert "waits for pacs: others are sent first" in page
    assert re.search(r'data-wait="">for \d+ s<', page), "how long it waits is told"
    assert re.search(r">for \d+ s, \d+ s more at most<", page)
    assert "new beside builtin:bone: Dice <b>0.900</b> in 1 series, lowest 0.900" in page
    assert "waits for 5 s without a new instance" in page
    assert "No worker runs" in page
    assert re.search(r'data-status="delivering"[^>]*><strong>1<', page)
    assert f'href="{FILES}/results/1/seg.dcm"' in page
    assert "blob:" in page, "the preview is shown"
    assert "Content Security Policy" not in found.stderr, found.stderr
