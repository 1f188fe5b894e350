-- What a site has verified of the audit trails of its runs. Opened with WAL and synchronous=FULL; one writer, held by node.lock.

-- How far; one row a run.
CREATE TABLE chain (
    run           TEXT PRIMARY KEY,
    records       INTEGER NOT NULL,     -- records verified
    head          TEXT NOT NULL,        -- hash of the last of them
    content       BLOB,                 -- newest signed checkpoint, as signed; NULL before there was one
    signature     BLOB,                 -- the coordinator's signature under it
    countersigned INTEGER NOT NULL      -- 1 once the coordinator has this site's signature under it
) STRICT;

-- Hash of every record that was verified; a row never changes.
CREATE TABLE record (
    run  TEXT NOT NULL,
    seq  INTEGER NOT NULL,
    hash TEXT NOT NULL,
    PRIMARY KEY (run, seq)
) STRICT, WITHOUT ROWID;

CREATE INDEX record_by_hash ON record (hash);

-- Models as the trail names them; a row never changes.
CREATE TABLE model (
    run   TEXT NOT NULL,
    round INTEGER NOT NULL,             -- the round that made it; -1 for model 0
    model TEXT NOT NULL,
    PRIMARY KEY (run, round)
) STRICT, WITHOUT ROWID;
