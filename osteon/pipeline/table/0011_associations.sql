-- What came over an association, and who was turned away.

ALTER TABLE association ADD COLUMN stored INTEGER;              -- instances acknowledged, duplicates included; NULL while it is open, or where its receiver was killed
ALTER TABLE association ADD COLUMN duplicates INTEGER;          -- of these, held already
ALTER TABLE association ADD COLUMN refused INTEGER;
ALTER TABLE association ADD COLUMN refusal TEXT NOT NULL DEFAULT '';  -- status and words of the last one refused
CREATE INDEX association_opened ON association (opened);
CREATE INDEX association_caller ON association (calling_ae_title, opened);

-- Which series an association brought again: an instance that is held already has no new row.
CREATE TABLE duplicate (
    association_id       INTEGER NOT NULL REFERENCES association (id),
    series_instance_uid  TEXT NOT NULL,
    instances            INTEGER NOT NULL,
    PRIMARY KEY (association_id, series_instance_uid)
) STRICT, WITHOUT ROWID;
CREATE INDEX duplicate_series ON duplicate (series_instance_uid);

-- Associations that were rejected: one row for all that are alike.
CREATE TABLE rejection (
    calling_ae_title  TEXT NOT NULL,
    called_ae_title   TEXT NOT NULL,
    address           TEXT NOT NULL,
    answer            TEXT NOT NULL,            -- result, source and reason of the A-ASSOCIATE-RJ, PS3.8 9.3.4
    why               TEXT NOT NULL,            -- of the last one
    first             REAL NOT NULL,
    last              REAL NOT NULL,
    times             INTEGER NOT NULL,
    PRIMARY KEY (calling_ae_title, called_ae_title, address, answer)
) STRICT, WITHOUT ROWID;
CREATE INDEX rejection_last ON rejection (last);
