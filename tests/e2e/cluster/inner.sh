#!/usr/bin/env bash
# Run by up.sh as the first process of the cluster's own PID and mount namespace.
set -uo pipefail
. "$(dirname "$0")/env.sh"
pki=$K8S_STATE/pki
cd "$K8S_STATE"
mkdir -p pids stopped
# start NAME COMMAND…: runs a component. A test may end it, and says so first by the file stopped/NAME:
# once that is gone the component is started again. Any other end of it is the cluster's.
start() {
  local n=$1; shift
  while :; do
    "$@" >>"$K8S_STATE/log/$n.log" 2>&1 &
    echo $! >"pids/$n"
    wait $!
    [ -e "stopped/$n" ] || exit 1
    while [ -e "stopped/$n" ]; do sleep 0.1; done
  done &
  echo "$n"
}

start etcd "$K8S_BIN/etcd" --name e --data-dir "$K8S_STATE/etcd" --unsafe-no-fsync \
  --listen-client-urls "http://127.0.0.1:$ETCD_PORT" --advertise-client-urls "http://127.0.0.1:$ETCD_PORT" \
  --listen-peer-urls "http://127.0.0.1:$((ETCD_PORT + 1))" --initial-advertise-peer-urls "http://127.0.0.1:$((ETCD_PORT + 1))" \
  --initial-cluster "e=http://127.0.0.1:$((ETCD_PORT + 1))" --log-level warn

start kube-apiserver "$K8S_BIN/kube-apiserver" --etcd-servers "http://127.0.0.1:$ETCD_PORT" \
  --bind-address "$K8S_IP" --advertise-address "$K8S_IP" --secure-port "$K8S_PORT" \
  --endpoint-reconciler-type "$([ "$K8S_NODE" = 1 ] && echo lease || echo none)" \
  --tls-cert-file "$pki/apiserver.crt" --tls-private-key-file "$pki/apiserver.key" \
  --client-ca-file "$pki/ca.crt" --token-auth-file "$pki/tokens.csv" \
  --kubelet-client-certificate "$pki/kubelet-client.crt" --kubelet-client-key "$pki/kubelet-client.key" \
  --kubelet-preferred-address-types InternalIP \
  --authorization-mode Node,RBAC --enable-admission-plugins NodeRestriction \
  --service-cluster-ip-range "$K8S_SVC.0/24" --allow-privileged=true \
  --service-account-issuer "$K8S_ISSUER" --service-account-signing-key-file "$pki/sa.key" --service-account-key-file "$pki/sa.pub" \
  --enable-aggregator-routing=true --profiling=false --feature-gates "$K8S_GATES"

if [ "$K8S_NODE" = 1 ]; then
  mount --make-rshared /
  for d in /run/containerd /var/log/containers; do   # shim sockets and log links: seen in here only
    mkdir -p "$d"
    mount -t tmpfs none "$d"
  done
  mkdir -p cni kubelet containerd run pods-log
  cat > cni/10-bridge.conflist <<X
{"cniVersion": "0.4.0", "name": "$K8S_NAME", "plugins": [
  {"type": "bridge", "bridge": "pods0", "isGateway": true, "hairpinMode": true, "ipMasq": false,
   "ipam": {"type": "host-local", "dataDir": "$K8S_STATE/cni-ipam",
            "ranges": [[{"subnet": "$K8S_NET.0/24", "rangeStart": "$K8S_NET.10"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
X
  cat > containerd.toml <<X
version = 2
root = "$K8S_STATE/containerd"
state = "$K8S_STATE/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.internal.v1.opt"]
[grpc]
  address = "$K8S_STATE/run/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "k8s.local/pause:3.10"
  netns_mounts_under_state_dir = true
  restrict_oom_score_adj = true
  disable_tcp_service = true
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$K8S_STATE/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
        Root = "$K8S_STATE/run/runc"
X
  start containerd containerd --config containerd.toml
  ctr() { command ctr -a "$K8S_STATE/run/containerd.sock" -n k8s.io "$@"; }
  for _ in $(seq 100); do ctr version >/dev/null 2>&1 && break; sleep 0.1; done
  "$here/../../../manifests/image.py" --name k8s.local/pause:3.10 --user 65535:65535 --out images/.pause.tar \
    "$K8S_BIN/pause:/pause"
  ctr images import images/.pause.tar || exit 1
  for i in images/*.tar; do [ -e "$i" ] && ctr images import "$i"; done
fi

# What starts before the API server answers waits seconds before it asks again.
for _ in $(seq 1200); do
  curl -fs --cacert "$pki/ca.crt" -H "Authorization: Bearer $(cat "$pki/admin.token")" "https://$K8S_IP:$K8S_PORT/readyz" >/dev/null && break
  sleep 0.1
done

start kube-controller-manager "$K8S_BIN/kube-controller-manager" --kubeconfig kcm.kubeconfig \
  --authentication-kubeconfig kcm.kubeconfig --authorization-kubeconfig kcm.kubeconfig \
  --kube-api-qps 200 --kube-api-burst 400 --secure-port 0 --leader-elect=false --root-ca-file "$pki/ca.crt" \
  --service-account-private-key-file "$pki/sa.key" --use-service-account-credentials \
  --cluster-signing-cert-file "$pki/ca.crt" --cluster-signing-key-file "$pki/ca.key"

if [ "$K8S_NODE" = 1 ]; then
  start kube-scheduler "$K8S_BIN/kube-scheduler" --kubeconfig sched.kubeconfig --leader-elect=false --secure-port 0
  start kube-proxy "$K8S_BIN/kube-proxy" --kubeconfig proxy.kubeconfig --proxy-mode iptables --hostname-override "$K8S_NAME" \
    --cluster-cidr "$K8S_NET.0/24" --conntrack-max-per-core 0

  cat > kubelet.yaml <<X
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $K8S_IP
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $pki/ca.crt}}
authorization: {mode: Webhook}
cgroupDriver: cgroupfs
cgroupRoot: /$K8S_NAME
containerRuntimeEndpoint: unix://$K8S_STATE/run/containerd.sock
podLogsDir: $K8S_STATE/pods-log
failSwapOn: false
failCgroupV1: false
healthzPort: 0
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
evictionHard: {nodefs.available: "1%", imagefs.available: "1%", memory.available: "50Mi"}
volumePluginDir: $K8S_STATE/volume-plugins
serverTLSBootstrap: false
registerWithTaints: []
allowedUnsafeSysctls: ["net.ipv6.conf.*"]
syncFrequency: 10s
fileCheckFrequency: 10s
X
  start kubelet "$K8S_BIN/kubelet" --config kubelet.yaml --kubeconfig node.kubeconfig --hostname-override "$K8S_NAME" \
    --node-ip "$K8S_IP" --root-dir "$K8S_STATE/kubelet" --cert-dir "$K8S_STATE/kubelet-pki"
fi
# As PID 1 this shell also reaps what the shims leave. None of the above should end unasked: when
# one does, the cluster ends, so that a test sees it at once.
wait -n
echo "one of the components has ended"
exit 1
