"""Routes: what each condition takes, what it refuses, and in which words."""

import pytest

from osteon.config.settings import DEFAULT_ROUTE, RouteSettings
from osteon.pipeline.routes import Candidate, choose, decide

HEADER = {
    "Modality": ["CT"],
    "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
    "SliceThickness": ["1.25"],
    "SeriesDescription": ["Becken nativ, Knochen (ä) 1,25"],
    "ConvolutionKernel": ["B60f", "3"],
    "SeriesNumber": ["4"],
    "BodyPartExamined": [""],
    "WindowWidth": ["400", "2000"],
    "PatientID": ["007"],
    "KVP": ["a lot"],
    "ExposureTime": [" 1.5E+3 "],
    "GantryDetectorTilt": ["nan"],
    "ReconstructionDiameter": ["1_000", "inf", "1e999", "\u0663"],
    "StationName": ["CT\x00\x1b[2J", ""],
    "ProtocolName": ["頭部^単純\n*?[a-z]+", " "],
}


def candidate(instances=200, called="OSTEON", uid="1.2.3", **values):
    return Candidate(uid, called, HEADER | values, instances)


def ask(match, instances=200, **route):
    settings = RouteSettings(name="r", match=match, **route)
    (decision,) = decide([settings], candidate(instances))
    return decision


TAKEN = [
    {},
    {"Modality": "CT"},
    {"Modality": {"equals": "CT"}},
    {"Modality": ["CT", "PT"]},
    {"Modality": {"one_of": ["PT", "CT"]}},
    {"ImageType": "AXIAL"},
    {"ImageType": r"ORIGINAL\PRIMARY\AXIAL"},
    {"ImageType": {"excludes": "LOCALIZER"}},
    {"ImageType": {"equals": "AXIAL", "excludes": ["LOCALIZER", "MPR"]}},
    {"Manufacturer": {"excludes": "GE"}},
    {"SliceThickness": {"max": 5.0}},
    {"SliceThickness": {"min": 1.25, "max": 1.25}},
    {"SliceThickness": 1.25},
    {"SliceThickness": {"equals": "1.25"}},
    {"SeriesNumber": 4},
    {"SeriesNumber": {"one_of": [4, 5]}},
    {"SeriesDescription": {"regex": "(?i)knochen|bone"}},
    {"SeriesDescription": {"regex": r"\(ä\)"}},
    {"SeriesDescription": {"regex": "^Becken"}},
    {"WindowWidth": {"min": 1000, "max": 3000}},
    {"instances": {"min": 200}},
    {"instances": {"max": 200}},
    {"instances": 200},
    {"PatientID": "007"},
    {"PatientID": 7},
    {"ExposureTime": {"min": 1500, "max": 1500}},
    {"ExposureTime": 1500},
    {"StationName": {"regex": "^CT"}},
    {"ProtocolName": {"regex": r"\*\?\["}},
    {"ProtocolName": "頭部^単純\n*?[a-z]+"},
    {"ProtocolName": {"excludes": "頭部"}},
]
REFUSED = [
    ({"Modality": "PT"}, "Modality is CT, not PT"),
    ({"Modality": "ct"}, "Modality is CT, not ct"),
    ({"Modality": ["PT", "NM"]}, "Modality is CT, none of PT, NM"),
    ({"Manufacturer": "GE"}, "Manufacturer is absent"),
    ({"Manufacturer": {"regex": ".*"}}, "Manufacturer is absent"),
    ({"Manufacturer": {"min": 0}}, "Manufacturer is absent"),
    ({"BodyPartExamined": "PELVIS"}, "BodyPartExamined is , not PELVIS"),
    (
        {"ImageType": {"excludes": "PRIMARY"}},
        r"ImageType is ORIGINAL\PRIMARY\AXIAL, which contains PRIMARY",
    ),
    (
        {"ImageType": {"equals": "AXIAL", "excludes": ["MPR", "ORIGINAL"]}},
        r"ImageType is ORIGINAL\PRIMARY\AXIAL, which contains ORIGINAL",
    ),
    ({"ImageType": "PRIMARY\\AXIAL"}, r"ImageType is ORIGINAL\PRIMARY\AXIAL, not PRIMARY\AXIAL"),
    ({"SliceThickness": {"max": 1.0}}, "SliceThickness is 1.25, above 1"),
    ({"SliceThickness": {"min": 1.3}}, "SliceThickness is 1.25, below 1.3"),
    ({"SliceThickness": {"equals": "1.250"}}, "SliceThickness is 1.25, not 1.250"),
    ({"KVP": {"min": 80}}, "KVP is a lot, not a number"),
    ({"WindowWidth": {"min": 500, "max": 1000}}, r"WindowWidth is 400\2000, above 1000"),
    ({"PatientID": "7"}, "PatientID is 007, not 7"),
    (
        {"SeriesDescription": {"regex": "^nativ"}},
        "SeriesDescription is Becken nativ, Knochen (ä) 1,25, which does not match ^nativ",
    ),
    ({"GantryDetectorTilt": {"max": 30}}, "GantryDetectorTilt is nan, not a number"),
    (
        {"ReconstructionDiameter": {"min": 0}},
        "ReconstructionDiameter is 1_000\\inf\\1e999\\\u0663, not a number",
    ),
    ({"StationName": "CT"}, "StationName is CT\x00\x1b[2J\\, not CT"),
    (
        {"ProtocolName": {"regex": "^頭部$"}},
        "ProtocolName is 頭部^単純\n*?[a-z]+\\ , which does not match ^頭部$",
    ),
    ({"instances": {"min": 201}}, "instances is 200, below 201"),
    ({"instances": {"max": 100}}, "instances is 200, above 100"),
    ({"Modality": "CT", "SeriesNumber": 5}, "SeriesNumber is 4, not 5.0"),
]


@pytest.mark.parametrize("match", TAKEN, ids=str)
def test_takes(match):
    decision = ask(match)
    assert decision.taken, decision.why
    assert decision.why == ("every condition holds" if match else "no condition")


@pytest.mark.parametrize(("match", "why"), REFUSED, ids=lambda value: str(value)[:40])
def test_refuses_and_says_why(match, why):
    decision = ask(match)
    assert not decision.taken
    assert decision.why == why


def test_called_ae_title_is_asked_first():
    decision = ask({"Modality": "PT"}, called_ae_title="OTHER")
    assert decision.why == "called AE title is OSTEON, not OTHER"
    assert ask({}, called_ae_title="OSTEON").taken


def test_the_default_route_takes_ct_volumes_and_no_localizer():
    def why(**values):
        (decision,) = decide([DEFAULT_ROUTE], candidate(**values))
        return decision.why

    assert why() == "every condition holds"
    assert why(instances=1) == "instances is 1, below 2"
    assert why(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]).endswith("contains LOCALIZER")
    assert why(Modality=["MR"]) == "Modality is MR, not CT"


def test_every_route_answers_in_order():
    routes = [RouteSettings(name=n, match={"Modality": n}) for n in ("CT", "PT")]
    assert [(d.route.name, d.taken) for d in decide(routes, candidate())] == [
        ("CT", True),
        ("PT", False),
    ]


def thin(uid, thickness, instances):
    values = {} if thickness is None else {"SliceThickness": [thickness]}
    return Candidate(uid, "OSTEON", values, instances)


@pytest.mark.parametrize(
    ("series", "candidates", "chosen"),
    [
        ("thinnest", [thin("a", "5", 90), thin("b", "1", 10)], "b"),
        ("thinnest", [thin("a", "1", 10), thin("b", "1.0", 400)], "b"),
        ("thinnest", [thin("b", "1", 10), thin("a", "1", 10)], "a"),
        ("thinnest", [thin("a", None, 900), thin("b", "10", 3)], "b"),
        ("thinnest", [thin("a", "?", 1), thin("b", "", 2)], "b"),
        ("thinnest", [thin("a", "nan", 9), thin("b", "5", 1), thin("c", "1", 1)], "c"),
        ("thinnest", [thin("a", "-inf", 9), thin("b", "5", 1)], "b"),
        ("largest", [thin("a", "5", 90), thin("b", "1", 10)], "a"),
        ("largest", [thin("a", "5", 90), thin("b", "1", 90)], "b"),
        ("largest", [thin("b", None, 90), thin("a", None, 90)], "a"),
    ],
)
def test_one_series_of_a_study_is_chosen_whatever_their_order(series, candidates, chosen):
    route = RouteSettings(name="r", series=series)
    assert choose(route, candidates).series_instance_uid == chosen
    assert choose(route, candidates[::-1]).series_instance_uid == chosen


def test_a_multiframe_instance_counts_as_its_frames():
    whole = candidate(instances=1, NumberOfFrames=["47"])
    (decision,) = decide([DEFAULT_ROUTE], whole)
    assert decision.taken
    single = candidate(instances=1, NumberOfFrames=["x"])
    (decision,) = decide([DEFAULT_ROUTE], single)
    assert decision.why == "instances is 1, below 2"
