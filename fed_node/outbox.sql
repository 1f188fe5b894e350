-- What a site remembers across crashes. Opened with WAL and synchronous=FULL; one writer, held by node.lock.

-- Rules of every run this site ever joined; a row never changes.
CREATE TABLE manifest (
    run      TEXT PRIMARY KEY,
    json     BLOB NOT NULL           -- canonical bytes, as received
) STRICT;

-- One finished update a round, whatever the attempt.
CREATE TABLE update_entry (
    seq         INTEGER PRIMARY KEY, -- order of completion
    run         TEXT NOT NULL,       -- never changes
    round       INTEGER NOT NULL,    -- never changes
    attempt     INTEGER NOT NULL,    -- latest attempt it was addressed to
    sha256      TEXT NOT NULL,       -- of words; never changes
    size_bytes  INTEGER NOT NULL,    -- never changes
    base_model  TEXT NOT NULL,       -- never changes
    words       BLOB NOT NULL,       -- ring words, little-endian, not masked; emptied once they are no longer needed
    stage       TEXT NOT NULL CHECK (stage IN ('ready', 'receipted', 'dropped')),
    reason      TEXT NOT NULL,       -- why it was dropped
    UNIQUE (run, round)
) STRICT;

-- Every receipt ever held; a row never changes and never leaves.
CREATE TABLE receipt (
    run          TEXT NOT NULL,
    round        INTEGER NOT NULL,
    attempt      INTEGER NOT NULL,
    site         TEXT NOT NULL,
    sha256       TEXT NOT NULL,
    accepted_utc TEXT NOT NULL,
    PRIMARY KEY (run, round, attempt)
) STRICT;
