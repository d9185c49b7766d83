-- Credentials that are no rows of ours (signed keys, what a webhook allowed), refused for their lifetime or for a while.
CREATE TABLE refused_credentials (
    -- As in a grant: jti:… or webhook:….
    id TEXT NOT NULL PRIMARY KEY,
    -- Forgotten then.
    until_ms BIGINT NOT NULL,
    -- 1: revoked. 0: held off after a termination.
    revoked BIGINT NOT NULL
);

CREATE INDEX refused_credentials_until_ms ON refused_credentials (until_ms);
