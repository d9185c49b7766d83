{{/* The name of the chart's parts. */}}
{{- define "headwater.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* The cluster's name: at most 40 characters, since the operator makes the names of its objects from it. */}}
{{- define "headwater.fullname" -}}
{{- $name := .Values.fullnameOverride -}}
{{- if not $name -}}
{{- $base := include "headwater.name" . -}}
{{- $name = ternary .Release.Name (printf "%s-%s" .Release.Name $base) (contains $base .Release.Name) -}}
{{- end -}}
{{- if gt (len $name) 40 -}}
{{- fail (printf "the cluster's name %q is longer than 40 characters: set fullnameOverride" $name) -}}
{{- end -}}
{{- $name -}}
{{- end -}}

{{- define "headwater.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride -}}
{{- end -}}

{{/* Of a part: dict "root" $ "component" "valkey". */}}
{{- define "headwater.selectorLabels" -}}
app.kubernetes.io/name: {{ include "headwater.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "headwater.labels" -}}
{{- $own := include "headwater.selectorLabels" . | fromYaml -}}
{{- $chart := printf "%s-%s" .root.Chart.Name (.root.Chart.Version | replace "+" "_") -}}
{{- $own = merge $own (dict
  "app.kubernetes.io/managed-by" .root.Release.Service
  "app.kubernetes.io/part-of" "headwater"
  "helm.sh/chart" $chart
) -}}
{{- merge $own .root.Values.commonLabels | toYaml -}}
{{- end -}}

{{/* repository:tag or repository@digest. dict "root" $ "image" {registry, repository, tag, digest}. */}}
{{- define "headwater.image" -}}
{{- $registry := default (.root.Values.global).imageRegistry .image.registry -}}
{{- $repository := .image.repository -}}
{{- if $registry -}}
{{- $repository = printf "%s/%s" $registry $repository -}}
{{- end -}}
{{- if .image.digest -}}
{{- printf "%s@%s" $repository .image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository .image.tag -}}
{{- end -}}
{{- end -}}

{{/*
A part of the values without what is empty, so that the definition's defaults hold: "", {}, [] and null are left out. What
belongs to Kubernetes itself (an affinity, a list) stays as it is: {} has a meaning there.
*/}}
{{- define "headwater.given" -}}
{{- $given := dict -}}
{{- range $key, $value := . -}}
{{- if kindIs "invalid" $value -}}
{{- else if has $key (list "securityContext" "topologySpreadConstraints" "webhookPorts") -}}
{{- $_ := set $given $key $value -}}
{{- else if and (kindIs "map" $value) (ne $key "affinity") -}}
{{- $inner := include "headwater.given" $value | fromYaml -}}
{{- if $inner -}}
{{- $_ := set $given $key $inner -}}
{{- end -}}
{{- else if or $value (kindIs "bool" $value) (kindIs "float64" $value) (kindIs "int64" $value) (kindIs "int" $value) -}}
{{- $_ := set $given $key $value -}}
{{- end -}}
{{- end -}}
{{- toYaml $given -}}
{{- end -}}

{{/* extraEnv of a podTemplate, each name once: a later one replaces an earlier one where that stands. */}}
{{- define "headwater.podTemplate" -}}
{{- $template := include "headwater.given" . | fromYaml -}}
{{- with $template.extraEnv -}}
{{- $byName := dict -}}
{{- $names := list -}}
{{- range . -}}
{{- if not (hasKey $byName .name) -}}
{{- $names = append $names .name -}}
{{- end -}}
{{- $_ := set $byName .name . -}}
{{- end -}}
{{- $env := list -}}
{{- range $names -}}
{{- $env = append $env (get $byName .) -}}
{{- end -}}
{{- $_ := set $template "extraEnv" $env -}}
{{- end -}}
{{- toYaml $template -}}
{{- end -}}

{{- define "headwater.edge" -}}
{{- $edge := omit .Values.edge "autoscaling" "podTemplate" -}}
{{- if .Values.edge.autoscaling.enabled -}}
{{- /* The autoscaler's: rendered, every upgrade would fight it. */ -}}
{{- $edge = omit $edge "replicas" -}}
{{- end -}}
{{- $edge = include "headwater.given" $edge | fromYaml -}}
{{- if .Values.edge.autoscaling.enabled -}}
{{- $_ := set $edge "autoscaling" (omit .Values.edge.autoscaling "enabled") -}}
{{- end -}}
{{- with include "headwater.podTemplate" .Values.edge.podTemplate | fromYaml -}}
{{- $_ := set $edge "podTemplate" . -}}
{{- end -}}
{{- toYaml $edge -}}
{{- end -}}

{{- define "headwater.origin" -}}
{{- $origin := include "headwater.given" (omit .Values.origin "podTemplate") | fromYaml -}}
{{- with include "headwater.podTemplate" .Values.origin.podTemplate | fromYaml -}}
{{- $_ := set $origin "podTemplate" . -}}
{{- end -}}
{{- toYaml $origin -}}
{{- end -}}

{{- define "headwater.control" -}}
{{- $control := include "headwater.given" (omit .Values.control "podTemplate" "database") | fromYaml -}}
{{- with include "headwater.podTemplate" .Values.control.podTemplate | fromYaml -}}
{{- $_ := set $control "podTemplate" . -}}
{{- end -}}
{{- $database := .Values.control.database -}}
{{- $sqlite := and (hasKey $database "sqlite") (not (kindIs "invalid" $database.sqlite)) -}}
{{- $postgres := and (hasKey $database "postgres") $database.postgres -}}
{{- if and $sqlite $postgres -}}
{{- fail "control.database: give one of sqlite and postgres; the other is taken out of a values file by null (--set control.database.sqlite=null)" -}}
{{- else if $sqlite -}}
{{- if gt (int .Values.control.replicas) 1 -}}
{{- fail "control.replicas: SQLite is one process's; set control.replicas=1, or use control.database.postgres" -}}
{{- end -}}
{{- $_ := set $control "database" (dict "sqlite" $database.sqlite) -}}
{{- else if $postgres -}}
{{- $_ := set $control "database" (dict "postgres" (include "headwater.given" $postgres | fromYaml)) -}}
{{- else -}}
{{- fail "control.database: give postgres (url, passwordSecretRef) or, to try things out, sqlite ({}); values-quickstart.yaml and values-production.yaml show both" -}}
{{- end -}}
{{- toYaml $control -}}
{{- end -}}

{{- define "headwater.redis" -}}
{{- $redis := include "headwater.given" (omit .Values.redis "standalone" "tls") | fromYaml -}}
{{- $host := .Values.redis.standalone.host -}}
{{- if or $redis.sentinel $redis.cluster -}}
{{- if or $host (and $redis.sentinel $redis.cluster) -}}
{{- fail "redis: give one of standalone.host, sentinel and cluster; a host of another values file is taken out by --set redis.standalone.host=" -}}
{{- end -}}
{{- else -}}
{{- if not $host -}}
{{- if not .Values.valkey.enabled -}}
{{- fail "redis.standalone.host is not given: where is Redis? To try things out, valkey.enabled=true brings one" -}}
{{- end -}}
{{- $host = printf "%s-valkey.%s.svc" (include "headwater.fullname" .) (include "headwater.namespace" .) -}}
{{- end -}}
{{- $_ := set $redis "standalone" (dict "host" $host "port" .Values.redis.standalone.port) -}}
{{- end -}}
{{- if .Values.redis.tls.enabled -}}
{{- $_ := set $redis "tls" (include "headwater.given" (omit .Values.redis.tls "enabled") | fromYaml) -}}
{{- else if .Values.redis.tls.caSecretRef -}}
{{- fail "redis.tls.caSecretRef is given, and redis.tls.enabled is not true" -}}
{{- else if .Values.redis.tls.certificateSecretName -}}
{{- fail "redis.tls.certificateSecretName is given, and redis.tls.enabled is not true" -}}
{{- end -}}
{{- toYaml $redis -}}
{{- end -}}

{{- define "headwater.tls" -}}
{{- $tls := include "headwater.given" (omit .Values.tls "selfSigned") | fromYaml -}}
{{- if or (kindIs "map" .Values.tls.selfSigned) (eq (toString .Values.tls.selfSigned) "true") -}}
{{- $_ := set $tls "selfSigned" dict -}}
{{- end -}}
{{- $given := keys (pick $tls "secretName" "issuerRef" "selfSigned") | sortAlpha -}}
{{- if ne (len $given) 1 -}}
{{- fail (printf "tls: exactly one of secretName, issuerRef and selfSigned has to be given, not %s" (ternary (join " and " $given) "none" (gt (len $given) 0))) -}}
{{- end -}}
{{- if and $tls.issuerRef (not $tls.dnsNames) -}}
{{- fail "tls.issuerRef needs tls.dnsNames: what the certificate is for" -}}
{{- end -}}
{{- toYaml $tls -}}
{{- end -}}

{{/* What of the values is IngestCluster's spec. */}}
{{- define "headwater.spec" -}}
{{- $plain := include "headwater.given" (pick .Values "version" "image" "imagePullSecrets" "internalTls" "networkPolicy" "logging" "deletionPolicy") | fromYaml -}}
{{- if .Values.paused -}}
{{- $_ := set $plain "paused" true -}}
{{- end -}}
{{- if and (.Values.global).imageRegistry .Values.image.repository -}}
{{- $_ := set $plain.image "repository" (printf "%s/%s" .Values.global.imageRegistry .Values.image.repository) -}}
{{- end -}}
{{- $observability := .Values.observability -}}
{{- if not $observability.tracing.endpoint -}}
{{- $observability = omit $observability "tracing" -}}
{{- end -}}
{{- with include "headwater.given" $observability | fromYaml -}}
{{- $_ := set $plain "observability" . -}}
{{- end -}}
{{- range $part := list "edge" "origin" "control" "redis" "tls" -}}
{{- $_ := set $plain $part (include (printf "headwater.%s" $part) $ | fromYaml) -}}
{{- end -}}
{{- toYaml $plain -}}
{{- end -}}

{{/* The app of one of applications: a name, or {app, auth}. */}}
{{- define "headwater.app" -}}
{{- if kindIs "map" . }}{{ .app }}{{ else }}{{ . }}{{ end -}}
{{- end -}}

{{/* An IngestApplication's name. Applications are case-sensitive and take dots and underscores, names do not. */}}
{{- define "headwater.applicationName" -}}
{{- $plain := regexReplaceAll "[^a-z0-9-]+" (lower .app) "-" | trimSuffix "-" -}}
{{- if ne $plain .app -}}
{{- $plain = printf "%s-%s" $plain (sha256sum .app | trunc 8) -}}
{{- end -}}
{{- printf "%s-%s" (include "headwater.fullname" .root) $plain -}}
{{- end -}}
