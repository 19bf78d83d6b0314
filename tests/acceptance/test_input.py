"""What good, bad and repeated input gets, by a real sender, node and PACS."""

import io
import json
import shutil
import subprocess
import zipfile
from pathlib import Path

import pydicom
import pytest

from osteon.pipeline.instances.part10 import decode_header
from osteon.results.peer import Destination
from osteon.results.scu import store
from tests.acceptance.ct import series_uid, write_series
from tests.acceptance.parts import Node, Orthanc, dcmsend, osteon
from tests.tools import wait_until


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("dicom2nifti_ct_failing/notavolume_001", "position"),
        ("dicom2nifti_ct_failing/sliceincrement_001", "mm"),
    ],
)
def test_what_is_no_volume_is_rejected_with_its_reason(
    node: Node, pacs: Orthanc, shared_data: Path, name: str, words: str
) -> None:
    dcmsend(shared_data / name, node.dicom_port)
    first = next(p for p in sorted((shared_data / name).rglob("*")) if p.is_file())
    ds = pydicom.dcmread(first, stop_before_pixels=True)
    said = node.wait_for(ds.SeriesInstanceUID, "done", "failed", "rejected")
    assert said["status"] == "rejected"
    assert words in said["reason"]
    assert not pacs.find(Modality="SEG", StudyInstanceUID=ds.StudyInstanceUID)
    shown = _osteon(node, "jobs", "show", said["id"])
    traced = _osteon(node, "trace", said["series_instance_uid"])
    assert _squeezed(said["reason"]) in _squeezed(shown)
    assert _squeezed(said["reason"]) in _squeezed(traced)


def test_the_tilted_series_is_right_on_its_own_grid(
    node: Node, pacs: Orthanc, shared_data: Path
) -> None:
    folder = shared_data / "philips_tilt_phantom_jpegls"
    dcmsend(folder, node.dicom_port)
    sources = {
        str(ds.SOPInstanceUID): ds
        for ds in (pydicom.dcmread(p, stop_before_pixels=True) for p in folder.glob("*.dcm"))
    }
    ds = next(iter(sources.values()))
    said = node.wait_for(ds.SeriesInstanceUID, "done", "failed", "rejected")
    assert said["status"] == "done", said["reason"]
    [held] = pacs.find(Modality="SEG", StudyInstanceUID=ds.StudyInstanceUID)
    seg = pydicom.dcmread(io.BytesIO(pacs.file(held["ID"])))
    for frame in seg.PerFrameFunctionalGroupsSequence:
        reference = frame.DerivationImageSequence[0].SourceImageSequence[0]
        wanted = sources[reference.ReferencedSOPInstanceUID].ImagePositionPatient
        given = frame.PlanePositionSequence[0].ImagePositionPatient
        assert given == pytest.approx([float(v) for v in wanted], abs=0.01)


def test_every_transfer_syntax_arrives_byte_for_byte(node: Node, shared_data: Path) -> None:
    folder = shared_data / "cornerstone_ct_16ts"
    paths = sorted(folder.glob("*.dcm"))
    assert len(paths) == 15
    # DCMTK writes a data set anew before it sends it, so the sender here is one that does not.
    # They all carry one SOP Instance UID, so each is kept as another version of it.
    store(Destination("OSTEON", "127.0.0.1", node.dicom_port, "CT1"), paths)
    wanted = {raw[decode_header(raw)[1] :] for raw in map(Path.read_bytes, paths)}
    held = set()
    for path in (node.data_dir / "spool").rglob("*.dcm"):
        raw = path.read_bytes()
        held.add(raw[decode_header(raw)[1] :])
    assert wanted <= held


def test_an_upload_ends_in_the_bytes_that_the_pacs_received(
    node: Node, pacs: Orthanc, tmp_path: Path
) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as zipped:
        for path in write_series(tmp_path, seed="upload"):
            zipped.write(path, path.name)
    answer = node.http.post(
        "/api/v1/files",
        content=archive.getvalue(),
        headers={"Content-Type": "application/zip"},
    )
    assert answer.status_code == 202, answer.text
    [identifier] = answer.json()["ids"]
    said = node.wait_for(identifier, "done", "failed", "rejected")
    assert said["status"] == "done", said
    # This PACS takes instances and aborts queries of callers that it does not know.
    assert "answers no query" in said["results"][0]["deliveries"][0]["reason"]
    ours = node.http.get(f"/api/v1/files/{said['results'][0]['path']}").content
    [held] = pacs.find(SOPInstanceUID=said["results"][0]["sop_instance_uid"])
    theirs = pacs.file(held["ID"])
    assert ours[decode_header(ours)[1] :] == theirs[decode_header(theirs)[1] :]


def test_late_slices_make_a_new_generation_and_a_resend_makes_nothing(
    node: Node, pacs: Orthanc, tmp_path: Path
) -> None:
    paths = write_series(tmp_path / "all", seed="late", slices=17)
    early, late = tmp_path / "early", tmp_path / "late"
    for folder, some in ((early, paths[:12]), (late, paths[12:])):
        folder.mkdir()
        for path in some:
            shutil.copy(path, folder)
    uid = series_uid("late")
    dcmsend(early, node.dicom_port)
    first = node.wait_for(uid, "done", "failed", "rejected")
    dcmsend(late, node.dicom_port)
    wait_until(lambda: node.predict(uid)["generation"] == 2)
    second = node.wait_for(uid, "done", "failed", "rejected")
    assert (first["status"], second["status"]) == ("done", "done")
    assert (first["instances"], second["instances"]) == (12, 17)
    assert second["results"][0]["superseded"] is None
    assert node.predict(first["id"])["results"][0]["superseded"] is not None
    segs = {
        i["MainDicomTags"]["SOPInstanceUID"] for i in pacs.find(Modality="SEG", PatientID="P-late")
    }
    assert segs == {r["results"][0]["sop_instance_uid"] for r in (first, second)}

    before = len(_jobs(node))
    dcmsend(tmp_path / "all", node.dicom_port)
    # A new generation would be on record as soon as the sender was answered.
    assert node.predict(uid) == second
    assert len(_jobs(node)) == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"Modality": "MR"}, "Modality is MR, not CT"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "LOCALIZER"),
        ({}, "instances is 1, below 2"),
    ],
)
def test_what_no_route_takes_is_kept_and_says_why(
    node: Node, tmp_path: Path, change: dict[str, object], words: str
) -> None:
    [path] = write_series(tmp_path, seed=f"other{words}", slices=1)
    ds = pydicom.dcmread(path)
    for keyword, value in change.items():
        setattr(ds, keyword, value)
    ds.save_as(path)
    dcmsend(tmp_path, node.dicom_port)
    said = node.wait_for(ds.SeriesInstanceUID, "done", "failed", "rejected")
    assert said["status"] == "rejected"
    assert words in said["reason"]
    assert said["instances"] == 1


def test_mixed_geometry_is_rejected(node: Node, tmp_path: Path) -> None:
    paths = write_series(tmp_path, seed="mixed", slices=8)
    ds = pydicom.dcmread(paths[3])
    ds.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
    ds.save_as(paths[3])
    dcmsend(tmp_path, node.dicom_port)
    said = node.wait_for(series_uid("mixed"), "done", "failed", "rejected")
    assert said["status"] == "rejected"
    assert "orientation" in said["reason"].lower()


def test_a_series_without_bone_is_rejected(node: Node, tmp_path: Path) -> None:
    for path in write_series(tmp_path, seed="soft", slices=8):
        ds = pydicom.dcmread(path)
        pixels = ds.pixel_array.clip(max=80)
        ds.PixelData = pixels.tobytes()
        ds.save_as(path)
    dcmsend(tmp_path, node.dicom_port)
    said = node.wait_for(series_uid("soft"), "done", "failed", "rejected")
    assert said["status"] == "rejected"
    assert "found nothing" in said["reason"]


def test_a_dead_destination_keeps_the_job_delivering_until_it_lives(
    tmp_path: Path, shared_data: Path
) -> None:
    with Orthanc(tmp_path / "pacs") as pacs:
        pacs.stop()
        with Node(tmp_path / "node", pacs_port=pacs.dicom_port) as node:
            write_series(tmp_path / "ct", seed="dead")
            dcmsend(tmp_path / "ct", node.dicom_port)
            uid = series_uid("dead")
            node.wait_for(uid, "delivering")
            delivery = wait_until(
                lambda: next(
                    (
                        d
                        for d in node.predict(uid)["results"][0]["deliveries"]
                        if d["reason"] and d["next_attempt"]
                    ),
                    None,
                )
            )
            assert delivery["state"] == "waiting"
            assert node.predict(uid)["status"] == "delivering"
            pacs.run()
            node.wait_for(uid, "done")
            assert len(pacs.find(Modality="SEG")) == 1


def test_unreadable_uploads_are_refused_with_problem_details(node: Node) -> None:
    answer = node.http.post(
        "/api/v1/files",
        content=b"no DICOM at all" * 20,
        headers={"Content-Type": "application/dicom"},
    )
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert "not a DICOM file" in answer.json()["detail"]


def test_running_again_makes_the_same_object(node: Node, tmp_path: Path) -> None:
    write_series(tmp_path, seed="again")
    dcmsend(tmp_path, node.dicom_port)
    first = node.wait_for(series_uid("again"), "done")
    answer = node.http.post(f"/api/v1/predict/{first['id']}")
    assert answer.status_code == 202, answer.text
    wait_until(lambda: node.predict(first["id"])["updated"] > first["updated"])
    second = node.wait_for(first["id"], "done")
    keys = ("sop_instance_uid", "sha256")
    assert [first["results"][0][k] for k in keys] == [second["results"][0][k] for k in keys]
    assert second["generation"] == first["generation"]


def _jobs(node: Node) -> list[object]:
    return list(json.loads(_osteon(node, "jobs", "list", "--json")))


def _osteon(node: Node, *words: str) -> str:
    done = subprocess.run(
        [*osteon(), *words, "--config", str(node.config)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _squeezed(text: str) -> str:
    """Without white space and box lines, which a table puts anywhere."""
    return "".join(c for c in text if c.isalnum())
