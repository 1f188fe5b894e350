-- The privacy ledger of one site. Opened with WAL and synchronous=FULL; one writer, held by ledger.lock.

-- The chain. A row never changes and never leaves; fedmentor.audit checks it, fedmentor.privacy.events gives it meaning.
CREATE TABLE entry (
    seq       INTEGER PRIMARY KEY, -- 0, 1, 2, ... without gaps
    prev_hash TEXT NOT NULL,
    utc       TEXT NOT NULL,       -- for people; order is seq
    actor     TEXT NOT NULL,
    event     TEXT NOT NULL,       -- budget, cohort, reserve, commit, void or release
    fields    TEXT NOT NULL,       -- canonical JSON; floats that a bound depends on in hexadecimal
    hash      TEXT NOT NULL        -- SHA-256 over everything before it
) STRICT;

-- Who is in a cohort, under the site's key; the digest of the tags is the cohort's name in the chain. A row never changes.
CREATE TABLE member (
    cohort TEXT NOT NULL,
    tag    TEXT NOT NULL,          -- HMAC-SHA256 of the patient's id, hexadecimal
    PRIMARY KEY (cohort, tag)
) STRICT, WITHOUT ROWID;
