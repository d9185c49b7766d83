#!/usr/bin/env python3
"""Writes the Grafana dashboards beside this file (`dashboards/*.json`) from the description below.

A panel is `(title, unit, {legend: expression})`; `$S` in an expression stands for the selector of the chosen clusters,
`$P` for that and the chosen pods, `$N` for the chosen namespaces alone. `--check` writes nothing and fails where a file is not what would be written.
"""

import json
import pathlib
import sys

CLUSTER = 'namespace=~"$namespace",ingest_cluster=~"$ingest_cluster"'
NAMESPACE = 'namespace=~"$namespace"'
POD = CLUSTER + ',pod=~"$pod"'
DIRECTORY = pathlib.Path(__file__).parent / "dashboards"
COLUMNS, HEIGHT = 24, 8


def quantiles(metric, by="ingest_cluster", selector="$S"):
    """The usual three, of a histogram."""
    rate = f"sum by ({by}, le) (rate({metric}_bucket{{{selector}}}[$__rate_interval]))"
    return {
        f"p{percent} {{{{{by}}}}}": f"histogram_quantile({percent / 100}, {rate})"
        for percent in (50, 95, 99)
    }


def rate(metric, by, selector="$S"):
    return f"sum by ({by}) (rate({metric}{{{selector}}}[$__rate_interval]))"


def total(metric, by, selector="$S"):
    return f"sum by ({by}) ({metric}{{{selector}}})"


NOT_OURS = "app_not_found|held_off|key_not_accepted|already_publishing|aborted|kicked"

# File name: title, the role whose pods can be chosen (or None), rows of panels.
DASHBOARDS = {
    "headwater-fleet": ("Headwater / Fleet", None, {
        "Objectives": [
            ("Publish failures (objective 0.1 %)", "percentunit", {
                "5 m {{ingest_cluster}}": "ingest_cluster:headwater_publish_failures:ratio_rate5m{$S}",
                "6 h {{ingest_cluster}}": "ingest_cluster:headwater_publish_failures:ratio_rate6h{$S}",
                "3 d {{ingest_cluster}}": "ingest_cluster:headwater_publish_failures:ratio_rate3d{$S}",
            }),
            ("Publishes slower than 1.5 s (objective 1 %)", "percentunit", {
                "5 m {{ingest_cluster}}": "ingest_cluster:headwater_publish_start_slow:ratio_rate5m{$S}",
                "6 h {{ingest_cluster}}": "ingest_cluster:headwater_publish_start_slow:ratio_rate6h{$S}",
                "3 d {{ingest_cluster}}": "ingest_cluster:headwater_publish_start_slow:ratio_rate3d{$S}",
            }),
            ("Control errors (0.05 %) and slow calls (1 %)", "percentunit", {
                "errors {{ingest_cluster}}": "ingest_cluster:headwater_control_errors:ratio_rate1h{$S}",
                "slow {{ingest_cluster}}": "ingest_cluster:headwater_control_slow:ratio_rate1h{$S}",
            }),
        ],
        "Burn rate of the error budget, 1 is just sustainable": [
            ("Publish success", "short", {
                "1 h {{ingest_cluster}}": "ingest_cluster:headwater_publish_failures:ratio_rate1h{$S} / 0.001",
                "6 h {{ingest_cluster}}": "ingest_cluster:headwater_publish_failures:ratio_rate6h{$S} / 0.001",
            }),
            ("Publish start", "short", {
                "1 h {{ingest_cluster}}": "ingest_cluster:headwater_publish_start_slow:ratio_rate1h{$S} / 0.01",
                "6 h {{ingest_cluster}}": "ingest_cluster:headwater_publish_start_slow:ratio_rate6h{$S} / 0.01",
            }),
            ("Control", "short", {
                "1 h {{ingest_cluster}}": "ingest_cluster:headwater_control_errors:ratio_rate1h{$S} / 0.0005",
                "6 h {{ingest_cluster}}": "ingest_cluster:headwater_control_errors:ratio_rate6h{$S} / 0.0005",
            }),
        ],
        "Traffic": [
            ("Live sessions", "short", {
                "{{ingest_cluster}} {{app}}": total("headwater_publishers_active", "ingest_cluster, app"),
            }),
            ("Media in", "bps", {
                "{{ingest_cluster}}": "8 * " + rate("headwater_received_bytes_total", "ingest_cluster"),
            }),
            ("Media out", "bps", {
                "{{ingest_cluster}} {{output}}": "8 * " + rate("headwater_origin_sent_bytes_total", "ingest_cluster, output"),
            }),
        ],
        "Publishes": [
            ("Attempts", "reqps", {
                "{{ingest_cluster}} {{outcome}}": rate("headwater_publish_attempts_total", "ingest_cluster, outcome"),
            }),
            ("Refused for reasons of ours", "reqps", {
                "{{ingest_cluster}} {{reason}}": rate(
                    "headwater_publish_attempts_total", "ingest_cluster, reason",
                    f'$S,outcome="refused",reason!~"{NOT_OURS}"'),
            }),
            ("Sessions ended", "reqps", {
                "{{ingest_cluster}} {{reason}}": rate("headwater_sessions_ended_total", "ingest_cluster, reason"),
            }),
        ],
        "Processes": [
            ("Processes by tier and version", "short", {
                "{{ingest_cluster}} {{role}} {{version}}": "count by (ingest_cluster, role, version) (headwater_build_info{$S})",
            }),
            ("Edges by drain phase", "short", {
                "{{ingest_cluster}} serving": "count by (ingest_cluster) (headwater_edge_drain_phase{$S} == 0)",
                "{{ingest_cluster}} leaving": "count by (ingest_cluster) (headwater_edge_drain_phase{$S} > 0)",
            }),
            ("Certificates and revocation lists: time left", "s", {
                "{{ingest_cluster}} {{role}} {{certificate}}":
                    "min by (ingest_cluster, role, certificate) (headwater_certificate_not_after_timestamp_seconds{$S}) - time()",
                "{{ingest_cluster}} list {{list}}":
                    "min by (ingest_cluster, list) (headwater_revocation_list_next_update_timestamp_seconds{$S}) - time()",
            }),
            ("Live configuration", "short", {
                "{{ingest_cluster}} {{role}} {{outcome}}":
                    "sum by (ingest_cluster, role, outcome) (increase(headwater_config_reloads_total{$S}[1h]))",
            }),
            ("Spans", "short", {
                "exported {{ingest_cluster}}": rate("headwater_spans_exported_total", "ingest_cluster"),
                "dropped {{ingest_cluster}} {{reason}}": rate("headwater_spans_dropped_total", "ingest_cluster, reason"),
            }),
        ],
    }),
    "headwater-edge": ("Headwater / Edge", "headwater_connections_active", {
        "Connections": [
            ("Connections", "short", {"{{pod}}": total("headwater_connections_active", "pod", "$P")}),
            ("Accepted", "reqps", {"{{pod}}": rate("headwater_connections_accepted_total", "pod", "$P")}),
            ("Rejected", "reqps", {"{{reason}}": rate("headwater_connections_rejected_total", "reason", "$P")}),
            ("TLS handshakes", "reqps", {
                "{{outcome}}": rate("headwater_tls_handshake_duration_seconds_count", "outcome", "$P"),
            }),
            ("TLS handshake time", "s", quantiles("headwater_tls_handshake_duration_seconds", "outcome", "$P")),
        ],
        "Publishes": [
            ("Publish start", "s", quantiles("headwater_publish_start_duration_seconds", "pod", "$P")),
            ("Refused", "reqps", {
                "{{reason}}": rate("headwater_publish_attempts_total", "reason", '$P,outcome="refused"'),
            }),
            ("Live sessions", "short", {"{{pod}}": total("headwater_publishers_active", "pod", "$P")}),
            ("Sessions ended", "reqps", {"{{reason}}": rate("headwater_sessions_ended_total", "reason", "$P")}),
            ("Length of sessions, mean over 1 h", "s", {
                "{{pod}}": "sum by (pod) (rate(headwater_session_duration_seconds_sum{$P}[1h]))"
                           " / sum by (pod) (rate(headwater_session_duration_seconds_count{$P}[1h]))",
            }),
        ],
        "Relay to the origins": [
            ("Bytes in", "bps", {"{{pod}}": "8 * " + rate("headwater_received_bytes_total", "pod", "$P")}),
            ("Bytes to origins", "bps", {"{{pod}}": "8 * " + rate("headwater_forwarded_bytes_total", "pod", "$P")}),
            ("Replay rings, share of the limit", "percentunit", {
                "{{pod}}": "max by (pod) (headwater_forward_queue_bytes{$P} / headwater_forward_queue_limit_bytes{$P})",
            }),
            ("Searches for another origin", "reqps", {
                "{{reason}} {{outcome}}": rate("headwater_relay_reopens_total", "reason, outcome", "$P"),
            }),
            ("Groups of pictures too large to replay; jumps of timestamps", "reqps", {
                "not replayable {{pod}}": rate("headwater_replay_not_replayable_total", "pod", "$P"),
                "jumps {{pod}}": rate("headwater_timestamp_discontinuities_total", "pod", "$P"),
            }),
        ],
        "Drain": [
            ("Phase: 0 serving, 1 noticed, 2 draining, 3 empty", "short", {
                "{{pod}}": "max by (pod) (headwater_edge_drain_phase{$P})",
            }),
            ("Encoders asked to connect elsewhere", "reqps", {
                "{{pod}} {{outcome}}": rate("headwater_reconnect_requests_total", "pod, outcome", "$P"),
            }),
            ("Sessions that drains wait for", "short", {
                "{{pod}}": "max by (pod) (headwater_drain_remaining_sessions{$P})",
            }),
            ("How sessions ended", "short", {
                "{{pod}} {{reason}}": "sum by (pod, reason) (increase(headwater_sessions_ended_total{$P}[10m]))",
            }),
        ],
    }),
    "headwater-ownership": ("Headwater / Ownership & Redis", None, {
        "Ownership": [
            ("Claims", "reqps", {
                "{{ingest_cluster}} {{outcome}}": rate("headwater_ownership_claims_total", "ingest_cluster, outcome"),
            }),
            ("Renewals", "reqps", {
                "{{ingest_cluster}} {{outcome}}": rate("headwater_ownership_renewals_total", "ingest_cluster, outcome"),
            }),
            ("Fenced", "reqps", {
                "sessions {{ingest_cluster}}": rate("headwater_ownership_fenced_total", "ingest_cluster"),
                "at origins {{ingest_cluster}}": rate("headwater_origin_epoch_rejections_total", "ingest_cluster"),
            }),
        ],
        "Redis": [
            ("Commands", "reqps", {
                "{{command}} {{outcome}}": rate(
                    "headwater_redis_command_duration_seconds_count", "command, outcome"),
            }),
            ("Time of commands that succeed", "s", quantiles(
                "headwater_redis_command_duration_seconds", "command", '$S,outcome="ok"')),
            ("Failed commands, share", "percentunit", {
                "{{ingest_cluster}} {{role}}":
                    "sum by (ingest_cluster, role) (rate(headwater_redis_command_duration_seconds_count"
                    '{$S,outcome=~"timeout|unavailable"}[$__rate_interval]))'
                    " / sum by (ingest_cluster, role) (rate(headwater_redis_command_duration_seconds_count{$S}[$__rate_interval]))",
            }),
            ("Reconnects", "short", {
                "{{ingest_cluster}} {{role}} {{cause}}":
                    "sum by (ingest_cluster, role, cause) (increase(headwater_redis_reconnects_total{$S}[10m]))",
            }),
            ("Claims without a replica", "short", {
                "{{ingest_cluster}}":
                    "sum by (ingest_cluster) (increase(headwater_redis_unreplicated_claims_total{$S}[10m]))",
            }),
            ("Clock of Redis", "s", {
                "ahead {{ingest_cluster}}": "max by (ingest_cluster) (headwater_redis_clock_skew_seconds{$S})",
                "behind {{ingest_cluster}}": "min by (ingest_cluster) (headwater_redis_clock_skew_seconds{$S})",
            }),
        ],
        "Stream keys and their revocation": [
            ("Stream keys checked", "reqps", {
                "{{outcome}} {{source}}": rate("headwater_key_checks_total", "outcome, source"),
            }),
            ("Revocation to log tail", "s", quantiles("headwater_key_revocation_propagation_seconds")),
            ("Edges that watch revocations", "short", {
                "watches {{ingest_cluster}}": total("headwater_revocation_watches", "ingest_cluster"),
                "edges {{ingest_cluster}}": "count by (ingest_cluster) (headwater_connections_active{$S})",
            }),
            ("Watches opened again", "reqps", {
                "{{ingest_cluster}}": rate("headwater_revocation_watch_restarts_total", "ingest_cluster"),
            }),
            ("API actions", "reqps", {
                "{{action}}": rate("headwater_admin_actions_total", "action"),
            }),
            ("Calls to control", "reqps", {
                "{{method}} {{code}}": rate("headwater_rpc_server_duration_seconds_count", "method, code"),
            }),
            ("Time of calls to control", "s", quantiles("headwater_rpc_server_duration_seconds", "method")),
        ],
    }),
    "headwater-origin": ("Headwater / Origin", "headwater_origin_streams_active", {
        "Streams": [
            ("Streams", "short", {"{{pod}}": total("headwater_origin_streams_active", "pod", "$P")}),
            ("Publish RPCs", "short", {"{{pod}}": total("headwater_origin_publishers_active", "pod", "$P")}),
            ("Opens", "reqps", {"{{outcome}}": rate("headwater_origin_opens_total", "outcome", "$P")}),
            ("Stale publishes refused", "reqps", {
                "{{pod}}": rate("headwater_origin_epoch_rejections_total", "pod", "$P"),
            }),
            ("From the loss of a publisher to the next", "s", quantiles("headwater_origin_splice_gap_seconds", "pod", "$P")),
        ],
        "Media": [
            ("Bytes in", "bps", {"{{pod}}": "8 * " + rate("headwater_origin_received_bytes_total", "pod", "$P")}),
            ("Bytes out", "bps", {
                "{{pod}} {{output}}": "8 * " + rate("headwater_origin_sent_bytes_total", "pod, output", "$P"),
            }),
            ("Memory, share of the limit", "percentunit", {
                "{{pod}}": "max by (pod) (headwater_origin_budget_used_bytes{$P} / headwater_origin_budget_limit_bytes{$P})",
            }),
            ("Repeated frames", "reqps", {"{{pod}}": rate("headwater_origin_duplicate_frames_total", "pod", "$P")}),
        ],
        "Readers": [
            ("Readers", "short", {
                "{{pod}} {{output}}": total("headwater_origin_subscribers_active", "pod, output", "$P"),
            }),
            ("Readers that wait for a stream", "short", {
                "{{pod}}": total("headwater_origin_subscribers_waiting", "pod", "$P"),
            }),
            ("Gaps", "reqps", {"{{pod}} {{output}}": rate("headwater_origin_gaps_total", "pod, output", "$P")}),
        ],
        "Streams of other origins": [
            ("Streams that are followed", "short", {
                "{{pod}}": total("headwater_origin_followed_streams_active", "pod", "$P"),
            }),
            ("Searches for an owner", "reqps", {
                "{{outcome}}": rate("headwater_origin_follow_opens_total", "outcome", "$P"),
            }),
            ("From the loss of an owner to the next", "s", quantiles(
                "headwater_origin_follow_switch_seconds", "pod", "$P")),
        ],
    }),
    "headwater-operator": ("Headwater / Operator", None, {
        "Passes": [
            ("Passes over objects", "reqps", {"{{kind}} {{outcome}}": rate(
                "headwater_operator_reconciles_total", "kind, outcome", "$N")}),
            ("Time of a pass", "s", quantiles("headwater_operator_reconcile_duration_seconds", "kind", "$N")),
            ("Failed passes", "short", {
                "{{kind}}": 'sum by (kind) (increase(headwater_operator_reconciles_total{$N,outcome="error"}[15m]))',
            }),
        ],
        "Kubernetes": [
            ("Writes a minute", "short", {
                "{{kind}} {{verb}}": "60 * " + rate("headwater_operator_api_writes_total", "kind, verb", "$N"),
            }),
            ("Watches begun again", "short", {
                "{{kind}}": "sum by (kind) (increase(headwater_operator_watch_errors_total{$N}[15m]))",
            }),
            ("Leader", "short", {"{{pod}}": total("headwater_operator_leader", "pod", "$N")}),
        ],
        "What it looks after": [
            ("Versions that run", "short", {
                "{{namespace}}/{{ingest_cluster}} {{role}} {{version}}":
                    'count by (namespace, ingest_cluster, role, version) (headwater_build_info{ingest_cluster!=""})',
            }),
            ("Edges by revision", "short", {
                "{{namespace}}/{{ingest_cluster}} {{revision}}":
                    'count by (namespace, ingest_cluster, revision) (headwater_build_info{role="edge"})',
            }),
            ("Certificates: days left", "d", {
                "{{namespace}}/{{ingest_cluster}} {{role}} {{certificate}}":
                    "min by (namespace, ingest_cluster, role, certificate) "
                    "(headwater_certificate_not_after_timestamp_seconds - time()) / 86400",
            }),
        ],
    }),
}


def dashboard(uid, title, pod_metric, rows):
    variables = [
        {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"},
        variable("namespace", "Namespace", "label_values(headwater_build_info, namespace)"),
        variable("ingest_cluster", "Cluster",
                 'label_values(headwater_build_info{namespace=~"$namespace"}, ingest_cluster)'),
    ]
    if uid == "headwater-operator":
        variables[1:] = [variable("namespace", "Namespace", "label_values(headwater_operator_leader, namespace)")]
    if pod_metric:
        variables.append(variable("pod", "Pod", f"label_values({pod_metric}{{{CLUSTER}}}, pod)"))
    panels, identifier, y = [], 0, 0
    for row, members in rows.items():
        identifier += 1
        panels.append({"id": identifier, "type": "row", "title": row, "collapsed": False, "panels": [],
                       "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1}})
        y += 1
        width = COLUMNS // min(len(members), 3)
        for index, (name, unit, expressions) in enumerate(members):
            identifier += 1
            place = {"x": index % 3 * width, "y": y + index // 3 * HEIGHT, "w": width, "h": HEIGHT}
            panels.append(panel(identifier, name, unit, expressions, place))
        y += (len(members) + 2) // 3 * HEIGHT
    return {
        "uid": uid, "id": None, "title": title, "tags": ["headwater"], "schemaVersion": 39, "version": 1,
        "editable": True, "graphTooltip": 1, "refresh": "30s", "time": {"from": "now-6h", "to": "now"},
        "timezone": "browser", "annotations": {"list": []}, "templating": {"list": variables}, "panels": panels,
        "links": [{"type": "dashboards", "title": "Headwater", "tags": ["headwater"], "asDropdown": True,
                   "includeVars": True, "keepTime": True}],
    }


def variable(name, label, query):
    return {"name": name, "label": label, "type": "query", "datasource": source(), "definition": query,
            "query": {"query": query, "refId": name}, "refresh": 2, "sort": 1, "multi": True, "includeAll": True,
            "allValue": ".*", "current": {"text": "All", "value": "$__all"}}


def panel(identifier, title, unit, expressions, place):
    targets = [
        {"refId": chr(ord("A") + index), "datasource": source(), "legendFormat": legend,
         "expr": expression.replace("$P", POD).replace("$S", CLUSTER).replace("$N", NAMESPACE)}
        for index, (legend, expression) in enumerate(expressions.items())
    ]
    return {
        "id": identifier, "type": "timeseries", "title": title, "datasource": source(), "gridPos": place,
        "targets": targets,
        "fieldConfig": {"defaults": {"unit": unit, "min": 0, "custom": {"fillOpacity": 10, "showPoints": "never"}},
                        "overrides": []},
        "options": {"legend": {"displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull", "max"]},
                    "tooltip": {"mode": "multi", "sort": "desc"}},
    }


def source():
    return {"type": "prometheus", "uid": "${datasource}"}


def main():
    made = {f"{uid}.json": json.dumps(dashboard(uid, *rest), indent=1) + "\n" for uid, rest in DASHBOARDS.items()}
    if "--check" in sys.argv:
        found = {path.name: path.read_text() for path in DIRECTORY.glob("*.json")}
        wrong = [name for name in sorted(made.keys() | found.keys()) if made.get(name) != found.get(name)]
        if wrong:
            sys.exit(f"not what deploy/monitoring/dashboards.py makes (`make dashboards`): {', '.join(wrong)}")
        return
    DIRECTORY.mkdir(exist_ok=True)
    for name, text in made.items():
        (DIRECTORY / name).write_text(text)


main()
