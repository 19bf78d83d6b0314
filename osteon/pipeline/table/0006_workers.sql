-- What the workers say of themselves: how far a stage has come, and whether there are any.

CREATE TABLE progress (
    job_id    INTEGER PRIMARY KEY REFERENCES job (id) ON DELETE CASCADE,
    stage     TEXT NOT NULL,                    -- of a stage that is over it says nothing
    admitted  REAL,                             -- nor of a run before the last admission
    fraction  REAL NOT NULL CHECK (fraction BETWEEN 0 AND 1)
) STRICT;

CREATE TABLE engine (
    id       INTEGER PRIMARY KEY CHECK (id = 1),
    slots    INTEGER NOT NULL,
    reason   TEXT NOT NULL,                     -- why there is no slot; '' while there is one
    updated  REAL NOT NULL
) STRICT;
