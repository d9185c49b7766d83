-- What happened, in order: written in the transaction of the change itself, read by watchers and by deliveries.
CREATE TABLE events (
    position BIGINT NOT NULL PRIMARY KEY,
    -- Unique: what is reported twice stands here once.
    id TEXT NOT NULL UNIQUE,
    create_ms BIGINT NOT NULL,
    tenant TEXT NOT NULL,
    app TEXT NOT NULL,
    -- As headwater.v1.EventType.
    type BIGINT NOT NULL,
    -- A serialized headwater.v1.SessionEvent or KeyEvent, by the type, as hex digits.
    subject TEXT NOT NULL
);

CREATE INDEX events_by_time ON events (create_ms);

-- As revocations_head: positions become visible in their order and without gaps.
CREATE TABLE events_head (
    only_row BIGINT NOT NULL PRIMARY KEY CHECK (only_row = 1),
    position BIGINT NOT NULL
);

INSERT INTO events_head (only_row, position) VALUES (1, 0);

-- The sessions that events have told of: each starts once and ends once, whoever says so. Those that ended are kept for a
-- day, since edges report again what was not answered.
CREATE TABLE told_sessions (
    session_id TEXT NOT NULL PRIMARY KEY,
    start_ms BIGINT NOT NULL,
    -- NULL: live.
    end_ms BIGINT,
    -- As it started: a serialized headwater.v1.SessionEvent as hex digits.
    subject TEXT NOT NULL
);

CREATE INDEX told_sessions_by_end ON told_sessions (end_ms);

CREATE TABLE webhooks (
    id TEXT NOT NULL PRIMARY KEY,
    tenant TEXT NOT NULL,
    url TEXT NOT NULL,
    -- As headwater.v1.EventType, parted by commas. Empty: every type.
    types TEXT NOT NULL,
    description TEXT NOT NULL,
    -- What signs deliveries, encrypted with the pepper of that version: as stream_keys.adobe_sealed.
    secret_sealed TEXT NOT NULL,
    pepper_version BIGINT NOT NULL,
    create_ms BIGINT NOT NULL,
    -- Every event up to here was delivered, or stands in deliveries.
    position BIGINT NOT NULL,
    -- The control process that delivers, and until when it may without saying so again.
    holder TEXT NOT NULL DEFAULT '',
    held_until_ms BIGINT NOT NULL DEFAULT 0,
    -- The receiver said that it is gone.
    disable_ms BIGINT,
    last_error TEXT NOT NULL DEFAULT '',
    last_success_ms BIGINT
);

CREATE INDEX webhooks_by_creation ON webhooks (tenant, create_ms, id);

-- Events on their way to a webhook. A row goes when its event was delivered.
CREATE TABLE deliveries (
    webhook_id TEXT NOT NULL,
    -- Of the event.
    position BIGINT NOT NULL,
    -- Deliveries of one lane keep their order.
    lane BIGINT NOT NULL,
    create_ms BIGINT NOT NULL,
    attempts BIGINT NOT NULL DEFAULT 0,
    next_ms BIGINT NOT NULL,
    -- Given up then.
    dead_ms BIGINT,
    last_error TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (webhook_id, position)
);
