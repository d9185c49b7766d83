-- The client certificate that a key is bound to, as `dns:…`, `uri:…`, `email:…` or `sha256:…`; NULL: bound to none.
ALTER TABLE stream_keys ADD COLUMN client_certificate TEXT;
