{{- define "operator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "operator.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "operator.name" . -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "operator.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride -}}
{{- end -}}

{{/* For objects of the whole cluster: two releases of one name in two namespaces must not share them. */}}
{{- define "operator.clusterName" -}}
{{- printf "%s-%s" (include "operator.namespace" .) (include "operator.fullname" .) -}}
{{- end -}}

{{- define "operator.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "operator.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* The name is not the user's to choose: by it, the NetworkPolicies of clusters admit the operator. */}}
{{- define "operator.selectorLabels" -}}
app.kubernetes.io/name: headwater-operator
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "operator.labels" -}}
{{- $own := include "operator.selectorLabels" . | fromYaml -}}
{{- $own = merge $own (dict
  "app.kubernetes.io/version" .Chart.AppVersion
  "app.kubernetes.io/managed-by" .Release.Service
  "app.kubernetes.io/part-of" "headwater"
  "helm.sh/chart" (printf "%s-%s" .Chart.Name (.Chart.Version | replace "+" "_"))
) -}}
{{- merge $own .Values.commonLabels | toYaml -}}
{{- end -}}

{{- define "operator.imageRepository" -}}
{{- $registry := default .Values.global.imageRegistry .Values.image.registry -}}
{{- with $registry }}{{ . }}/{{ end }}{{ .Values.image.repository -}}
{{- end -}}

{{- define "operator.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" (include "operator.imageRepository" .) .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" (include "operator.imageRepository" .) (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{/* Namespaces whose clusters are run, as a list; empty where all are. */}}
{{- define "operator.watched" -}}
{{- if .Values.watchAllNamespaces -}}
[]
{{- else -}}
{{- default (list (include "operator.namespace" .)) .Values.watchNamespaces | uniq | toJson -}}
{{- end -}}
{{- end -}}

{{/*
The environment: the chart's own, then extraEnv, which replaces what is there by the same name. A name twice is an error
with server-side apply.
*/}}
{{- define "operator.env" -}}
{{- $own := list
  (dict "name" "HEADWATER_IMAGE_REPOSITORY" "value" (include "operator.imageRepository" .))
  (dict "name" "HEADWATER_TRUST_DOMAIN" "value" .Values.trustDomain)
  (dict "name" "HEADWATER_CLUSTER_DOMAIN" "value" .Values.clusterDomain)
  (dict "name" "HEADWATER_LEASE_NAMESPACE" "value" (include "operator.namespace" .))
  (dict "name" "HEADWATER_LOG_FILTER" "value" .Values.logging.filter)
  (dict "name" "HEADWATER_LOG_FORMAT" "value" .Values.logging.format)
-}}
{{- if .Values.watchAllNamespaces -}}
{{- $own = append $own (dict "name" "HEADWATER_ALL_NAMESPACES" "value" "true") -}}
{{- else -}}
{{- $own = append $own (dict "name" "HEADWATER_WATCH_NAMESPACE" "value" (include "operator.watched" . | fromJsonArray | join ",")) -}}
{{- end -}}
{{- $byName := dict -}}
{{- $names := list -}}
{{- range concat $own .Values.extraEnv -}}
{{- if not (hasKey $byName .name) -}}
{{- $names = append $names .name -}}
{{- end -}}
{{- $_ := set $byName .name . -}}
{{- end -}}
{{- $env := list -}}
{{- range $names -}}
{{- $env = append $env (get $byName .) -}}
{{- end -}}
{{- toYaml $env -}}
{{- end -}}

{{/*
What the operator does in a namespace that it watches: nothing that it does not use. Applying what is not there yet is a
patch that needs create too. What is never deleted by a change of a cluster is by an upgrade: what the older version made
and the newer one does not.
*/}}
{{- define "operator.rules" -}}
- apiGroups: [headwater.dev]
  resources: [ingestclusters]
  # patch: the finalizer, and the first number of edges of a cluster with an autoscaler
  verbs: [get, list, watch, patch]
- apiGroups: [headwater.dev]
  resources: [ingestclusters/status, ingestapplications/status]
  verbs: [patch]
- apiGroups: [headwater.dev]
  # ownerReferences with blockOwnerDeletion, where OwnerReferencesPermissionEnforcement is on
  resources: [ingestclusters/finalizers]
  verbs: [update]
- apiGroups: [headwater.dev]
  resources: [ingestapplications]
  verbs: [get, list, watch]
- apiGroups: [""]
  resources: [configmaps, serviceaccounts, services]
  verbs: [list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [list, create, patch, delete]
- apiGroups: [""]
  # Listed and watched by label, metadata alone; read by name.
  resources: [secrets]
  verbs: [get, list, watch, create, update, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
- apiGroups: [apps]
  resources: [deployments, statefulsets]
  verbs: [list, watch, create, patch, delete]
- apiGroups: [apps]
  resources: [controllerrevisions, replicasets]
  verbs: [list]
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: [list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [list, watch, create, patch, delete]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [list, watch]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
- apiGroups: [cert-manager.io]
  resources: [certificates]
  verbs: [list, create, patch, delete]
- apiGroups: [monitoring.coreos.com]
  resources: [podmonitors]
  verbs: [list, create, patch, delete]
{{- end -}}

{{- define "operator.subject" -}}
- kind: ServiceAccount
  name: {{ include "operator.serviceAccount" . }}
  namespace: {{ include "operator.namespace" . }}
{{- end -}}
