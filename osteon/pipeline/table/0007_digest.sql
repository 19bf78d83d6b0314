-- Instances are named by their BLAKE3 hash; older rows keep their SHA-256.

ALTER TABLE instance RENAME COLUMN sha256 TO digest;
