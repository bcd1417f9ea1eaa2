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

{{/* What cannot work together ends here, in a sentence. */}}
{{- define "triptych.check" -}}
{{- $redis := .Values.store.redis -}}
{{- if and (eq .Values.topology "disaggregated") (not $redis.host) -}}
{{- fail "topology disaggregated needs store.redis.host: pods cannot share memory" -}}
{{- end -}}
{{- if and (eq .Values.topology "colocated") $redis.host -}}
{{- fail "topology colocated keeps tensors in each pod's memory; leave store.redis.host empty, or use disaggregated" -}}
{{- end -}}
{{- if and $redis.username (not $redis.existingSecret) -}}
{{- fail "store.redis.username needs store.redis.existingSecret with its password" -}}
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

{{- define "triptych.ranks" -}}
{{- mul .Values.denoiser.ulysses .Values.denoiser.ring .Values.denoiser.cfg -}}
{{- end -}}

{{- define "triptych.storeUrl" -}}
{{- $redis := .Values.store.redis -}}
{{- if eq .Values.topology "colocated" -}}
shm:///dev/shm/triptych
{{- else -}}
{{- $options := list -}}
{{- if $redis.username -}}{{- $options = append $options (printf "username=%s" $redis.username) -}}{{- end -}}
{{- if $redis.existingSecret -}}{{- $options = append $options "password_file=/run/redis/password" -}}{{- end -}}
{{ ternary "rediss" "redis" $redis.tls }}://{{ $redis.host }}:{{ $redis.port }}{{ if $options }}?{{ join "&" $options }}{{ end }}
{{- end -}}
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
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "triptych.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* The addresses of a stage's replicas, as the gateway is told. */}}
{{- define "triptych.targets" -}}
{{- $root := .root -}}{{- $stage := .stage -}}{{- $name := include "triptych.name" $root -}}
{{- $set := ternary "stages" $stage (eq $root.Values.topology "colocated") -}}
{{- $replicas := int (ternary $root.Values.colocated.replicas (index $root.Values $stage "replicas") (eq $root.Values.topology "colocated")) -}}
{{- $scaling := $root.Values.denoiser.autoscaling -}}
{{- if and (eq $stage "denoiser") (ne $scaling.by "none") -}}
{{- $replicas = int $scaling.maxReplicas -}}
{{- end -}}
{{- $port := include "triptych.stagePort" . -}}
{{- $targets := list -}}
{{- range $number := until $replicas -}}
{{- $targets = append $targets (printf "%s-%s-%d.%s-%s:%s" $name $set $number $name $set $port) -}}
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

{{/* One stage's container. */}}
{{- define "triptych.stageContainer" -}}
{{- $root := .root -}}{{- $stage := .stage -}}{{- $values := index $root.Values $stage -}}
{{- $prefix := printf "TRIPTYCH_%s" (upper $stage) -}}{{- $port := include "triptych.stagePort" . -}}
- name: {{ $stage }}
  image: {{ include "triptych.image" (dict "root" $root "image" $root.Values.image.stage) }}
  imagePullPolicy: {{ $root.Values.image.stage.pullPolicy }}
  args: ["{{ $stage }}_service"]
  env:
    - {name: {{ $prefix }}_LISTEN, value: "0.0.0.0:{{ $port }}"}
    - {name: {{ $prefix }}_METRICS_LISTEN, value: "0.0.0.0:{{ include "triptych.metricsPort" . }}"}
    {{- include "triptych.telemetry" (dict "root" $root "prefix" $prefix) | nindent 4 }}
    - {name: {{ $prefix }}_MODEL, value: {{ $root.Values.model.source | quote }}}
    {{- with $root.Values.model.name }}
    - {name: {{ $prefix }}_MODEL_NAME, value: {{ . | quote }}}
    {{- end }}
    {{- with include "triptych.manifest" $root }}
    - {name: {{ $prefix }}_MODEL_MANIFEST, value: {{ . | quote }}}
    {{- end }}
    - {name: {{ $prefix }}_OFFLINE, value: {{ $root.Values.model.offline | quote }}}
    - {name: {{ $prefix }}_DTYPE, value: {{ $root.Values.model.dtype }}}
    - {name: {{ $prefix }}_DEVICE, value: {{ $values.device | quote }}}
    - {name: {{ $prefix }}_THREADS, value: {{ $values.threads | quote }}}
    - {name: {{ $prefix }}_STORE, value: {{ include "triptych.storeUrl" $root | quote }}}
    - {name: {{ $prefix }}_CLUSTER_SECRET_FILE, value: /run/cluster/secret}
    - {name: {{ $prefix }}_DRAIN_SECONDS, value: {{ $root.Values.drainSeconds | quote }}}
    - {name: {{ $prefix }}_REFLECTION, value: "false"}
    {{- if eq $stage "denoiser" }}
    - {name: {{ $prefix }}_ULYSSES, value: {{ $values.ulysses | quote }}}
    - {name: {{ $prefix }}_RING, value: {{ $values.ring | quote }}}
    - {name: {{ $prefix }}_CFG, value: {{ $values.cfg | quote }}}
    {{- end }}
    {{- if $root.Values.model.cacheClaim }}
    - {name: HF_HOME, value: /hub}
    {{- end }}
    {{- range $key, $value := $values.env }}
    - {name: {{ $key }}, value: {{ $value | quote }}}
    {{- end }}
  ports:
    - {name: {{ $stage }}, containerPort: {{ $port }}}
    - {name: {{ $stage }}-metrics, containerPort: {{ include "triptych.metricsPort" . }}}
  startupProbe:
    grpc: {port: {{ $port }}}
    periodSeconds: 10
    failureThreshold: {{ div (add $root.Values.startSeconds 9) 10 }}
  # Not the readiness: a denoiser that rebuilds its ranks is alive.
  livenessProbe:
    tcpSocket: {port: {{ $port }}}
    periodSeconds: 10
    failureThreshold: 3
  readinessProbe:
    grpc: {port: {{ $port }}}
    periodSeconds: 5
  resources:
    {{- toYaml $values.resources | nindent 4 }}
  securityContext:
    {{- include "triptych.containerSecurity" $root | nindent 4 }}
  volumeMounts:
    - {name: cluster-secret, mountPath: /run/cluster, readOnly: true}
    - {name: tmp, mountPath: /tmp}
    - {name: shm, mountPath: /dev/shm}
    {{- if $root.Values.model.existingClaim }}
    - {name: model, mountPath: {{ $root.Values.model.mountPath }}, readOnly: true}
    {{- end }}
    {{- if $root.Values.model.cacheClaim }}
    - {name: hub, mountPath: /hub}
    {{- end }}
    {{- if or $root.Values.model.manifest.configMap $root.Values.model.manifest.secret }}
    - {name: manifest, mountPath: /run/manifest, readOnly: true}
    {{- end }}
    {{- if $root.Values.store.redis.existingSecret }}
    - {name: redis, mountPath: /run/redis, readOnly: true}
    {{- end }}
{{- end -}}

{{- define "triptych.stageVolumes" -}}
- name: cluster-secret
  secret: {secretName: {{ include "triptych.secretName" . }}, defaultMode: 0440}
- {name: tmp, emptyDir: {}}
- name: shm
  emptyDir: {medium: Memory, sizeLimit: {{ .Values.store.shm.sizeLimit }}}
{{- if .Values.model.existingClaim }}
- name: model
  persistentVolumeClaim: {claimName: {{ .Values.model.existingClaim }}, readOnly: true}
{{- end }}
{{- if .Values.model.cacheClaim }}
- name: hub
  persistentVolumeClaim: {claimName: {{ .Values.model.cacheClaim }}}
{{- end }}
{{- with .Values.model.manifest.configMap }}
- name: manifest
  configMap: {name: {{ . }}}
{{- end }}
{{- with .Values.model.manifest.secret }}
- name: manifest
  secret: {secretName: {{ . }}, defaultMode: 0440}
{{- end }}
{{- if .Values.store.redis.existingSecret }}
- name: redis
  secret: {secretName: {{ .Values.store.redis.existingSecret }}, defaultMode: 0440}
{{- end }}
{{- end -}}
