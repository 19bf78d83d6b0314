-- Shadow models: which of them run beside a job, and how what they find compares with it.

ALTER TABLE job ADD COLUMN shadow TEXT NOT NULL DEFAULT '[]';       -- JSON [model]: to be run beside it
ALTER TABLE job ADD COLUMN shadow_of INTEGER REFERENCES job (id);   -- the job that it runs beside
CREATE INDEX job_shadow ON job (shadow_of) WHERE shadow_of IS NOT NULL;
CREATE INDEX job_shadow_open ON job (stage) WHERE shadow_of IS NOT NULL AND state IN ('waiting', 'running', 'backoff');
CREATE INDEX job_shadow_failed ON job (id) WHERE shadow_of IS NOT NULL AND state = 'failed';

-- One row per shadow job with a result. It outlives the job: a purge takes away whose series it was.
CREATE TABLE comparison (
    id           INTEGER PRIMARY KEY,
    job_id       INTEGER UNIQUE REFERENCES job (id) ON DELETE SET NULL,
    route        TEXT NOT NULL,
    model        TEXT NOT NULL,                 -- of the shadow
    first_model  TEXT NOT NULL,
    state        TEXT NOT NULL CHECK (state IN ('due', 'compared', 'failed')),
    reason       TEXT NOT NULL DEFAULT '',
    dice         REAL,                          -- of all that is segmented
    segments     TEXT NOT NULL DEFAULT '[]',    -- JSON [{label, dice, volume_ml, first_volume_ml}]
    updated      REAL NOT NULL,
    CHECK ((state = 'compared') = (dice IS NOT NULL))
) STRICT;
CREATE INDEX comparison_due ON comparison (id) WHERE state = 'due';
CREATE INDEX comparison_dice ON comparison (model, first_model, dice) WHERE state = 'compared';
