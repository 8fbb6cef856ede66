package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
)

const account = "/var/run/secrets/kubernetes.io/serviceaccount"

// cluster is the API server, as a pod finds it.
type cluster struct {
	url    string
	client *http.Client
}

func newCluster() (*cluster, error) {
	pem, err := os.ReadFile(filepath.Join(account, "ca.crt"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	host := net.JoinHostPort(os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT"))
	return &cluster{url: "https://" + host, client: &http.Client{Timeout: patience, Transport: transport}}, nil
}

// class gives the parameters of a SecretProviderClass, read anew each time as the driver does.
func (c *cluster) class(ctx context.Context, namespace, name string) (map[string]string, error) {
	token, err := os.ReadFile(filepath.Join(account, "token"))
	if err != nil {
		return nil, err
	}
	url := fmt.Sprintf("%s/apis/secrets-store.csi.x-k8s.io/v1/namespaces/%s/secretproviderclasses/%s", c.url, namespace, name)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer "+string(token))
	body, err := ask(c.client, request)
	if err != nil {
		return nil, err
	}
	var object struct {
		Spec struct {
			Provider   string            `json:"provider"`
			Parameters map[string]string `json:"parameters"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(body, &object); err != nil {
		return nil, err
	}
	if object.Spec.Provider != "azure" {
		return nil, fmt.Errorf("provider %q is not found", object.Spec.Provider)
	}
	return object.Spec.Parameters, nil
}

// ask gives the body of an answer; one that is not 200 is an error, and says what it answers.
func ask(client *http.Client, request *http.Request) ([]byte, error) {
	answer, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, 1<<20))
	if err != nil {
		return nil, err
	}
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s: %s", request.URL.Host, answer.Status, body)
	}
	return body, nil
}
