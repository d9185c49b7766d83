-- What publishers may do beside the rest: see policy.rs. JSON.
ALTER TABLE stream_keys ADD COLUMN policy TEXT NOT NULL DEFAULT '{}';
-- Counts the changes: the etag.
ALTER TABLE stream_keys ADD COLUMN version BIGINT NOT NULL DEFAULT 1;
ALTER TABLE stream_keys ADD COLUMN update_ms BIGINT;
-- The secret before the last rotation, good until then.
ALTER TABLE stream_keys ADD COLUMN previous_mac TEXT;
ALTER TABLE stream_keys ADD COLUMN previous_pepper_version BIGINT;
ALTER TABLE stream_keys ADD COLUMN previous_until_ms BIGINT;

-- A revocation that ends nothing: the key's sessions go on under other terms (JSON). NULL: the target ends.
ALTER TABLE revocations ADD COLUMN change TEXT;
