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

-- As revocations_head: positions become visible in their order and without gaps.
CREATE TABLE events_head (
    only_row BIGINT NOT NULL PRIMARY KEY CHECK (only_row = 1),
    position BIGINT NOT NULL
);

INSERT INTO events_head (only_row, position) VALUES (1, 0);
