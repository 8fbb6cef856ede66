{{- /* Labels and annotations of an object: (list $ LABELS ANNOTATIONS). */ -}}
{{- define "imdslet.meta" -}}
{{- $root := index . 0 -}}
labels:
  {{- toYaml (merge (dict "app.kubernetes.io/part-of" "imdslet") (index . 1) $root.Values.commonLabels) | nindent 2 }}
{{- with merge (dict) (index . 2) $root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- /* The name of an image: (list $ IMAGE). */ -}}
{{- define "imdslet.image" -}}
{{- $image := index . 1 -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default (index . 0).Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- /* The settings, one variable a line. */ -}}
{{- define "imdslet.settings" -}}
{{- $values := .Values -}}
# Tenant of identities that name none, as those of aad-pod-identity do: a GUID or a domain name.
AZURE_TENANT_ID: {{ $values.tenantId | quote }}
# public, usgov or china. It decides the next two, unless they are set.
IMDSLET_CLOUD: {{ $values.cloud }}
AZURE_AUTHORITY_HOST: {{ $values.authority | quote }}
IMDSLET_AUDIENCE: {{ $values.audience | quote }}
# Image of the sidecar, as the nodes can pull it.
IMDSLET_SIDECAR_IMAGE: {{ include "imdslet.image" (list . $values.sidecar.image) }}
# cluster: a pod may match the bindings of every namespace, as aad-pod-identity did by default.
# namespaced: those of its own, as its managed mode and the AKS add-on did.
IMDSLET_SCOPE: {{ $values.scope }}
# /etc/imdslet/extra-ca/ca.crt, once the ConfigMap imdslet-extra-ca has a key ca.crt: PEM of CAs
# that sidecars trust beside the public ones.
IMDSLET_EXTRA_CA: {{ or $values.extraCa.pem $values.extraCa.configMap | empty | ternary "" "/etc/imdslet/extra-ca/ca.crt" | quote }}
{{- $secrets := list }}
{{- range $values.sidecar.imagePullSecrets }}
{{- $secrets = append $secrets .name }}
{{- end }}
{{- range $variable, $value := dict
  "IMDSLET_ALLOW_AUTHORITY" (join "," $values.allowAuthorities)
  "IMDSLET_ALLOW_MANAGED" ($values.allowManaged | ternary "true" "")
  "IMDSLET_BINDING_PROXY" $values.bindingProxy.url
  "IMDSLET_BINDING_SNI" $values.bindingProxy.sni
  "IMDSLET_BINDING_CA_CONFIG_MAP" $values.bindingProxy.caConfigMap
  "IMDSLET_WHEN_UNBOUND" (eq $values.whenUnbound "wait" | ternary "" $values.whenUnbound)
  "IMDSLET_ENDPOINT" (eq $values.endpoint "env" | ternary "" $values.endpoint)
  "IMDSLET_SIDECAR" $values.sidecar.mode
  "IMDSLET_SIDECAR_PULL_SECRET" (join "," $secrets)
  "IMDSLET_SIDECAR_RUN_AS_USER" (kindIs "string" $values.sidecar.runAsUser | ternary $values.sidecar.runAsUser ($values.sidecar.runAsUser | int64 | toString))
  "IMDSLET_SIDECAR_RESOURCES" (empty $values.sidecar.resources | ternary "" (toJson $values.sidecar.resources))
  "IMDSLET_NAMESPACE_SETTINGS" (empty $values.namespaces | ternary "" "/etc/imdslet/namespaces/namespaces.json")
  "IMDSLET_LOG_LEVEL" (eq $values.logLevel "info" | ternary "" $values.logLevel)
  "IMDSLET_PORT" ($values.sidecar.port | int | toString | trimPrefix "0")
  "IMDSLET_SIDECAR_METRICS_PORT" ($values.sidecar.metricsPort | int | toString | trimPrefix "0")
  "IMDSLET_HTTPS_PROXY" $values.sidecar.httpsProxy
  "IMDSLET_NO_PROXY" $values.sidecar.noProxy
}}
{{- with $value }}
{{ $variable }}: {{ . | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{- /* Where the API server finds the webhook: (list $ PATH). */ -}}
{{- define "imdslet.client" -}}
{{- $root := index . 0 -}}
service:
  namespace: {{ $root.Release.Namespace }}
  name: imdslet-webhook
  path: {{ index . 1 }}
{{- if eq $root.Values.certificates.source "files" }}
caBundle: {{ required "certificates.ca is empty; with certificates.source: files set it to the PEM of the CA of certificates.secret" $root.Values.certificates.ca | b64enc }}
{{- end }}
{{- end -}}

{{- /* Annotations of both webhook configurations. */ -}}
{{- define "imdslet.hooks" -}}
{{- if eq .Values.certificates.source "cert-manager" }}
cert-manager.io/inject-ca-from: {{ .Release.Namespace }}/imdslet-webhook
{{- end }}
{{- if .Values.disableAksEnforcer }}
admissions.enforcer/disabled: "true"
{{- end }}
{{- end -}}

{{- /* A Deployment and its budget: (list $ NAME ROLE VALUES). */ -}}
{{- define "imdslet.deployment" -}}
{{- $root := index . 0 }}{{- $name := index . 1 }}{{- $role := index . 2 }}{{- $values := index . 3 -}}
{{- $isWebhook := eq $role "admission" -}}
{{- $files := and $isWebhook (ne $root.Values.certificates.source "own") -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ $name }}
  namespace: {{ $root.Release.Namespace }}
  {{- include "imdslet.meta" (list $root (dict "app.kubernetes.io/name" $name) (dict)) | nindent 2 }}
spec:
  replicas: {{ $values.replicas }}
  selector:
    matchLabels:
      app.kubernetes.io/name: {{ $name }}
  strategy:
    rollingUpdate:
      maxSurge: {{ $values.hostNetwork | ternary 0 1 }}
      maxUnavailable: {{ $values.hostNetwork | ternary 1 0 }}
  template:
    metadata:
      labels:
        {{- toYaml (merge (dict "app.kubernetes.io/name" $name "app.kubernetes.io/part-of" "imdslet") $values.podLabels $root.Values.commonLabels) | nindent 8 }}
      annotations:
        # Changes with the settings, so that Helm starts these pods anew with them.
        {{- toYaml (merge (dict "checksum/settings" (printf "%s%s%s" (include "imdslet.settings" $root) $root.Values.extraCa.pem (toJson $root.Values.namespaces) | sha256sum | trunc 16)) $values.podAnnotations $root.Values.commonAnnotations) | nindent 8 }}
    spec:
      serviceAccountName: {{ $name }}
      automountServiceAccountToken: true
      {{- with $values.priorityClassName }}
      priorityClassName: {{ . }}
      {{- end }}
      {{- with $root.Values.imagePullSecrets }}
      imagePullSecrets:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- if $values.hostNetwork }}
      hostNetwork: true
      dnsPolicy: ClusterFirstWithHostNet
      {{- end }}
      securityContext:
        runAsNonRoot: true
        {{- with $root.Values.runAsUser }}
        runAsUser: {{ int . }}
        runAsGroup: {{ int . }}
        {{- end }}
        seccompProfile:
          type: RuntimeDefault
      {{- with $values.nodeSelector }}
      nodeSelector:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $values.tolerations }}
      tolerations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $values.affinity }}
      affinity:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $values.spread }}
      topologySpreadConstraints:
        {{- range . }}
        - maxSkew: 1
          topologyKey: {{ . }}
          whenUnsatisfiable: ScheduleAnyway
          labelSelector:
            matchLabels:
              app.kubernetes.io/name: {{ $name }}
        {{- end }}
      {{- end }}
      containers:
        - name: {{ $isWebhook | ternary "webhook" "controller" }}
          image: {{ include "imdslet.image" (list $root $root.Values.image) }}
          {{- with $root.Values.image.pullPolicy }}
          imagePullPolicy: {{ . }}
          {{- end }}
          args: [--role={{ $role }}]
          # What it says last, such as that a setting is wrong, stands in `kubectl describe pod` too.
          terminationMessagePolicy: FallbackToLogsOnError
          envFrom:
            - configMapRef:
                name: imdslet-config
          env:
            - name: POD_NAME
              valueFrom:
                fieldRef:
                  fieldPath: metadata.name
            - name: POD_NAMESPACE
              valueFrom:
                fieldRef:
                  fieldPath: metadata.namespace
            # What the allocator has no use for is the node's again at once, such as the room of a long list.
            - name: MIMALLOC_PURGE_DELAY
              value: "0"
            {{- if and $isWebhook (ne (int $values.port) 8443) }}
            - name: IMDSLET_LISTEN
              value: 0.0.0.0:{{ int $values.port }}
            {{- end }}
            {{- if ne (int $values.healthPort) 8080 }}
            - name: IMDSLET_HEALTH_LISTEN
              value: 0.0.0.0:{{ int $values.healthPort }}
            {{- end }}
            {{- if $files }}
            - name: IMDSLET_TLS_DIR
              value: /etc/imdslet/tls
            {{- end }}
            {{- if and $isWebhook (ne $root.Values.certificates.minTlsVersion "1.3") }}
            - name: IMDSLET_TLS_MIN_VERSION
              value: {{ $root.Values.certificates.minTlsVersion | quote }}
            {{- end }}
          ports:
            {{- if $isWebhook }}
            - name: https
              containerPort: {{ int $values.port }}
            {{- end }}
            - name: health
              containerPort: {{ int $values.healthPort }}
          livenessProbe:
            httpGet:
              path: /healthz
              port: health
            periodSeconds: 10
          readinessProbe:
            httpGet:
              path: /readyz
              port: health
            periodSeconds: 2
          {{- with $values.resources }}
          resources:
            {{- toYaml . | nindent 12 }}
          {{- end }}
          securityContext:
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities:
              drop: [ALL]
          volumeMounts:
            - name: extra-ca
              mountPath: /etc/imdslet/extra-ca
              readOnly: true
            {{- if $root.Values.namespaces }}
            - name: namespaces
              mountPath: /etc/imdslet/namespaces
              readOnly: true
            {{- end }}
            {{- if $files }}
            - name: tls
              mountPath: /etc/imdslet/tls
              readOnly: true
            {{- end }}
      volumes:
        - name: extra-ca
          configMap:
            name: {{ $root.Values.extraCa.configMap | default "imdslet-extra-ca" }}
            optional: true
        {{- if $root.Values.namespaces }}
        - name: namespaces
          configMap:
            name: imdslet-namespaces
        {{- end }}
        {{- if $files }}
        - name: tls
          secret:
            secretName: {{ eq $root.Values.certificates.source "files" | ternary $root.Values.certificates.secret "imdslet-webhook-certificate" }}
        {{- end }}
{{- if and $values.minAvailable (gt (int $values.replicas) (int $values.minAvailable)) }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ $name }}
  namespace: {{ $root.Release.Namespace }}
  {{- include "imdslet.meta" (list $root (dict) (dict)) | nindent 2 }}
spec:
  minAvailable: {{ $values.minAvailable }}
  selector:
    matchLabels:
      app.kubernetes.io/name: {{ $name }}
{{- end }}
{{- end -}}
