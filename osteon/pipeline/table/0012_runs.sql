-- What was delivered by which run of a job, which GPUs stay idle, and what of the log is over.

ALTER TABLE delivery ADD COLUMN earlier INTEGER NOT NULL DEFAULT 0 CHECK (earlier IN (0, 1));  -- of a run before the job's present one
UPDATE delivery SET earlier = 1 WHERE created <> (SELECT created FROM result WHERE result.id = delivery.result_id);

ALTER TABLE engine ADD COLUMN idle TEXT NOT NULL DEFAULT '';    -- which GPUs no slot uses, and what to set; '' where there are none

-- Associations that brought nothing, such as those for C-ECHO, go with their age alone.
CREATE INDEX association_empty ON association (closed) WHERE stored = 0;
CREATE INDEX instance_association ON instance (association_id) WHERE association_id IS NOT NULL;
