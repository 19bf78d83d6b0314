-- What the present routes make of a series takes the place of what earlier ones made of it.

ALTER TABLE job ADD COLUMN replaced_by INTEGER REFERENCES job (id);  -- of the same generation
CREATE INDEX job_replaced ON job (replaced_by) WHERE replaced_by IS NOT NULL;
