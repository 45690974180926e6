"""The tables of the store."""

__all__ = ["FORMAT_VERSION", "SCHEMA"]

FORMAT_VERSION = 1
"""Of the whole data directory; a server of another version refuses it."""

SCHEMA = """
CREATE TABLE sessions (
    session_id TEXT PRIMARY KEY,
    created_at REAL NOT NULL,
    facts BLOB NOT NULL,            -- the create_session document
    finished BLOB                   -- the first finish document
) WITHOUT ROWID;

CREATE TABLE models (
    model_id TEXT PRIMARY KEY,      -- <session_id>:train:<model_seq_id>
    session_id TEXT NOT NULL,
    digest BLOB NOT NULL,           -- of the request that made it
    spec BLOB NOT NULL,             -- ModelSpec as JSON
    live INTEGER NOT NULL,          -- 0 once an unload was accepted
    executed INTEGER NOT NULL,      -- seq_id of the last executed operation; creation is 0
    snapshot INTEGER NOT NULL,      -- seq_id the newest snapshot stands after; -1: none
    numerics TEXT NOT NULL          -- what bit-identical replay depends on
) WITHOUT ROWID;
CREATE INDEX models_of_session ON models(session_id);

CREATE TABLE samplers (
    sampling_session_id TEXT PRIMARY KEY,   -- <session_id>:sample:<n>
    session_id TEXT NOT NULL,
    digest BLOB NOT NULL,
    base_model TEXT NOT NULL,
    path TEXT,                      -- tinker:// path it samples from
    model_id TEXT,                  -- the model of an ephemeral save
    ready INTEGER NOT NULL          -- 0 until an ephemeral save was executed
) WITHOUT ROWID;

CREATE TABLE checkpoints (
    path TEXT PRIMARY KEY,          -- tinker:// path
    created_at REAL NOT NULL,
    request_id TEXT NOT NULL,       -- the save that wrote it
    size_bytes INTEGER NOT NULL,
    facts BLOB NOT NULL             -- ttl_seconds, user_metadata
) WITHOUT ROWID;

CREATE TABLE requests (
    id INTEGER PRIMARY KEY,
    request_id TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    queue TEXT NOT NULL,            -- model_id or sampling_session_id
    seq_id INTEGER,                 -- NULL: stands in no order (unload_model)
    digest BLOB NOT NULL,           -- of the body
    media TEXT NOT NULL,            -- json or protobuf
    body BLOB,                      -- NULL once no replay can need it
    seed INTEGER,                   -- drawn for a sample that named none
    form TEXT,                      -- NULL: pending; output, sample, json, error, expired;
                                    -- refused: its place is free
    result BLOB
);
CREATE UNIQUE INDEX requests_in_order ON requests(queue, seq_id);
CREATE INDEX requests_pending ON requests(id) WHERE form IS NULL;
"""
