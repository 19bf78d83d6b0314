-- Storage commitment (PS3.4 J): transactions that peers have asked this node for.

CREATE TABLE commitment (
    id               INTEGER PRIMARY KEY,
    transaction_uid  TEXT NOT NULL,
    ae_title         TEXT NOT NULL,             -- of the requester
    address          TEXT NOT NULL,             -- where it asked from
    called_ae_title  TEXT NOT NULL,             -- how it calls this node
    refs             TEXT NOT NULL,             -- JSON [[SOP Class UID, SOP Instance UID]]
    instances        INTEGER NOT NULL,          -- how many these are
    duplicate        INTEGER NOT NULL CHECK (duplicate IN (0, 1)),  -- its UID was in use already
    state            TEXT NOT NULL CHECK (state IN ('waiting', 'reported', 'given_up')),
    attempts         INTEGER NOT NULL DEFAULT 0,
    not_before       REAL NOT NULL,             -- when a report is due; put off while one is made
    reason           TEXT NOT NULL DEFAULT '',
    created          REAL NOT NULL,
    updated          REAL NOT NULL
) STRICT;
CREATE INDEX commitment_waiting ON commitment (not_before) WHERE state = 'waiting';
CREATE INDEX commitment_transaction ON commitment (transaction_uid, ae_title);
CREATE INDEX commitment_over ON commitment (updated) WHERE state <> 'waiting';
