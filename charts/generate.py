#!/usr/bin/env python3
"""Writes what the charts hold of other files, or, with --check, says what of it is out of date.

- headwater-operator/files: the alerts and dashboards of deploy/monitoring, since a chart reads only its own files
- headwater/values.schema.json: where values mirror a field of IngestCluster, from its definition
- headwater-operator/values.schema.json: from the types of the values
- the tables of values in the READMEs, from the comments of values.yaml
"""

import copy
import json
import pathlib
import re
import sys

import yaml

CHARTS = pathlib.Path(__file__).resolve().parent
MONITORING = CHARTS.parent / "deploy" / "monitoring"
CRD = CHARTS / "headwater-crds" / "files" / "ingestclusters.yaml"

# Parts of IngestCluster's spec that are Kubernetes's own types: the API server knows them, and their schemas would make
# up most of the file.
KUBERNETES = {
    "affinity": "object",
    "extraEnv": "array",
    "extraVolumes": "array",
    "extraVolumeMounts": "array",
    "resources": "object",
    "securityContext": "object",
    "tolerations": "array",
    "topologySpreadConstraints": "array",
    "apiFrom": "array",
    "playbackFrom": "array",
    "metricsFrom": "array",
    "extraEgress": "array",
    "imagePullSecrets": "array",
}

# Objects in the values that hold what their default does not show.
OPEN = {"resources", "podSecurityContext", "containerSecurityContext"}

STRING_MAP = {"type": "object", "additionalProperties": {"type": "string"}}
PULL_POLICY = {"enum": ["Always", "IfNotPresent", "Never"]}
DIGEST = {"type": "string", "pattern": "^$|^sha256:[0-9a-f]{64}$"}
NAME = {"type": "string", "maxLength": 63, "pattern": "^$|^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"}
NAMED = {
    "type": "array",
    "items": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string", "minLength": 1}}},
}

# What the types of the values do not say, by path.
COMMON = {
    "annotations": STRING_MAP,
    "commonLabels": STRING_MAP,
    "global": {"type": "object"},
    "nameOverride": NAME,
    "fullnameOverride": NAME,
    "namespaceOverride": NAME,
    "extraObjects": {"type": "array", "items": {"type": ["object", "string"]}},
    "imagePullSecrets": NAMED,
    "image.pullPolicy": PULL_POLICY,
    "image.digest": DIGEST,
}
OPERATOR = COMMON | {
    "crds": {"type": "object", "required": ["enabled"], "additionalProperties": False, "properties": {"enabled": {"type": "boolean"}}},
    "extraArgs": {"type": "array", "items": {"type": "string"}},
    "extraEnv": NAMED,
    "logging.format": {"enum": ["json", "text"]},
    "networkPolicy.apiServerPorts": {
        "type": "array",
        "items": {"type": "integer", "minimum": 1, "maximum": 65535},
    },
    "nodeSelector": STRING_MAP,
    "podAnnotations": STRING_MAP,
    "podLabels": STRING_MAP,
    "podDisruptionBudget.maxUnavailable": {"type": ["integer", "string"]},
    "monitoring.labels": STRING_MAP,
    "serviceAccount.annotations": STRING_MAP,
    "watchNamespaces": {"type": "array", "items": {"type": "string", "minLength": 1, "maxLength": 63}},
}
APPLICATION = {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*$", "maxLength": 63}
CLUSTER = COMMON | {
    "applications": {
        "type": "array",
        "uniqueItems": True,
        "items": {
            "anyOf": [
                APPLICATION,
                {
                    "type": "object",
                    "required": ["app"],
                    "additionalProperties": False,
                    # The API server knows what is in it.
                    "properties": {"app": APPLICATION, "auth": {"type": "object"}},
                },
            ],
        },
    },
    "fullnameOverride": NAME | {"maxLength": 40},
    "valkey.image.pullPolicy": PULL_POLICY,
    "valkey.image.digest": DIGEST,
    "valkey.command": {"type": "array", "minItems": 1, "items": {"type": "string"}},
    "valkey.nodeSelector": STRING_MAP,
    "valkey.podLabels": STRING_MAP,
    "valkey.podAnnotations": STRING_MAP,
    "test.image.pullPolicy": PULL_POLICY,
    "test.seconds": {"type": "integer", "minimum": 1, "maximum": 600},
    "test.url": {"type": "string", "pattern": "^$|^rtmps://[^/]+$"},
}


def main():
    stale = [path for path, content in files().items() if not write(path, content)]
    if MONITORING.is_dir():
        known = set(files())
        for path in sorted((CHARTS / "headwater-operator" / "files").glob("*/*")):
            if path.name != ".gitkeep" and path not in known:
                stale.append(path)
                if "--check" not in sys.argv:
                    path.unlink()
    for path in stale:
        print(path.relative_to(CHARTS.parent))
    if "--check" in sys.argv and stale:
        sys.exit("out of date: run `make charts`")


def write(path, content):
    """Whether the file was as it should be."""
    if path.exists() and path.read_text() == content:
        return True
    if "--check" not in sys.argv:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return False


def files():
    made = {}
    for kind, suffix in (("alerts", "yaml"), ("dashboards", "json")):
        for path in sorted((MONITORING / kind).glob(f"*.{suffix}")):
            made[CHARTS / "headwater-operator" / "files" / kind / path.name] = path.read_text()
    operator = values("headwater-operator")
    schema = infer(operator, OPERATOR)
    # The dependency, by its own name: its chart checks what is in it.
    schema["properties"]["headwater-crds"] = {"type": "object"}
    made[CHARTS / "headwater-operator" / "values.schema.json"] = as_json("headwater-operator", schema)
    schema = cluster_schema(values("headwater"))
    made[CHARTS / "headwater" / "values.schema.json"] = as_json("headwater", schema)
    for chart in ("headwater-crds", "headwater-operator", "headwater"):
        readme = CHARTS / chart / "README.md"
        made[readme] = with_table(readme.read_text(), chart)
    return made


def values(chart):
    return yaml.safe_load((CHARTS / chart / "values.yaml").read_text())


def as_json(chart, schema):
    head = {"$schema": "http://json-schema.org/draft-07/schema#", "title": f"Values of {chart}"}
    return json.dumps(head | schema, indent=2, sort_keys=True) + "\n"


def infer(value, special, path=""):
    """A closed schema that takes values of the same types."""
    if path in special:
        return special[path]
    if isinstance(value, bool):
        return {"type": "boolean"}
    if isinstance(value, int):
        return {"type": "integer", "minimum": 0}
    if isinstance(value, str):
        return {"type": "string"}
    if isinstance(value, list):
        return {"type": "array"}
    if not value or path.rpartition(".")[2] in OPEN:
        return {"type": "object"}
    properties = {key: infer(inner, special, f"{path}.{key}".lstrip(".")) for key, inner in value.items()}
    return {"type": "object", "additionalProperties": False, "properties": properties}


def cluster_schema(chart_values):
    schema = infer(chart_values, CLUSTER)
    spec = yaml.load(CRD.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))["spec"]["versions"][0]
    mirrored = from_crd("spec", spec["schema"]["openAPIV3Schema"]["properties"]["spec"])["properties"]
    unknown = set(chart_values) - set(mirrored) - set(schema["properties"])
    assert not unknown, unknown
    schema["properties"] |= mirrored
    # Where values say with a word what the definition says with the presence of a field.
    properties = schema["properties"]
    for part in (properties["edge"]["properties"]["autoscaling"], properties["redis"]["properties"]["tls"]):
        part["properties"]["enabled"] = {"type": "boolean"}
        part.pop("required", None)
    properties["tls"]["properties"]["selfSigned"] = {"type": ["boolean", "object"], "additionalProperties": False}
    # With Valkey beside the cluster, its host is known; without, the template says what is missing.
    properties["redis"]["properties"]["standalone"].pop("required", None)
    properties["redis"]["properties"]["standalone"]["properties"]["host"].pop("minLength", None)
    properties["observability"]["properties"]["tracing"].pop("required", None)
    properties["observability"]["properties"]["tracing"]["properties"]["endpoint"].pop("minLength", None)
    for part in ("control", "redis", "tls"):
        properties[part].pop("required", None)
    return schema


def from_crd(name, schema):
    """A structural schema as a closed JSON schema, in which "" and {} stand for what is not given."""
    if name in KUBERNETES:
        return {"type": KUBERNETES[name]}
    kept = {
        key: copy.deepcopy(schema[key])
        for key in ("description", "type", "enum", "minimum", "maximum", "minLength", "maxLength", "maxItems", "pattern")
        if key in schema
    }
    if schema.get("x-kubernetes-int-or-string"):
        kept["type"] = ["integer", "string"]
    for bound in ("minimum", "maximum"):
        if bound in kept:
            kept[bound] = int(kept[bound])
    if schema.get("nullable") and kept.get("type") == "string":
        kept.pop("minLength", None)
        if "pattern" in kept:
            kept["pattern"] = f"^$|{kept['pattern']}"
    if "items" in schema:
        kept["items"] = from_crd("", schema["items"])
    if "properties" in schema:
        kept["properties"] = {key: from_crd(key, inner) for key, inner in schema["properties"].items()}
        kept["additionalProperties"] = False
        # {} leaves an optional object out; what is required of one that is given, the API server says.
        if "required" in schema and not schema.get("nullable"):
            kept["required"] = schema["required"]
    elif "additionalProperties" in schema:
        kept["additionalProperties"] = from_crd("", schema["additionalProperties"])
    if schema.get("nullable") and isinstance(kept.get("type"), str):
        # How a later values file takes out what an earlier one gives.
        kept["type"] = [kept["type"], "null"]
    return kept


def with_table(readme, chart):
    begin, end = "<!-- values: made by `make charts` from values.yaml -->\n", "<!-- /values -->"
    before, found, rest = readme.partition(begin)
    assert found, f"{chart}/README.md has no place for its values"
    return before + begin + table(chart) + end + rest.partition(end)[2]


def table(chart):
    rows = ["| value | default | |", "|---|---|---|"]
    for path, default, comment in described((CHARTS / chart / "values.yaml").read_text(), values(chart)):
        cell = json.dumps(default, ensure_ascii=False).replace("|", "\\|")
        rows.append(f"| `{path}` | `{cell}` | {comment.replace('|', chr(92) + '|')} |")
    return "\n".join(rows) + "\n"


def described(text, tree):
    """Each value with its default and the comment above it. A group's comment is its first value's, where that has none."""
    comment, path = [], []
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("#"):
            comment.append(stripped.lstrip("# "))
            continue
        match = re.match(r"^( *)([A-Za-z][A-Za-z0-9-]*):(.*)$", line)
        if not match:
            comment = []
            continue
        depth = len(match[1]) // 2
        path = path[:depth] + [match[2]]
        default = tree
        for key in path:
            default = default[key]
        group = isinstance(default, dict) and default and match[3].strip() == ""
        if group and path[-1] not in OPEN:
            continue
        if any(part in OPEN for part in path[:-1]):
            continue
        assert comment, f"{'.'.join(path)} has no comment"
        yield ".".join(path), default, " ".join(comment)
        comment = []


main()
