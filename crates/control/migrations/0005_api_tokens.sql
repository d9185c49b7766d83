-- Who may call the public API. A token itself is not here: see access.rs.
CREATE TABLE api_tokens (
    id TEXT NOT NULL PRIMARY KEY,
    -- `*`: every tenant.
    tenant TEXT NOT NULL,
    description TEXT NOT NULL,
    -- Parted by spaces; `*`: all of them.
    scopes TEXT NOT NULL,
    -- SHA-256, as hex digits.
    secret_hash TEXT NOT NULL,
    -- Of the token before the last rotation, good until then.
    previous_hash TEXT,
    previous_until_ms BIGINT,
    -- Who made it.
    creator TEXT NOT NULL,
    create_ms BIGINT NOT NULL,
    expire_ms BIGINT,
    revoke_ms BIGINT,
    -- To the hour.
    last_use_ms BIGINT
);

CREATE INDEX api_tokens_by_tenant ON api_tokens (tenant, create_ms, id);
