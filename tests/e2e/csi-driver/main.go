// Command csi-driver takes the place of the Secrets Store CSI driver and of its provider for Azure on
// a node of the tests, since neither can be had from a registry. By their documented interfaces it does
// what the two do together: it is registered with the kubelet under the driver's name, reads the
// SecretProviderClass that a volume names, exchanges the token of the pod's service account at Entra ID,
// reads the key vault and mounts what it has read. It refuses what they refuse.
//
// Key vaults and Entra ID are stand-ins too, so that it is told where they are.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

const name = "secrets-store.csi.k8s.io"

// How long any server outside may take.
const patience = 10 * time.Second

func main() {
	node := flag.String("node", "", "the node's name")
	kubelet := flag.String("kubelet", "/var/lib/kubelet", "the kubelet's folder")
	authority := flag.String("authority", "", "URL of Entra ID")
	vault := flag.String("vault", "", "address and port at which every key vault is")
	ca := flag.String("ca", "", "PEM of whom Entra ID and the key vaults have their certificates from")
	flag.Parse()

	outside, err := client(*ca, *vault)
	if err != nil {
		log.Fatal(err)
	}
	cluster, err := newCluster()
	if err != nil {
		log.Fatal(err)
	}
	socket := filepath.Join(*kubelet, "plugins", name, "csi.sock")
	ended := make(chan error)
	serve := func(path string, register func(*grpc.Server)) {
		ended <- listen(path, register)
	}
	go serve(socket, func(server *grpc.Server) {
		csi.RegisterIdentityServer(server, identity{})
		csi.RegisterNodeServer(server, &driver{
			node:     *node,
			cluster:  cluster,
			provider: provider{authority: *authority, client: outside},
		})
	})
	go serve(filepath.Join(*kubelet, "plugins_registry", name+"-reg.sock"), func(server *grpc.Server) {
		registration.RegisterRegistrationServer(server, registrar{socket: socket})
	})
	log.Fatal(<-ended)
}

// listen serves on a socket, in the place of one that was left there.
func listen(path string, register func(*grpc.Server)) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return err
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	server := grpc.NewServer(grpc.UnaryInterceptor(tell))
	register(server)
	return server.Serve(listener)
}

// tell logs what became of a call; never what was in it, since tokens are.
func tell(ctx context.Context, request any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	answer, err := next(ctx, request)
	if err != nil {
		log.Printf("%s: %v", info.FullMethod, err)
	} else {
		log.Printf("%s: ok", info.FullMethod)
	}
	return answer, err
}

// client trusts those of `ca` alone, and finds every key vault at one address.
func client(ca, vault string) (*http.Client, error) {
	pem, err := os.ReadFile(ca)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	dialer := &net.Dialer{Timeout: patience}
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		if host, _, err := net.SplitHostPort(address); err == nil && isVault(host) {
			address = vault
		}
		return dialer.DialContext(ctx, network, address)
	}
	transport := &http.Transport{DialContext: dial, TLSClientConfig: &tls.Config{RootCAs: roots}}
	return &http.Client{Timeout: patience, Transport: transport}, nil
}

// registrar tells the kubelet that there is a driver, and where.
type registrar struct {
	registration.UnimplementedRegistrationServer
	socket string
}

func (r registrar) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	return &registration.PluginInfo{
		Type:              registration.CSIPlugin,
		Name:              name,
		Endpoint:          r.socket,
		SupportedVersions: []string{"1.0.0"},
	}, nil
}

func (registrar) NotifyRegistrationStatus(_ context.Context, status *registration.RegistrationStatus) (*registration.RegistrationStatusResponse, error) {
	if !status.PluginRegistered {
		log.Fatalf("the kubelet has not registered it: %s", status.Error)
	}
	log.Print("registered")
	return &registration.RegistrationStatusResponse{}, nil
}
