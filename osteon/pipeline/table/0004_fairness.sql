-- What a job costs and needs, whose turn it is, and counts that are never counted anew.

ALTER TABLE job ADD COLUMN cost INTEGER NOT NULL DEFAULT 1;         -- voxels of its input
ALTER TABLE job ADD COLUMN input_bytes INTEGER NOT NULL DEFAULT 0;  -- of its files

-- A line is what one source has waiting for one model.
DROP INDEX job_line;
CREATE INDEX job_line ON job (calling_ae_title, model, priority, id) WHERE state = 'waiting' AND stage = 'admission';
-- What was let in first runs first, whatever its age.
DROP INDEX job_waiting;
CREATE INDEX job_waiting ON job (stage, priority, admitted, id) WHERE state = 'waiting';
DROP INDEX job_inside;
CREATE INDEX job_inside ON job (priority) WHERE stage IN ('prediction', 'boneseg', 'encode') AND state IN ('waiting', 'running', 'backoff');
DROP INDEX job_admitted;
CREATE INDEX series_over ON series (last, id) WHERE state = 'complete';
CREATE INDEX job_over ON job (state, id) WHERE state IN ('done', 'failed', 'rejected', 'cancelled', 'superseded');
CREATE INDEX job_open ON job (id, stage, state) WHERE state IN ('waiting', 'running', 'backoff');

-- Start-time fair queuing (Goyal, Vin, Cheng, SIGCOMM 1996): of each class and source, in voxels
-- for its weight, where its last admitted job began and where its next one begins.
CREATE TABLE share (
    priority          INTEGER NOT NULL,
    calling_ae_title  TEXT NOT NULL,
    began             REAL NOT NULL,
    served            REAL NOT NULL,
    PRIMARY KEY (priority, calling_ae_title)
) STRICT, WITHOUT ROWID;
CREATE INDEX share_began ON share (priority, began);

-- How many rows there are: of a table, or of one state of it ('job admission waiting').
CREATE TABLE tally (
    name  TEXT PRIMARY KEY,
    n     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO tally SELECT 'association', count(*) FROM association;
INSERT INTO tally SELECT 'series', count(*) FROM series;
INSERT INTO tally SELECT 'instance', count(*) FROM instance;
INSERT INTO tally
    WITH stages (stage) AS (VALUES ('admission'), ('prediction'), ('boneseg'), ('encode'), ('deliver')),
         states (state) AS (VALUES ('waiting'), ('running'), ('backoff'), ('done'), ('failed'), ('rejected'), ('cancelled'), ('superseded'))
    SELECT 'job ' || stage || ' ' || state, (SELECT count(*) FROM job WHERE job.stage = stages.stage AND job.state = states.state)
    FROM stages, states;
INSERT INTO tally
    WITH states (state) AS (VALUES ('waiting'), ('sending'), ('delivered'), ('refused'), ('given_up'), ('cancelled'))
    SELECT 'delivery ' || state, (SELECT count(*) FROM delivery WHERE delivery.state = states.state) FROM states;

CREATE TRIGGER association_added AFTER INSERT ON association BEGIN UPDATE tally SET n = n + 1 WHERE name = 'association'; END;
CREATE TRIGGER association_removed AFTER DELETE ON association BEGIN UPDATE tally SET n = n - 1 WHERE name = 'association'; END;
CREATE TRIGGER series_added AFTER INSERT ON series BEGIN UPDATE tally SET n = n + 1 WHERE name = 'series'; END;
CREATE TRIGGER series_removed AFTER DELETE ON series BEGIN UPDATE tally SET n = n - 1 WHERE name = 'series'; END;
CREATE TRIGGER instance_added AFTER INSERT ON instance BEGIN UPDATE tally SET n = n + 1 WHERE name = 'instance'; END;
CREATE TRIGGER instance_removed AFTER DELETE ON instance BEGIN UPDATE tally SET n = n - 1 WHERE name = 'instance'; END;
CREATE TRIGGER job_added AFTER INSERT ON job BEGIN UPDATE tally SET n = n + 1 WHERE name = 'job ' || NEW.stage || ' ' || NEW.state; END;
CREATE TRIGGER job_moved AFTER UPDATE OF stage, state ON job BEGIN
    UPDATE tally SET n = n - 1 WHERE name = 'job ' || OLD.stage || ' ' || OLD.state;
    UPDATE tally SET n = n + 1 WHERE name = 'job ' || NEW.stage || ' ' || NEW.state;
END;
CREATE TRIGGER job_removed AFTER DELETE ON job BEGIN UPDATE tally SET n = n - 1 WHERE name = 'job ' || OLD.stage || ' ' || OLD.state; END;
CREATE TRIGGER delivery_added AFTER INSERT ON delivery BEGIN UPDATE tally SET n = n + 1 WHERE name = 'delivery ' || NEW.state; END;
CREATE TRIGGER delivery_moved AFTER UPDATE OF state ON delivery BEGIN
    UPDATE tally SET n = n - 1 WHERE name = 'delivery ' || OLD.state;
    UPDATE tally SET n = n + 1 WHERE name = 'delivery ' || NEW.state;
END;
CREATE TRIGGER delivery_removed AFTER DELETE ON delivery BEGIN UPDATE tally SET n = n - 1 WHERE name = 'delivery ' || OLD.state; END;
