-- Storage commitment (PS3.4 J) that this node has asked its destinations for, to prove deliveries.

CREATE TABLE proof (
    transaction_uid   TEXT PRIMARY KEY,
    destination       TEXT NOT NULL,
    sop_instance_uid  TEXT NOT NULL,
    asked             REAL NOT NULL,
    heard             REAL,
    failure_reason    INTEGER,                  -- PS3.3 C.14.1.1; NULL where it is committed
    CHECK (heard IS NOT NULL OR failure_reason IS NULL)
) STRICT, WITHOUT ROWID;
CREATE INDEX proof_instance ON proof (destination, sop_instance_uid, heard);
CREATE INDEX proof_asked ON proof (asked);
