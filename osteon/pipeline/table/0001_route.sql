-- The route's tables. Times are seconds since 1970 (UTC); sizes are bytes.

CREATE TABLE association (
    id                INTEGER PRIMARY KEY,
    calling_ae_title  TEXT NOT NULL,
    called_ae_title   TEXT NOT NULL,
    address           TEXT NOT NULL,
    opened            REAL NOT NULL,
    closed            REAL,
    outcome           TEXT                      -- released, aborted, rejected: why
) STRICT;

-- One row per Series Instance UID and generation.
CREATE TABLE series (
    id                   INTEGER PRIMARY KEY,
    series_instance_uid  TEXT NOT NULL,
    generation           INTEGER NOT NULL CHECK (generation >= 1),
    study_instance_uid   TEXT NOT NULL,
    calling_ae_title     TEXT NOT NULL,
    called_ae_title      TEXT NOT NULL,
    modality             TEXT NOT NULL,
    accession_number     TEXT NOT NULL,
    patient_id           TEXT NOT NULL,
    header               TEXT NOT NULL,         -- JSON: keyword → list of values, of its first instance
    state                TEXT NOT NULL CHECK (state IN ('receiving', 'complete')),
    instances            INTEGER NOT NULL,      -- held in this generation, earlier ones included
    first                REAL NOT NULL,         -- when its first and its last instance became durable
    last                 REAL NOT NULL,
    due                  REAL NOT NULL,         -- when the observer looks at it again
    waits_for            TEXT NOT NULL,         -- in words
    completed            REAL,
    UNIQUE (series_instance_uid, generation)
) STRICT;
CREATE INDEX series_due ON series (due) WHERE state = 'receiving';
CREATE INDEX series_study ON series (study_instance_uid);
CREATE INDEX series_accession ON series (accession_number);

-- One row per SOP Instance UID and content. Of several with one UID the newest wins.
CREATE TABLE instance (
    id                   INTEGER PRIMARY KEY,
    sop_instance_uid     TEXT NOT NULL,
    sha256               TEXT NOT NULL,         -- of the data set as received
    sop_class_uid        TEXT NOT NULL,
    transfer_syntax_uid  TEXT NOT NULL,
    series_instance_uid  TEXT NOT NULL,
    generation           INTEGER NOT NULL,      -- of the series, in which it first counts
    association_id       INTEGER REFERENCES association (id),
    path                 TEXT NOT NULL,         -- under data_dir
    size                 INTEGER NOT NULL,      -- of the file
    instance_number      INTEGER,
    position             TEXT,                  -- JSON [x, y, z] mm, PS3.3 C.7.6.2
    orientation          TEXT,                  -- JSON, six cosines
    received             REAL NOT NULL,
    UNIQUE (sop_instance_uid, series_instance_uid, sha256, generation)
) STRICT;
CREATE INDEX instance_series ON instance (series_instance_uid, generation);

-- One row per series generation and pipeline.
CREATE TABLE job (
    id                INTEGER PRIMARY KEY,
    series_id         INTEGER NOT NULL REFERENCES series (id),
    route             TEXT NOT NULL,
    model             TEXT NOT NULL,
    calling_ae_title  TEXT NOT NULL,
    priority          INTEGER NOT NULL,         -- 0 is the most urgent class
    stage             TEXT NOT NULL CHECK (stage IN ('admission', 'prediction', 'boneseg', 'encode', 'deliver')),
    state             TEXT NOT NULL CHECK (state IN ('waiting', 'running', 'backoff', 'done', 'failed', 'rejected', 'cancelled', 'superseded')),
    attempt           INTEGER NOT NULL DEFAULT 0,  -- fencing token: grows with every claim
    failures          INTEGER NOT NULL DEFAULT 0,  -- of the present stage
    not_before        REAL NOT NULL DEFAULT 0,
    lease_until       REAL,
    worker            TEXT,
    reason            TEXT NOT NULL,
    input_sha256      TEXT NOT NULL,            -- of the sorted (SOP Instance UID, sha256) of its input
    segments          TEXT NOT NULL DEFAULT '[]',  -- JSON [{label, volume_ml}]
    destinations      TEXT NOT NULL DEFAULT '[]',  -- JSON [name]
    created           REAL NOT NULL,
    admitted          REAL,                     -- when it was last let in
    updated           REAL NOT NULL,
    UNIQUE (series_id, route),
    CHECK ((state = 'running') = (lease_until IS NOT NULL))
) STRICT;
CREATE INDEX job_waiting ON job (stage, priority, id) WHERE state = 'waiting';
CREATE INDEX job_line ON job (calling_ae_title, priority, id) WHERE state = 'waiting' AND stage = 'admission';
CREATE INDEX job_inside ON job (calling_ae_title) WHERE stage IN ('prediction', 'boneseg', 'encode') AND state IN ('waiting', 'running', 'backoff');
CREATE INDEX job_admitted ON job (calling_ae_title, admitted) WHERE admitted IS NOT NULL;
CREATE INDEX job_backoff ON job (not_before) WHERE state = 'backoff';
CREATE INDEX job_running ON job (stage, lease_until) WHERE state = 'running';
CREATE INDEX job_series ON job (series_id);

-- The accepted output of a stage: a folder under data_dir that the next stage reads.
CREATE TABLE output (
    job_id   INTEGER NOT NULL REFERENCES job (id),
    stage    TEXT NOT NULL,
    attempt  INTEGER NOT NULL,
    path     TEXT NOT NULL,
    PRIMARY KEY (job_id, stage)
) STRICT, WITHOUT ROWID;

CREATE TABLE result (
    id                   INTEGER PRIMARY KEY,
    job_id               INTEGER NOT NULL REFERENCES job (id),
    kind                 TEXT NOT NULL CHECK (kind IN ('seg', 'preview')),
    path                 TEXT NOT NULL UNIQUE,  -- under data_dir
    size                 INTEGER NOT NULL,
    sha256               TEXT NOT NULL,
    media_type           TEXT NOT NULL,
    sop_instance_uid     TEXT,
    sop_class_uid        TEXT,
    series_instance_uid  TEXT,
    created              REAL NOT NULL,
    superseded           REAL,
    UNIQUE (job_id, kind)
) STRICT;

-- One row per result and destination.
CREATE TABLE delivery (
    id           INTEGER PRIMARY KEY,
    result_id    INTEGER NOT NULL REFERENCES result (id),
    destination  TEXT NOT NULL,
    state        TEXT NOT NULL CHECK (state IN ('waiting', 'sending', 'delivered', 'refused', 'given_up', 'cancelled')),
    attempts     INTEGER NOT NULL DEFAULT 0,
    not_before   REAL NOT NULL,
    reason       TEXT NOT NULL DEFAULT '',
    created      REAL NOT NULL,
    updated      REAL NOT NULL,
    UNIQUE (result_id, destination)
) STRICT;
CREATE INDEX delivery_waiting ON delivery (destination, not_before, attempts) WHERE state = 'waiting';
CREATE INDEX delivery_sending ON delivery (destination) WHERE state = 'sending';

-- What happened, when, by whom and why: to a series (job_id NULL) or to a job.
CREATE TABLE transition (
    id          INTEGER PRIMARY KEY,
    at          REAL NOT NULL,
    series_id   INTEGER NOT NULL REFERENCES series (id),
    job_id      INTEGER REFERENCES job (id),
    event       TEXT NOT NULL,
    from_stage  TEXT,
    from_state  TEXT,
    to_stage    TEXT,
    to_state    TEXT,
    who         TEXT NOT NULL,
    why         TEXT NOT NULL
) STRICT;
CREATE INDEX transition_series ON transition (series_id);
CREATE INDEX transition_job ON transition (job_id);
