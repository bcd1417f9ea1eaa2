{{/* Of pods with a model: root, component, placement, containers. */}}
{{- define "triptych.podTemplate" -}}
{{- $root := .root -}}
metadata:
  labels:
    {{- include "triptych.selector" $root | nindent 4 }}
    app.kubernetes.io/component: {{ .component }}
  {{- with $root.Values.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ add (mul (ternary 2 1 (eq $root.Values.topology "colocated")) $root.Values.drainSeconds) 10 }}
  securityContext:
    {{- include "triptych.podSecurity" $root | nindent 4 }}
  {{- with $root.Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    {{- .containers | nindent 4 }}
  volumes:
    {{- include "triptych.stageVolumes" $root | nindent 4 }}
  {{- with .placement.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .placement.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .placement.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}

{{/* What every process with a model is told: root, stage, prefix. */}}
{{- define "triptych.modelEnvironment" -}}
{{- $root := .root -}}{{- $values := index $root.Values .stage -}}{{- $prefix := .prefix -}}
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
{{- if eq .stage "denoiser" }}
- {name: {{ $prefix }}_ULYSSES, value: {{ $values.ulysses | quote }}}
- {name: {{ $prefix }}_RING, value: {{ $values.ring | quote }}}
- {name: {{ $prefix }}_CFG, value: {{ $values.cfg | quote }}}
{{- end }}
{{- if $root.Values.model.cacheClaim }}
- {name: HF_HOME, value: /hub}
{{- end }}
{{- if $root.Values.model.tokenSecret }}
- {name: HF_TOKEN_PATH, value: /run/hub/token}
{{- end }}
{{- range $key, $value := $values.env }}
- {name: {{ $key }}, value: {{ $value | quote }}}
{{- end }}
{{- end -}}

{{/* One stage's container: root, stage. Of a group of pods the denoiser's leads the ranks of others. */}}
{{- define "triptych.stageContainer" -}}
{{- $root := .root -}}{{- $stage := .stage -}}{{- $values := index $root.Values $stage -}}
{{- $prefix := printf "TRIPTYCH_%s" (upper $stage) -}}{{- $port := include "triptych.stagePort" . -}}
{{- $leads := and (eq $stage "denoiser") (gt (int $root.Values.denoiser.nodes) 1) -}}
- name: {{ $stage }}
  image: {{ include "triptych.image" (dict "root" $root "image" $root.Values.image.stage) }}
  imagePullPolicy: {{ $root.Values.image.stage.pullPolicy }}
  args: ["{{ $stage }}_service"]
  env:
    - {name: {{ $prefix }}_LISTEN, value: "0.0.0.0:{{ $port }}"}
    - {name: {{ $prefix }}_METRICS_LISTEN, value: "0.0.0.0:{{ include "triptych.metricsPort" . }}"}
    {{- include "triptych.telemetry" (dict "root" $root "prefix" $prefix) | nindent 4 }}
    - {name: {{ $prefix }}_DRAIN_SECONDS, value: {{ $root.Values.drainSeconds | quote }}}
    - {name: {{ $prefix }}_REFLECTION, value: "false"}
    {{- if eq $stage "denoiser" }}
    - {name: {{ $prefix }}_RANK_START_SECONDS, value: {{ $root.Values.startSeconds | quote }}}
    {{- end }}
    {{- if $leads }}
    - {name: {{ $prefix }}_RANK_LISTEN, value: "0.0.0.0:{{ include "triptych.rankPort" . }}"}
    {{- end }}
    {{- include "triptych.modelEnvironment" (dict "root" $root "stage" $stage "prefix" $prefix) | nindent 4 }}
  ports:
    - {name: {{ $stage }}, containerPort: {{ $port }}}
    - {name: {{ $stage }}-metrics, containerPort: {{ include "triptych.metricsPort" . }}}
  startupProbe:
    grpc: {port: {{ $port }}}
    periodSeconds: 10
    failureThreshold: {{ div (add $root.Values.startSeconds 9) 10 }}
  # Not the readiness: a denoiser that rebuilds its ranks is alive. One whose event loop stands still is not.
  livenessProbe:
    grpc: {port: {{ $port }}, service: live}
    periodSeconds: 10
    timeoutSeconds: 10
    failureThreshold: 3
  readinessProbe:
    grpc: {port: {{ $port }}}
    periodSeconds: 5
  {{- if and (eq $stage "vae") (eq $root.Values.topology "colocated") }}
  # All of a pod's containers are told to end at once; what the denoiser finishes is still to be decoded.
  {{- include "triptych.stayForDrain" $root | nindent 2 }}
  {{- end }}
  resources:
    {{- toYaml (ternary $root.Values.denoiser.leaderWorkerSet.supervisorResources $values.resources $leads) | nindent 4 }}
  {{- include "triptych.stageAccess" $root | nindent 2 }}
{{- end -}}

{{/* The ranks of one pod of a group, under torchrun: root, leads (whether it is the first pod). */}}
{{- define "triptych.ranksContainer" -}}
{{- $root := .root -}}{{- $values := $root.Values.denoiser -}}
- name: ranks
  image: {{ include "triptych.image" (dict "root" $root "image" $root.Values.image.stage) }}
  imagePullPolicy: {{ $root.Values.image.stage.pullPolicy }}
  # The variables are the LeaderWorkerSet's. A group whose ranks were lost meets again at the first pod.
  args:
    - torch.distributed.run
    - --nnodes=$(LWS_GROUP_SIZE)
    - --nproc-per-node={{ include "triptych.ranksPerPod" $root }}
    - --rdzv-backend=c10d
    - --rdzv-endpoint=$(LWS_LEADER_ADDRESS):{{ include "triptych.rendezvousPort" . }}
    - --rdzv-conf=is_host={{ .leads }},join_timeout={{ $root.Values.startSeconds }}
    - --rdzv-id={{ include "triptych.name" $root }}
    - --local-addr=$(POD_IP)
    - --max-restarts=1000000
    - -m
    - denoiser_service.rank
  env:
    - {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    # What an earlier attempt left behind is not to be found by the next.
    - {name: TORCH_DISABLE_SHARE_RDZV_TCP_STORE, value: "1"}
    - {name: TRIPTYCH_RANK_SUPERVISOR, value: "$(LWS_LEADER_ADDRESS):{{ include "triptych.rankPort" . }}"}
    {{- with $root.Values.telemetry.otlpEndpoint }}
    - {name: TRIPTYCH_RANK_OTLP_ENDPOINT, value: {{ . | quote }}}
    {{- end }}
    {{- include "triptych.modelEnvironment" (dict "root" $root "stage" "denoiser" "prefix" "TRIPTYCH_RANK") | nindent 4 }}
  # All pods of a group are told to end at once; the denoiser still needs its ranks to finish what runs.
  {{- include "triptych.stayForDrain" $root | nindent 2 }}
  resources:
    {{- toYaml $values.resources | nindent 4 }}
  {{- include "triptych.stageAccess" $root | nindent 2 }}
{{- end -}}

{{/* For a container that others need while they finish what runs. */}}
{{- define "triptych.stayForDrain" -}}
lifecycle:
  preStop: {exec: {command: [python, -c, "import time; time.sleep({{ .Values.drainSeconds }})"]}}
{{- end -}}

{{/* What a container of a stage's pod may do, and see of its volumes. */}}
{{- define "triptych.stageAccess" -}}
securityContext:
  {{- include "triptych.containerSecurity" . | nindent 2 }}
volumeMounts:
  - {name: cluster-secret, mountPath: /run/cluster, readOnly: true}
  - {name: tmp, mountPath: /tmp}
  - {name: shm, mountPath: /dev/shm}
  {{- if .Values.model.existingClaim }}
  - {name: model, mountPath: {{ .Values.model.mountPath }}, readOnly: true}
  {{- end }}
  {{- if .Values.model.cacheClaim }}
  - {name: hub, mountPath: /hub}
  {{- end }}
  {{- if .Values.model.tokenSecret }}
  - {name: hub-token, mountPath: /run/hub, readOnly: true}
  {{- end }}
  {{- if or .Values.model.manifest.configMap .Values.model.manifest.secret }}
  - {name: manifest, mountPath: /run/manifest, readOnly: true}
  {{- end }}
  {{- if .Values.store.redis.existingSecret }}
  - {name: redis, mountPath: /run/redis, readOnly: true}
  {{- end }}
  {{- if .Values.store.redis.caSecret }}
  - {name: redis-ca, mountPath: /run/redis-ca, readOnly: true}
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
{{- with .Values.model.tokenSecret }}
- name: hub-token
  secret: {secretName: {{ . }}, defaultMode: 0440}
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
{{- with .Values.store.redis.caSecret }}
- name: redis-ca
  secret: {secretName: {{ . }}, defaultMode: 0440}
{{- end }}
{{- end -}}
