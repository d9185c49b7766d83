-- What is looked at every few seconds, and what is forgotten every hour, without a look at everything else.
CREATE INDEX told_sessions_open ON told_sessions (session_id) WHERE end_ms IS NULL;

CREATE INDEX deliveries_dead ON deliveries (position) WHERE dead_ms IS NOT NULL;
