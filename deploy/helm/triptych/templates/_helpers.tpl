{{- define "triptych.name" -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "triptych.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "triptych.labels" -}}
{{ include "triptych.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{- define "triptych.image" -}}
{{ .image.repository }}:{{ .image.tag | default .root.Chart.AppVersion }}
{{- end -}}

{{- define "triptych.secretName" -}}
{{- .Values.clusterSecret.existingSecret | default (printf "%s-cluster" (include "triptych.name" .)) -}}
{{- end -}}

{{/* Of the server that keeps jobs: the chart's own, or yours; nothing if yours asks for none. */}}
{{- define "triptych.ledgerSecretName" -}}
{{- if eq .Values.jobs.keptIn "valkey" -}}
{{- .Values.jobs.valkey.existingSecret | default (printf "%s-ledger" (include "triptych.name" .)) -}}
{{- else if eq .Values.jobs.keptIn "external" -}}
{{- .Values.jobs.external.existingSecret -}}
{{- end -}}
{{- end -}}

{{- define "triptych.ledgerPort" -}}6379{{- end -}}

{{/* What is answered to is on the volume, and nothing is ever evicted: a full server refuses. */}}
{{- define "triptych.ledgerOptions" -}}
--dir /data --save '' --appendonly yes --appendfsync always --maxmemory {{ .Values.jobs.valkey.maxMemory }} --maxmemory-policy noeviction
{{- end -}}

{{/* What cannot work together ends here, in a sentence. */}}
{{- define "triptych.check" -}}
{{- $redis := .Values.store.redis -}}
{{- if and (eq .Values.topology "disaggregated") (not $redis.host) -}}
{{- fail "topology disaggregated needs store.redis.host: pods cannot share memory" -}}
{{- end -}}
{{- if and (eq .Values.topology "colocated") $redis.host -}}
{{- fail "topology colocated keeps tensors in each pod's memory; leave store.redis.host empty, or use disaggregated" -}}
{{- end -}}
{{- include "triptych.checkServer" (dict "server" $redis "name" "store.redis") -}}
{{- include "triptych.checkJobs" . -}}
{{- if not (or (hasPrefix "/" .Values.model.source) .Values.model.cacheClaim) -}}
{{- fail (printf "model.source is %s, a repository of the hub, and model.cacheClaim is empty, where what is fetched would be kept; allowed is also a directory, by its full path" .Values.model.source) -}}
{{- end -}}
{{- $manifest := .Values.model.manifest -}}
{{- if gt (len (compact (list $manifest.configMap $manifest.secret $manifest.path))) 1 -}}
{{- fail "model.manifest: configMap, secret and path exclude one another" -}}
{{- end -}}
{{- if and $manifest.path (not (and .Values.model.existingClaim (hasPrefix (printf "%s/" .Values.model.mountPath) $manifest.path))) -}}
{{- fail (printf "model.manifest.path is %s; allowed is a file of the volume model.existingClaim, inside %s" $manifest.path .Values.model.mountPath) -}}
{{- end -}}
{{- $ranks := include "triptych.ranks" . | int -}}
{{- if and (gt $ranks 1) (contains ":" .Values.denoiser.device) -}}
{{- fail (printf "denoiser: %d ranks need a device without a number, such as cuda: each rank takes the next" $ranks) -}}
{{- end -}}
{{- include "triptych.checkNodes" . -}}
{{- $scaling := .Values.denoiser.autoscaling -}}
{{- if ne $scaling.by "none" -}}
{{- if eq .Values.topology "colocated" -}}
{{- fail "denoiser.autoscaling has no effect in a colocated cluster, whose pods hold all stages; use disaggregated" -}}
{{- end -}}
{{- if lt (int $scaling.maxReplicas) (int .Values.denoiser.replicas) -}}
{{- fail (printf "denoiser.autoscaling.maxReplicas is %d; denoiser.replicas, the least, is %d" (int $scaling.maxReplicas) (int .Values.denoiser.replicas)) -}}
{{- end -}}
{{- if and (eq $scaling.by "keda") (not $scaling.prometheusAddress) -}}
{{- fail "denoiser.autoscaling by keda needs prometheusAddress: KEDA asks a Prometheus for the backlog" -}}
{{- end -}}
{{- end -}}
{{- if eq .Values.topology "colocated" -}}
{{- range $stage := list "encoder" "denoiser" "vae" -}}
{{- if ne (int (index $.Values $stage "replicas")) 1 -}}
{{- fail (printf "%s.replicas has no effect in a colocated cluster; set colocated.replicas" $stage) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* A server of yours: server, name (of its values). */}}
{{- define "triptych.checkServer" -}}
{{- $server := .server -}}
{{- if or (eq $server.host "localhost" "::1") (hasPrefix "127." $server.host) -}}
{{- fail (printf "%s.host is %s, where each pod reaches only itself; allowed is a host that all pods reach" .name $server.host) -}}
{{- end -}}
{{- if and $server.username (not $server.existingSecret) -}}
{{- fail (printf "%s.username needs %s.existingSecret with its password" .name .name) -}}
{{- end -}}
{{- if and $server.caSecret (not $server.tls) -}}
{{- fail (printf "%s.caSecret has no effect without %s.tls" .name .name) -}}
{{- end -}}
{{- end -}}

{{- define "triptych.checkJobs" -}}
{{- $jobs := .Values.jobs -}}{{- $artifacts := .Values.gateway.artifacts -}}
{{- if and (eq $jobs.keptIn "memory") (gt (int .Values.gateway.replicas) 1) -}}
{{- fail (printf "gateway.replicas is %d and jobs.keptIn is memory, where each gateway knows its own jobs alone; allowed is one gateway, or jobs.keptIn valkey or external" (int .Values.gateway.replicas)) -}}
{{- end -}}
{{- if and (ne $jobs.keptIn "memory") (hasPrefix "memory:" $artifacts.url) -}}
{{- fail (printf "jobs.keptIn is %s and gateway.artifacts.url is %s, where what jobs drew ends with a gateway and no other one finds it; allowed is a directory of a claim, or s3:" $jobs.keptIn $artifacts.url) -}}
{{- end -}}
{{- if and (eq $jobs.keptIn "external") (not $jobs.external.host) -}}
{{- fail "jobs.keptIn external needs jobs.external.host" -}}
{{- end -}}
{{- if and (ne $jobs.keptIn "external") $jobs.external.host -}}
{{- fail (printf "jobs.external.host has no effect with jobs.keptIn %s; set that to external" $jobs.keptIn) -}}
{{- end -}}
{{- if and (eq .Values.topology "disaggregated") (eq $jobs.external.host .Values.store.redis.host) (eq (int $jobs.external.port) (int .Values.store.redis.port)) -}}
{{- fail (printf "jobs.external and store.redis are one server, %s; the one has to keep all it is told on its disk, and the other nothing" $jobs.external.host) -}}
{{- end -}}
{{- include "triptych.checkServer" (dict "server" $jobs.external "name" "jobs.external") -}}
{{- end -}}

{{- define "triptych.checkNodes" -}}
{{- $ranks := include "triptych.ranks" . | int -}}{{- $nodes := int .Values.denoiser.nodes -}}
{{- if and (include "triptych.grouped" .) (eq .Values.topology "colocated") -}}
{{- fail (printf "denoiser.nodes is %d; a colocated cluster keeps tensors in each pod's memory, which no other pod reaches: allowed is 1, or use disaggregated" $nodes) -}}
{{- end -}}
{{- if mod $ranks $nodes -}}
{{- fail (printf "denoiser.nodes is %d; the %d ranks (ulysses x ring x cfg) cannot be spread over so many pods in equal numbers" $nodes $ranks) -}}
{{- end -}}
{{- $gpus := get (.Values.denoiser.resources.limits | default dict) "nvidia.com/gpu" -}}
{{- $own := include "triptych.ranksPerPod" . | int -}}
{{- if and $gpus (lt (int $gpus) $own) -}}
{{- fail (printf "denoiser.resources.limits: nvidia.com/gpu is %d; a pod has %d ranks, each with a GPU of its own" (int $gpus) $own) -}}
{{- end -}}
{{- end -}}

{{- define "triptych.ranks" -}}
{{- mul .Values.denoiser.ulysses .Values.denoiser.ring .Values.denoiser.cfg -}}
{{- end -}}

{{- define "triptych.ranksPerPod" -}}
{{- div (include "triptych.ranks" .) .Values.denoiser.nodes -}}
{{- end -}}

{{/* Whether a replica of the denoiser is a group of pods; nothing if it is one. */}}
{{- define "triptych.grouped" -}}
{{- if gt (int .Values.denoiser.nodes) 1 -}}true{{- end -}}
{{- end -}}

{{- define "triptych.storeUrl" -}}
{{- if eq .Values.topology "colocated" -}}
shm:///dev/shm/triptych
{{- else -}}
{{ include "triptych.serverUrl" (dict "server" .Values.store.redis "mount" "/run/redis") }}
{{- end -}}
{{- end -}}

{{- define "triptych.jobsUrl" -}}
{{- if eq .Values.jobs.keptIn "memory" -}}
memory:
{{- else if eq .Values.jobs.keptIn "valkey" -}}
{{- $host := include "triptych.setName" (dict "root" . "component" "ledger") -}}
{{- $own := dict "host" $host "port" (include "triptych.ledgerPort" .) "existingSecret" "made" -}}
{{ include "triptych.serverUrl" (dict "server" $own "mount" "/run/ledger") }}
{{- else -}}
{{- $fsync := printf "fsync=%s" .Values.jobs.external.fsync -}}
{{ include "triptych.serverUrl" (dict "server" .Values.jobs.external "mount" "/run/ledger" "options" (list $fsync)) }}
{{- end -}}
{{- end -}}

{{/* Of a Redis or Valkey server: server, mount (of its secrets), options. */}}
{{- define "triptych.serverUrl" -}}
{{- $server := .server -}}{{- $options := .options | default list -}}
{{- if $server.username -}}{{- $options = append $options (printf "username=%s" $server.username) -}}{{- end -}}
{{- if $server.existingSecret -}}{{- $options = append $options (printf "password_file=%s/password" .mount) -}}{{- end -}}
{{- if $server.caSecret -}}{{- $options = append $options (printf "ca_file=%s-ca/ca.crt" .mount) -}}{{- end -}}
{{ ternary "rediss" "redis" ($server.tls | default false) }}://{{ $server.host }}:{{ $server.port }}{{ if $options }}?{{ join "&" $options }}{{ end }}
{{- end -}}

{{/* Where the model's manifest is; nothing if there is none. */}}
{{- define "triptych.manifest" -}}
{{- $manifest := .Values.model.manifest -}}
{{- ternary "/run/manifest/model.sha256" $manifest.path (not (and (empty $manifest.configMap) (empty $manifest.secret))) -}}
{{- end -}}

{{- define "triptych.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
# Or each start would go through all files of the hub's cache.
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "triptych.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* The name of what makes a component's pods, and of their service: root, component. A group's own is
another, since its controller makes a StatefulSet of that name, which Helm would not take over. */}}
{{- define "triptych.setName" -}}
{{- include "triptych.name" .root }}-{{ .component }}
{{- if and (eq .component "denoiser") (include "triptych.grouped" .root) -}}-group{{- end -}}
{{- end -}}

{{/* The addresses of a stage's replicas, as the gateway is told. */}}
{{- define "triptych.targets" -}}
{{- $root := .root -}}{{- $stage := .stage -}}
{{- $name := include "triptych.setName" (dict "root" $root "component" (ternary "stages" $stage (eq $root.Values.topology "colocated"))) -}}
{{- $replicas := int (ternary $root.Values.colocated.replicas (index $root.Values $stage "replicas") (eq $root.Values.topology "colocated")) -}}
{{- $scaling := $root.Values.denoiser.autoscaling -}}
{{- if and (eq $stage "denoiser") (ne $scaling.by "none") -}}
{{- $replicas = int $scaling.maxReplicas -}}
{{- end -}}
{{- $port := include "triptych.stagePort" . -}}
{{- $targets := list -}}
{{- range $number := until $replicas -}}
{{- $targets = append $targets (printf "%s-%d.%s:%s" $name $number $name $port) -}}
{{- end -}}
{{- $targets | toJson -}}
{{- end -}}

{{- define "triptych.stagePort" -}}
{{- index (dict "encoder" 7851 "denoiser" 7852 "vae" 7853) .stage -}}
{{- end -}}

{{- define "triptych.metricsPort" -}}
{{- if eq .root.Values.topology "colocated" -}}
{{- add .root.Values.metrics.port (index (dict "encoder" 1 "denoiser" 2 "vae" 3) .stage) -}}
{{- else -}}
{{- .root.Values.metrics.port -}}
{{- end -}}
{{- end -}}

{{/* Where a process pushes what it measures. */}}
{{- define "triptych.telemetry" -}}
{{- with .root.Values.telemetry.otlpEndpoint -}}
- {name: {{ $.prefix }}_OTLP_ENDPOINT, value: {{ . | quote }}}
- {name: {{ $.prefix }}_TRACE_RATIO, value: {{ $.root.Values.telemetry.traceRatio | quote }}}
{{- end -}}
{{- end -}}

{{/* Of the first pod of a group: where ranks connect to their denoiser, and where they find one another. */}}
{{- define "triptych.rankPort" -}}7900{{- end -}}
{{- define "triptych.rendezvousPort" -}}7901{{- end -}}
