-- Until when the rows of what a role received are surely on the disk: to say so puts them there.
CREATE TABLE synced (
    role TEXT PRIMARY KEY,
    at REAL NOT NULL
) STRICT;
