-- The journal of one run. Times are ISO 8601 UTC text; digests are lower-case hexadecimal SHA-256.
-- "immutable" columns are written once; only run_state and traffic are ever updated.

CREATE TABLE run (
    only_row     INTEGER PRIMARY KEY CHECK (only_row = 1),
    name         TEXT NOT NULL,                             -- immutable: name of the run, as in the manifest
    manifest     BLOB NOT NULL                              -- immutable: canonical JSON of the manifest, as hashed and sent
) STRICT;

CREATE TABLE run_state (
    only_row        INTEGER PRIMARY KEY CHECK (only_row = 1),
    phase           TEXT NOT NULL,                          -- coordinator.state.PhaseName
    round           INTEGER NOT NULL,                       -- the round in force
    attempt         INTEGER NOT NULL,                       -- its attempt, from 1
    model           TEXT NOT NULL,                          -- model that the round starts from
    pending         TEXT,                                   -- aggregated model that waits to be published
    phase_elapsed_s REAL NOT NULL,                          -- running time of the phase at the last checkpoint
    round_elapsed_s REAL NOT NULL,                          -- running time since the round first opened
    outcome         TEXT,                                   -- how the run ended
    reason          TEXT NOT NULL,                          -- why an attempt or the run failed; public sentence
    updated_by      TEXT NOT NULL                           -- name of the transaction that wrote the row
) STRICT;

CREATE TABLE accepted_update (
    round        INTEGER NOT NULL,                          -- immutable
    attempt      INTEGER NOT NULL,                          -- immutable
    site         TEXT NOT NULL,                             -- immutable: from the certificate's URI SAN
    sha256       TEXT NOT NULL,                             -- immutable: of the ring words; names the spool file
    size_bytes   INTEGER NOT NULL,                          -- immutable
    weight_word  INTEGER NOT NULL,                          -- immutable: last ring word, weight * 2**fraction_bits
    accepted_utc TEXT NOT NULL,                             -- immutable: stands in the receipt
    PRIMARY KEY (round, attempt, site)
) STRICT;

CREATE TABLE site_scores (
    round    INTEGER NOT NULL,                              -- immutable: the round whose starting model was scored
    site     TEXT NOT NULL,                                 -- immutable
    model    TEXT NOT NULL,                                 -- immutable: digest of that model
    patients INTEGER NOT NULL,                              -- immutable: held-out patients behind the means
    images   INTEGER NOT NULL,                              -- immutable
    dice     REAL NOT NULL,                                 -- immutable: 0 to 1
    iou      REAL NOT NULL,                                 -- immutable: 0 to 1
    hd95     REAL,                                          -- immutable: pixels at 256 x 256; NULL where undefined
    hd95_undefined INTEGER,                                 -- immutable: images that hd95 leaves out; NULL where not told
    PRIMARY KEY (round, site)
) STRICT;

CREATE TABLE published_round (
    round         INTEGER PRIMARY KEY,                      -- immutable
    attempt       INTEGER NOT NULL,                         -- immutable: the attempt that succeeded
    base_model    TEXT NOT NULL,                            -- immutable: model that the round started from
    model         TEXT NOT NULL,                            -- immutable: model that it made
    seconds       REAL NOT NULL,                            -- immutable: running time from first opening to publication
    published_utc TEXT NOT NULL,                            -- immutable
    sites         TEXT NOT NULL                             -- immutable: whose updates are in it, separated by spaces
) STRICT;

CREATE TABLE traffic (
    round      INTEGER NOT NULL,                            -- immutable
    site       TEXT NOT NULL,                               -- immutable
    bytes_up   INTEGER NOT NULL,                            -- payload received from the site
    bytes_down INTEGER NOT NULL,                            -- payload sent to the site
    PRIMARY KEY (round, site)
) STRICT;

CREATE TABLE audit (
    seq       INTEGER PRIMARY KEY,                          -- immutable: 0, 1, 2, ... without gaps
    prev_hash TEXT NOT NULL,                                -- immutable: hash of the record before
    utc       TEXT NOT NULL,                                -- immutable
    actor     TEXT NOT NULL,                                -- immutable: "coordinator" or "site ID"
    event     TEXT NOT NULL,                                -- immutable
    fields    TEXT NOT NULL,                                -- immutable: canonical JSON object
    hash      TEXT NOT NULL                                 -- immutable: SHA-256 over the columns above
) STRICT;

CREATE TRIGGER audit_is_append_only_update BEFORE UPDATE ON audit
BEGIN SELECT RAISE (ABORT, 'audit records are never changed'); END;

CREATE TRIGGER audit_is_append_only_delete BEFORE DELETE ON audit
BEGIN SELECT RAISE (ABORT, 'audit records are never removed'); END;

CREATE TABLE secure_attempt (
    round      INTEGER NOT NULL,                            -- immutable
    attempt    INTEGER NOT NULL,                            -- immutable
    audit_root TEXT NOT NULL,                               -- immutable: head of the audit chain, part of the attempt's context
    PRIMARY KEY (round, attempt)
) STRICT;

CREATE TABLE secure_answer (
    round   INTEGER NOT NULL,                               -- immutable
    attempt INTEGER NOT NULL,                               -- immutable
    step    TEXT NOT NULL,                                  -- immutable: fedmentor.federation.StepName
    site    TEXT NOT NULL,                                  -- immutable: from the certificate's URI SAN
    message BLOB NOT NULL,                                  -- immutable: as the site signed it; removed once its round is over
    PRIMARY KEY (round, attempt, step, site)
) STRICT;

CREATE TABLE checkpoint (
    records   INTEGER PRIMARY KEY,                          -- immutable: length of the audit chain that it covers
    content   BLOB NOT NULL,                                -- immutable: canonical JSON, as signed and sent
    signature BLOB NOT NULL                                 -- immutable: Ed25519, by the coordinator
) STRICT;

CREATE TABLE countersignature (
    records   INTEGER NOT NULL REFERENCES checkpoint,       -- immutable
    site      TEXT NOT NULL,                                -- immutable: from the certificate's URI SAN
    signature BLOB NOT NULL,                                -- immutable: Ed25519, by the site
    PRIMARY KEY (records, site)
) STRICT;

CREATE TRIGGER checkpoint_is_append_only_update BEFORE UPDATE ON checkpoint
BEGIN SELECT RAISE (ABORT, 'checkpoints are never changed'); END;

CREATE TRIGGER checkpoint_is_append_only_delete BEFORE DELETE ON checkpoint
BEGIN SELECT RAISE (ABORT, 'checkpoints are never removed'); END;

CREATE TRIGGER countersignature_is_append_only_update BEFORE UPDATE ON countersignature
BEGIN SELECT RAISE (ABORT, 'countersignatures are never changed'); END;

CREATE TRIGGER countersignature_is_append_only_delete BEFORE DELETE ON countersignature
BEGIN SELECT RAISE (ABORT, 'countersignatures are never removed'); END;

CREATE TABLE site_flag (
    round   INTEGER NOT NULL,                               -- immutable
    attempt INTEGER NOT NULL,                               -- immutable
    site    TEXT NOT NULL,                                  -- immutable: from the certificate's URI SAN
    flag    TEXT NOT NULL,                                  -- immutable: fedmentor.robust.Flag
    PRIMARY KEY (round, attempt, site, flag)
) STRICT;

CREATE TABLE set_aside (
    site  TEXT PRIMARY KEY,                                 -- immutable
    round INTEGER NOT NULL                                  -- immutable: the round that it was set aside in
) STRICT;

CREATE TABLE round_share (
    round   INTEGER NOT NULL,                               -- immutable once the attempt is aggregated
    attempt INTEGER NOT NULL,                               -- the same
    site    TEXT NOT NULL,                                  -- the same
    share   REAL NOT NULL,                                  -- the same: weight in the aggregate where a rule decided on it, 0 to 1
    PRIMARY KEY (round, attempt, site)
) STRICT;

CREATE TABLE candidate_scores (
    round    INTEGER NOT NULL,                              -- immutable: number of the model that the candidate would become
    attempt  INTEGER NOT NULL,                              -- immutable: attempt that made the candidate
    site     TEXT NOT NULL,                                 -- immutable
    model    TEXT NOT NULL,                                 -- immutable: digest of the candidate
    patients INTEGER NOT NULL,                              -- immutable: as in site_scores, like the columns below
    images   INTEGER NOT NULL,                              -- immutable
    dice     REAL NOT NULL,                                 -- immutable
    iou      REAL NOT NULL,                                 -- immutable
    hd95     REAL,                                          -- immutable
    hd95_undefined INTEGER,                                 -- immutable
    PRIMARY KEY (round, attempt, site)
) STRICT;

CREATE TABLE gate_record (
    round     INTEGER NOT NULL,                             -- immutable
    attempt   INTEGER NOT NULL,                             -- immutable
    candidate TEXT NOT NULL,                                -- immutable: digest of the model that the gate looked at
    sites     INTEGER NOT NULL,                             -- immutable: sites that scored both models
    dice_drop REAL NOT NULL,                                -- immutable: median over them
    passed    INTEGER NOT NULL,                             -- immutable: 0 or 1
    PRIMARY KEY (round, attempt)
) STRICT;

CREATE TABLE round_noise (
    round   INTEGER NOT NULL,                               -- immutable
    attempt INTEGER NOT NULL,                               -- immutable
    seed    BLOB NOT NULL,                                  -- immutable: of the attempt's noise; removed when the round is published
    PRIMARY KEY (round, attempt)
) STRICT;
