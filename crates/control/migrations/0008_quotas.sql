-- How much a tenant may have, or a group of its keys; the group '' is the tenant as a whole. 0: not limited. A tenant
-- without a row of its own has what the configuration says.
CREATE TABLE quotas (
    tenant TEXT NOT NULL,
    quota_group TEXT NOT NULL,
    max_keys BIGINT NOT NULL,
    max_sessions BIGINT NOT NULL,
    max_bitrate_bps BIGINT NOT NULL,
    PRIMARY KEY (tenant, quota_group)
);

-- How many keys that are not revoked there are. Each change of a key takes its rows along, so that their locks decide
-- between creations at the same time; counting anew would be slow where there are many, and decide nothing.
CREATE TABLE key_counts (
    tenant TEXT NOT NULL,
    quota_group TEXT NOT NULL,
    keys BIGINT NOT NULL,
    PRIMARY KEY (tenant, quota_group)
);

INSERT INTO key_counts (tenant, quota_group, keys)
SELECT tenant, '', COUNT(*) FROM stream_keys WHERE revoke_ms IS NULL GROUP BY tenant;
