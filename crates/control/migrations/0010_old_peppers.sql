-- What the ids of credentials that are no rows of ours are made with, encrypted with the pepper of that version: as
-- stream_keys.adobe_sealed. The same for ever, whatever becomes of the pepper.
CREATE TABLE credential_key (
    only_row BIGINT NOT NULL PRIMARY KEY CHECK (only_row = 1),
    sealed TEXT NOT NULL,
    pepper_version BIGINT NOT NULL
);

-- What still needs an old pepper, and what of it can be written anew without its publisher.
CREATE INDEX stream_keys_by_pepper ON stream_keys (pepper_version) WHERE revoke_ms IS NULL;
CREATE INDEX stream_keys_with_password ON stream_keys (pepper_version, id) WHERE revoke_ms IS NULL AND adobe_sealed IS NOT NULL;
CREATE INDEX stream_keys_with_previous ON stream_keys (previous_until_ms) WHERE previous_until_ms IS NOT NULL;
