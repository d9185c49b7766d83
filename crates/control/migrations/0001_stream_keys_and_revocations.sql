-- One set of migrations for SQLite and PostgreSQL: only types and syntax that both take.
-- Times are milliseconds since the Unix epoch.

-- An (app, name) belongs to the tenant that first had a key for it.
CREATE TABLE streams (
    app TEXT NOT NULL,
    name TEXT NOT NULL,
    tenant TEXT NOT NULL,
    PRIMARY KEY (app, name)
);

CREATE TABLE stream_keys (
    id TEXT NOT NULL PRIMARY KEY,
    tenant TEXT NOT NULL,
    app TEXT NOT NULL,
    stream TEXT NOT NULL,
    description TEXT NOT NULL,
    takeover_policy BIGINT NOT NULL,
    -- HMAC-SHA256 of id and secret with the pepper of that version, as 64 hex digits. The secret is nowhere.
    secret_mac TEXT NOT NULL,
    pepper_version BIGINT NOT NULL,
    create_ms BIGINT NOT NULL,
    expire_ms BIGINT,
    revoke_ms BIGINT,
    -- A session was terminated: the key is refused until then.
    held_off_until_ms BIGINT NOT NULL DEFAULT 0,
    FOREIGN KEY (app, stream) REFERENCES streams (app, name)
);

CREATE INDEX stream_keys_by_creation ON stream_keys (tenant, create_ms, id);

-- What every edge must hear of, in order. Exactly one of the two targets is set.
CREATE TABLE revocations (
    position BIGINT NOT NULL PRIMARY KEY,
    create_ms BIGINT NOT NULL,
    stream_key_id TEXT,
    session_id TEXT,
    reason TEXT NOT NULL
);

-- The last position given out. Its one row is locked from the moment a position is taken until the commit, so that
-- positions become visible in their order and without gaps: a reader that has seen n never misses one below n. (A
-- PostgreSQL sequence promises neither.)
CREATE TABLE revocations_head (
    only_row BIGINT NOT NULL PRIMARY KEY CHECK (only_row = 1),
    position BIGINT NOT NULL
);

INSERT INTO revocations_head (only_row, position) VALUES (1, 0);
