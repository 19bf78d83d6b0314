-- Whether a sender that fell silent had come to its end, or could not be heard.

ALTER TABLE association ADD COLUMN cut INTEGER NOT NULL DEFAULT 0 CHECK (cut IN (0, 1));  -- ended while its sender was in the middle of something
CREATE INDEX association_open ON association (id) WHERE closed IS NULL;

CREATE TABLE receiver (
    id         INTEGER PRIMARY KEY CHECK (id = 1),
    listening  REAL                             -- since when it listens, or listened until it was killed; NULL once stopped in good order
) STRICT;
