{{- define "heed.fullname" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 53 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 53 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "heed.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "heed.labels" -}}
{{ include "heed.selector" . }}
app.kubernetes.io/component: attention-server
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "heed.confined" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- define "heed.resources" -}}
{{- $limits := deepCopy .Values.resources.limits }}
{{- if and .Values.gpu.enabled (not (hasKey $limits "nvidia.com/gpu")) }}{{ $_ := set $limits "nvidia.com/gpu" "1" }}{{ end -}}
requests: {{- toYaml .Values.resources.requests | nindent 2 }}
limits: {{- toYaml $limits | nindent 2 }}
{{- end }}
