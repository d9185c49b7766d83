-- What publishers may do beside the rest: see policy.rs. JSON.
ALTER TABLE stream_keys ADD COLUMN policy TEXT NOT NULL DEFAULT '{}';
-- As in the policy, for listings by state.
ALTER TABLE stream_keys ADD COLUMN not_before_ms BIGINT;
-- A JSON object, as whoever reads the key gets it; stream_key_labels has the same, to be found by.
ALTER TABLE stream_keys ADD COLUMN labels TEXT NOT NULL DEFAULT '{}';
-- Counts the changes: the etag.
ALTER TABLE stream_keys ADD COLUMN version BIGINT NOT NULL DEFAULT 1;
ALTER TABLE stream_keys ADD COLUMN update_ms BIGINT;
-- The secret before the last rotation, good until then.
ALTER TABLE stream_keys ADD COLUMN previous_mac TEXT;
ALTER TABLE stream_keys ADD COLUMN previous_pepper_version BIGINT;
ALTER TABLE stream_keys ADD COLUMN previous_adobe_sealed TEXT;
ALTER TABLE stream_keys ADD COLUMN previous_until_ms BIGINT;

-- Listings of all tenants, and of one stream.
CREATE INDEX stream_keys_of_all ON stream_keys (create_ms, id);
CREATE INDEX stream_keys_by_stream ON stream_keys (app, stream);

CREATE TABLE stream_key_labels (
    stream_key_id TEXT NOT NULL REFERENCES stream_keys (id) ON DELETE CASCADE,
    label TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (stream_key_id, label)
);

CREATE INDEX stream_key_labels_by_value ON stream_key_labels (label, value, stream_key_id);

-- Requests that must not do twice what they did: a request sent again within a day is answered from here.
CREATE TABLE requests (
    tenant TEXT NOT NULL,
    request_id TEXT NOT NULL,
    -- SHA-256 of what was asked for, as hex digits.
    fingerprint TEXT NOT NULL,
    stream_key_id TEXT NOT NULL,
    -- The stream key that was answered, encrypted with the pepper of that version: 12 bytes nonce, ciphertext, 16 bytes
    -- tag, as hex digits. Gone with the row, within an hour of its expiry.
    sealed_key TEXT NOT NULL,
    pepper_version BIGINT NOT NULL,
    expire_ms BIGINT NOT NULL,
    PRIMARY KEY (tenant, request_id)
);

CREATE INDEX requests_by_expiry ON requests (expire_ms);

-- A revocation that ends nothing: the key's sessions go on under other terms (JSON). NULL: the target ends.
ALTER TABLE revocations ADD COLUMN change TEXT;
