package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// What the kubelet tells of a pod, since the CSIDriver object has podInfoOnMount and tokenRequests.
const (
	podName      = "csi.storage.k8s.io/pod.name"
	podNamespace = "csi.storage.k8s.io/pod.namespace"
	podTokens    = "csi.storage.k8s.io/serviceAccount.tokens"
)

type identity struct {
	csi.UnimplementedIdentityServer
}

func (identity) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{Name: name, VendorVersion: "1"}, nil
}

func (identity) GetPluginCapabilities(context.Context, *csi.GetPluginCapabilitiesRequest) (*csi.GetPluginCapabilitiesResponse, error) {
	return &csi.GetPluginCapabilitiesResponse{}, nil
}

func (identity) Probe(context.Context, *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	return &csi.ProbeResponse{}, nil
}

// driver mounts, and unmounts.
type driver struct {
	csi.UnimplementedNodeServer
	node     string
	cluster  *cluster
	provider provider
}

func (d *driver) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return &csi.NodeGetInfoResponse{NodeId: d.node}, nil
}

func (d *driver) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	return &csi.NodeGetCapabilitiesResponse{}, nil
}

// NodePublishVolume is called for a new volume, and again and again for one that is there, since the
// CSIDriver object has requiresRepublish.
func (d *driver) NodePublishVolume(ctx context.Context, request *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	attributes := request.GetVolumeContext()
	class := attributes["secretProviderClass"]
	if class == "" {
		return nil, status.Error(codes.InvalidArgument, "secretProviderClass is not set in the volume's attributes")
	}
	of := pod{name: attributes[podName], namespace: attributes[podNamespace]}
	if text := attributes[podTokens]; text != "" {
		if err := json.Unmarshal([]byte(text), &of.tokens); err != nil {
			return nil, status.Errorf(codes.InvalidArgument, "%s cannot be read: %v", podTokens, err)
		}
	}
	parameters, err := d.cluster.class(ctx, of.namespace, class)
	if err != nil {
		return nil, status.Errorf(codes.Unknown, "failed to get secretproviderclass %s/%s: %v", of.namespace, class, err)
	}
	files, err := d.provider.files(ctx, parameters, of)
	if err != nil {
		return nil, status.Errorf(codes.Unknown, "failed to mount secrets store objects for pod %s/%s: %v", of.namespace, of.name, err)
	}
	if err := lay(request.GetTargetPath(), files); err != nil {
		return nil, status.Errorf(codes.Internal, "%v", err)
	}
	return &csi.NodePublishVolumeResponse{}, nil
}

func (d *driver) NodeUnpublishVolume(_ context.Context, request *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	target := request.GetTargetPath()
	if err := syscall.Unmount(target, 0); err != nil && err != syscall.EINVAL && err != syscall.ENOENT {
		return nil, status.Errorf(codes.Internal, "%s cannot be unmounted: %v", target, err)
	}
	if err := os.RemoveAll(target); err != nil {
		return nil, status.Errorf(codes.Internal, "%v", err)
	}
	return &csi.NodeUnpublishVolumeResponse{}, nil
}

// lay puts the files into the volume at `target`, which is made first if it is not there: in memory,
// so that no secret reaches a disk. Whoever reads a file meanwhile has the old one or the new one.
func lay(target string, files map[string][]byte) error {
	mounted, err := isMounted(target)
	if err != nil {
		return err
	}
	if !mounted {
		if err := os.MkdirAll(target, 0o750); err != nil {
			return err
		}
		if err := syscall.Mount("tmpfs", target, "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV|syscall.MS_NOEXEC, "mode=0755"); err != nil {
			return err
		}
	}
	for file, content := range files {
		partial := filepath.Join(target, "."+file)
		if err := os.WriteFile(partial, content, 0o644); err != nil {
			return err
		}
		if err := os.Rename(partial, filepath.Join(target, file)); err != nil {
			return err
		}
	}
	return nil
}

func isMounted(target string) (bool, error) {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return false, err
	}
	for _, line := range strings.Split(string(table), "\n") {
		// The fifth field is where it is mounted: proc(5).
		if fields := strings.Fields(line); len(fields) > 4 && fields[4] == target {
			return true, nil
		}
	}
	return false, nil
}
