-- Until when the rows of what a role received are surely on the disk: to say so puts them there.
CREATE TABLE synced (
    role TEXT PRIMARY KEY,
    at REAL NOT NULL
) STRICT;

-- What nearly every instance does: it is new, and joins a series that is receiving. One statement
-- inserts it here and is a transaction by itself; what does not join is refused whole.
CREATE VIEW joining AS SELECT
    NULL AS sop_instance_uid, NULL AS digest, NULL AS sop_class_uid, NULL AS transfer_syntax_uid,
    NULL AS series_instance_uid, NULL AS association_id, NULL AS path, NULL AS size,
    NULL AS instance_number, NULL AS position, NULL AS orientation, NULL AS received,
    NULL AS quiet_s, NULL AS waits_for;
CREATE TRIGGER joining_added INSTEAD OF INSERT ON joining BEGIN
    SELECT RAISE(ABORT, 'the instance is known') WHERE EXISTS (
        SELECT 1 FROM instance WHERE sop_instance_uid = NEW.sop_instance_uid
        AND series_instance_uid = NEW.series_instance_uid
    );
    -- Where the newest generation is complete, or there is none, NOT NULL refuses it.
    INSERT INTO instance (
        sop_instance_uid, digest, sop_class_uid, transfer_syntax_uid, series_instance_uid,
        association_id, path, size, instance_number, position, orientation, received, generation
    ) VALUES (
        NEW.sop_instance_uid, NEW.digest, NEW.sop_class_uid, NEW.transfer_syntax_uid,
        NEW.series_instance_uid, NEW.association_id, NEW.path, NEW.size, NEW.instance_number,
        NEW.position, NEW.orientation, NEW.received, (
            SELECT iif(state = 'receiving', generation, NULL) FROM series
            WHERE series_instance_uid = NEW.series_instance_uid ORDER BY generation DESC LIMIT 1
        )
    );
    UPDATE series SET last = NEW.received, due = NEW.received + NEW.quiet_s,
        waits_for = NEW.waits_for, instances = instances + 1
    WHERE id = (
        SELECT id FROM series WHERE series_instance_uid = NEW.series_instance_uid
        ORDER BY generation DESC LIMIT 1
    );
END;
