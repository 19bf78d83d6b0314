# `make demo` and `make test` set up everything they need in .venv.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: demo test check bench bench-bones train-bones bench-sliding bench-loading bench-receive bench-route bench-robust bench-faults bench-fuzz bench-bytes bench-soak bench-pressure bench-table bench-simulate bench-states format docs clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(STAMP)  ## a node, a stand-in PACS and one CT series; CT=folder sends your own
	$(BIN)/osteon demo $(if $(CT),--ct "$(CT)") $(if $(OUT),--out "$(OUT)")

test: $(STAMP)  ## the whole suite; what needs an absent tool is skipped with its reason
	$(BIN)/python -m pytest

check: $(STAMP)  ## ruff, mypy --strict, import-linter
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: bench-receive bench-route  ## every benchmark that needs no data of its own

bench-receive: $(STAMP)  ## the receiver beside pynetdicom, DCMTK and Orthanc; < 15 minutes
	$(BIN)/python bench/receive.py $(if $(CHECK),--check) $(if $(DOCS),--docs)

bench-route: $(STAMP)  ## last slice to PACS beside Orthanc with a script; length; backlog
	$(BIN)/python bench/route.py $(if $(CHECK),--check)
	$(BIN)/python bench/route.py --cost 6 --rounds 1 --json bench/out/route-long.json $(if $(CHECK),--check)
	$(BIN)/python bench/pace.py $(if $(CHECK),--check)
	$(BIN)/python bench/backlog.py $(if $(CHECK),--check)
	$(if $(DOCS),$(BIN)/python bench/route_report.py --docs)

bench-robust: $(STAMP)  ## 200 jobs whose workers, memory and schedulers die on the way
	$(BIN)/python bench/robust.py

bench-faults: $(STAMP)  ## kills, power cuts and I/O errors; nightly with FAULTS=1000
	$(BIN)/python bench/faults.py --faults $(or $(FAULTS),100)

bench-fuzz: $(STAMP)  ## malformed PDUs and data sets
	$(BIN)/python bench/fuzz.py

bench-bytes: $(STAMP)  ## 1,000 instances byte for byte; DATA=folder of one slice in its syntaxes
	$(BIN)/python bench/bytes.py $(if $(DATA),--data "$(DATA)")

bench-soak: $(STAMP)  ## 5,000 associations, 50,000 instances
	$(BIN)/python bench/soak.py

bench-pressure: $(STAMP)  ## slow peers, crowds, bombs, a full disk
	$(BIN)/python bench/pressure.py

bench-loading: $(STAMP)  ## CT series into volumes, beside pydicom and np.frombuffer; DATA=one series
	$(BIN)/python bench/loading.py $(if $(DATA),--data "$(DATA)") $(if $(CHECK),--check)

bench-table: $(STAMP)  ## a table of 10^6 jobs: who is next, and how long everything takes
	$(BIN)/python bench/table.py $(if $(JSON),--json $(JSON))

bench-simulate: $(STAMP)  ## 1,000 hospitals, 1 to 200 slots, faults, under injected time
	$(BIN)/python bench/simulate.py $(if $(SERIES),--series $(SERIES)) $(if $(JSON),--json $(JSON))

bench-states: $(STAMP)  ## 10,000 examples of whatever may happen, and mutations
	$(BIN)/python bench/states.py --seeds $(or $(SEEDS),10000)

bench-bones: $(STAMP)  ## the bone model beside plain thresholds; DATA=folder of labelled series
	@test -n "$(DATA)" || { echo "give DATA=folder of labelled series"; exit 2; }
	$(BIN)/python bench/bones.py --data "$(DATA)"
	$(BIN)/python bench/bones_altered.py --data "$(DATA)"

train-bones: $(STAMP)  ## a small network beside the bone model, series left out; DATA as above
	@test -n "$(DATA)" || { echo "give DATA=folder of labelled series"; exit 2; }
	$(BIN)/python bench/train_bones.py --data "$(DATA)"

bench-sliding: $(STAMP)  ## the sliding window beside MONAI's, memory, overhead around a model
	$(BIN)/python bench/sliding.py $(if $(CHECK),--check)

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(STAMP)  ## regenerate the configuration reference from the schema
	$(BIN)/osteon config reference > docs/configuration.md

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache build ./*.egg-info
