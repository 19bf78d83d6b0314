"""What an upload stores, what it skips and why, block by block into a real intake."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.exceptions import HTTPException

from osteon.errors import OsteonError, OutOfResourcesError, UnparseableError
from osteon.http import form
from osteon.http.upload import Accepted, Limits, Upload
from osteon.pipeline.intake import Intake
from osteon.pipeline.table.connection import Table, open_table
from osteon.pipeline.table.reception import Origin
from tests.http_parts import MEDIA_DIRECTORY, dicom_file, http_settings, zip_of

ORIGIN = Origin("HTTP", "OSTEON", "127.0.0.1")
LIMITS = Limits(upload_bytes_max=2**20, instance_bytes_max=2**20)


@pytest.fixture
def table(tmp_path: Path) -> Iterator[Table]:
    table = open_table(tmp_path)
    yield table
    table.close()


@pytest.fixture
def intake(table: Table) -> Intake:
    return Intake(http_settings(table.data_dir), table)


def sent(
    intake: Intake, table: Table, body: bytes, boundary: bytes | None = None, step: int = 1 << 20
) -> Accepted:
    upload = Upload(intake, ORIGIN, LIMITS, table.data_dir, boundary)
    try:
        for at in range(0, len(body), step):
            upload.feed(body[at : at + step])
        return upload.finish()
    finally:
        upload.close()


def form_of(*parts: tuple[str, bytes]) -> bytes:
    body = b""
    for name, content in parts:
        head = f'--xyz\r\nContent-Disposition: form-data; name="f"; filename="{name}"\r\n\r\n'
        body += head.encode() + content + b"\r\n"
    return body + b"--xyz--\r\n"


def test_a_file(intake: Intake, table: Table) -> None:
    accepted = sent(intake, table, dicom_file(7))
    (file,) = accepted.files
    assert file.path == "inputs/1.2.3.1/1.2.3.1.7.dcm"
    assert (accepted.ids, accepted.skipped, file.duplicate) == (["1.2.3.1"], [], False)
    assert sent(intake, table, dicom_file(7)).files[0].duplicate


def test_a_zip_names_what_it_skipped(intake: Intake, table: Table) -> None:
    accepted = sent(
        intake,
        table,
        zip_of(
            {
                "study/": b"",
                "study/1": dicom_file(1),
                "study/2": dicom_file(2),
                "other/1": dicom_file(1, series="1.2.9"),
                "DICOMDIR": dicom_file(1, sop_class=MEDIA_DIRECTORY),
                "README.TXT": b"Read me",
                "__MACOSX/._1": b"\0\5\x16\7",
                "inner.zip": zip_of({"1": dicom_file(3)}),
                "empty": b"",
                "cut": dicom_file(4)[:400],
                "../../etc/passwd": b"root",
            }
        ),
    )
    assert [file.sop_instance_uid for file in accepted.files] == [
        "1.2.3.1.1",
        "1.2.3.1.2",
        "1.2.9.1",
    ]
    assert accepted.ids == ["1.2.3.1", "1.2.9"]
    reasons = {file.name: file.reason for file in accepted.skipped}
    assert "its instances are stored without it" in reasons["DICOMDIR"]
    assert reasons["README.TXT"] == "not a DICOM file (PS3.10 7.1)"
    assert reasons["inner.zip"] == "a zip within a zip: send it by itself"
    assert {"__MACOSX/._1", "empty", "cut", "../../etc/passwd"} < set(reasons)


@pytest.mark.parametrize("step", [1, 7, 64, 1 << 20])
def test_a_form_in_blocks_of_any_length(intake: Intake, table: Table, step: int) -> None:
    body = form_of(
        ("1.dcm", dicom_file(1)), ("both.zip", zip_of({"a": dicom_file(2)})), ("note", b"\r\n--x")
    )
    accepted = sent(intake, table, body, b"xyz", step)
    assert [file.sop_instance_uid for file in accepted.files] == ["1.2.3.1.1", "1.2.3.1.2"]
    assert [file.name for file in accepted.skipped] == ["note"]


def test_a_form_that_is_cut_off_says_so(intake: Intake, table: Table) -> None:
    body = form_of(("1", dicom_file(1)), ("2", dicom_file(2)))[:-300]
    upload = Upload(intake, ORIGIN, LIMITS, table.data_dir, b"xyz")
    upload.feed(body)
    with pytest.raises(HTTPException, match="ends before its last boundary"):
        upload.finish()
    assert len(upload.accepted.files) == 1, "what was whole is durable, and the answer names it"
    upload.close()


@pytest.mark.parametrize(
    ("body", "boundary"), [(b"no boundary at all", b"xyz"), (form_of(("a", b"b")), b"y" * 300)]
)
def test_a_malformed_form(intake: Intake, table: Table, body: bytes, boundary: bytes) -> None:
    with pytest.raises(HTTPException) as refused:
        sent(intake, table, body, boundary)
    assert refused.value.status_code == 400


def test_a_form_of_too_many_parts(
    intake: Intake, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(form, "PARTS_MAX", 2)
    with pytest.raises(HTTPException, match="more than 2 parts"):
        sent(intake, table, form_of(("a", b""), ("b", b""), ("c", b"")), b"xyz")


@pytest.mark.parametrize("body", [b"", b"hello", zip_of({"a": b"b"}), zip_of({})])
def test_nothing_to_store(intake: Intake, table: Table, body: bytes) -> None:
    with pytest.raises(UnparseableError, match="nothing to store"):
        sent(intake, table, body)


def test_longer_than_the_limit(intake: Intake, table: Table) -> None:
    with pytest.raises(HTTPException, match=r"http\.upload_bytes_max") as refused:
        sent(intake, table, bytes(2**20 + 1), step=1000)
    assert refused.value.status_code == 413


def test_an_instance_longer_than_the_limit(intake: Intake, table: Table) -> None:
    limits = Limits(upload_bytes_max=2**20, instance_bytes_max=100)
    upload = Upload(intake, ORIGIN, limits, table.data_dir, None)
    upload.feed(dicom_file())
    with pytest.raises(UnparseableError, match=r"scp\.instance_bytes_max"):
        upload.finish()
    upload.close()


def test_a_full_table_in_the_middle_leaves_what_was_stored(intake: Intake, table: Table) -> None:
    upload = Upload(intake, ORIGIN, LIMITS, table.data_dir, None)
    upload.feed(zip_of({str(n): dicom_file(n) for n in range(1, 400)}))
    (pages,) = table.rows("PRAGMA page_count")[0]
    table.rows(f"PRAGMA max_page_count={pages + 6}")
    with pytest.raises(OutOfResourcesError, match="full"):
        upload.finish()
    upload.close()
    held = table.rows("SELECT count(*) AS n FROM instance")[0]["n"]
    assert 0 < len(upload.accepted.files) == held < 399


def test_the_disk_reserve_stops_an_upload_at_once(table: Table) -> None:
    reserve = http_settings(table.data_dir).model_copy(
        update={
            "pipeline": http_settings(table.data_dir).pipeline.model_copy(
                update={"disk_reserve_gb": 10.0**9}
            )
        }
    )
    upload = Upload(Intake(reserve, table), ORIGIN, LIMITS, table.data_dir, None)
    with pytest.raises(OutOfResourcesError, match="disk reserve"):
        upload.feed(b"x")
    upload.close()


def test_what_is_under_way_has_no_name(intake: Intake, table: Table) -> None:
    upload = Upload(intake, ORIGIN, LIMITS, table.data_dir, None)
    upload.feed(dicom_file())
    assert not [p for p in (table.data_dir / "incoming").rglob("*") if p.is_file()]
    upload.close()


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_broken_bytes_are_skipped_or_refused(
    intake: Intake, table: Table, data: st.DataObject
) -> None:
    whole = data.draw(
        st.sampled_from([dicom_file(), zip_of({"1": dicom_file()}), form_of(("1", dicom_file()))])
    )
    raw = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 8))):
        # Headers stand at both ends; the pixels between them are of no interest.
        at = data.draw(st.integers(0, 700) | st.integers(1, 120).map(lambda n: -n))
        raw[at % len(raw)] = data.draw(st.integers(0, 255))
    raw = raw[: data.draw(st.integers(len(raw) // 2, len(raw)))]
    boundary = b"xyz" if whole.startswith(b"--xyz") else None
    assert status_of(lambda: sent(intake, table, bytes(raw), boundary)) in {202, 400, 413, 422}


def status_of(call: Callable[[], Accepted]) -> int:
    try:
        call()
    except HTTPException as error:
        return error.status_code
    except OsteonError as error:
        return error.http_status
    return 202
