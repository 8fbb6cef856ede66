package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"
)

const (
	audience = "api://AzureADTokenExchange"
	resource = "https://vault.azure.net"
	suffix   = ".vault.azure.net"
	// Where NMI was, on each node.
	nmi = "http://localhost:2579/host/token/"
)

var vaultName = regexp.MustCompile(`^[-A-Za-z0-9]{3,24}$`)

func isVault(host string) bool {
	return strings.HasSuffix(host, suffix)
}

// pod is for whom something is mounted; `tokens` are those of its service account, by audience.
type pod struct {
	name, namespace string
	tokens          map[string]struct {
		Token string `json:"token"`
	}
}

// provider reads key vaults, by the parameters that the Azure provider documents.
type provider struct {
	authority string
	client    *http.Client
}

// object is an entry of the parameter `objects`.
type object struct {
	Name    string `json:"objectName"`
	Alias   string `json:"objectAlias"`
	Type    string `json:"objectType"`
	Version string `json:"objectVersion"`
}

// files gives what a pod is to find in its volume.
func (p provider) files(ctx context.Context, parameters map[string]string, of pod) (map[string][]byte, error) {
	vault := parameters["keyvaultName"]
	if !vaultName.MatchString(vault) {
		return nil, fmt.Errorf("keyvaultName %q is not the name of a key vault", vault)
	}
	wanted, err := objects(parameters["objects"])
	if err != nil {
		return nil, err
	}
	token, err := p.token(ctx, parameters, of)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	for _, one := range wanted {
		content, err := p.read(ctx, "https://"+vault+suffix, token, one)
		if err != nil {
			return nil, fmt.Errorf("failed to get objectType:%s, objectName:%s, objectVersion:%s: %w", one.Type, one.Name, one.Version, err)
		}
		file := one.Name
		if one.Alias != "" {
			file = one.Alias
		}
		files[file] = content
	}
	return files, nil
}

// objects are YAML, and so is each of them: texts in a list, as the provider documents it.
func objects(text string) ([]object, error) {
	var list struct {
		Array []string `json:"array"`
	}
	if err := yaml.Unmarshal([]byte(text), &list); err != nil {
		return nil, fmt.Errorf("objects cannot be read: %w", err)
	}
	if len(list.Array) == 0 {
		return nil, errors.New("objects is not set")
	}
	var all []object
	for _, text := range list.Array {
		var one object
		if err := yaml.Unmarshal([]byte(text), &one); err != nil {
			return nil, fmt.Errorf("objects cannot be read: %w", err)
		}
		all = append(all, one)
	}
	return all, nil
}

// token gets one for key vaults: from NMI, or for the token of the pod's service account.
func (p provider) token(ctx context.Context, parameters map[string]string, of pod) (string, error) {
	usePodIdentity := false
	if text := parameters["usePodIdentity"]; text != "" {
		var err error
		if usePodIdentity, err = strconv.ParseBool(text); err != nil {
			return "", fmt.Errorf("failed to parse usePodIdentity: %w", err)
		}
	}
	if usePodIdentity {
		return p.fromNMI(ctx, of)
	}
	clientID := parameters["clientID"]
	if clientID == "" {
		return "", errors.New("failed to get credentials: clientID is not set, and nodePublishSecretRef is not either")
	}
	assertion := of.tokens[audience].Token
	if assertion == "" {
		return "", fmt.Errorf("service account token for %s is not there: the CSIDriver needs tokenRequests", audience)
	}
	tenant := parameters["tenantId"]
	if tenant == "" {
		tenant = parameters["tenantID"]
	}
	form := url.Values{
		"grant_type":            {"client_credentials"},
		"client_id":             {clientID},
		"scope":                 {resource + "/.default"},
		"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"},
		"client_assertion":      {assertion},
	}
	endpoint := p.authority + "/" + url.PathEscape(tenant) + "/oauth2/v2.0/token"
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return "", err
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return accessToken(ask(p.client, request))
}

// fromNMI asks as the provider did, who it is that it asks for in headers.
func (p provider) fromNMI(ctx context.Context, of pod) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, nmi+"?resource="+url.QueryEscape(resource), nil)
	if err != nil {
		return "", err
	}
	request.Header.Set("podname", of.name)
	request.Header.Set("podns", of.namespace)
	body, err := ask(p.client, request)
	if err != nil {
		return "", fmt.Errorf("failed to acquire a token by pod identity: %w", err)
	}
	var answer struct {
		Token json.RawMessage `json:"token"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return "", err
	}
	return accessToken(answer.Token, nil)
}

func accessToken(body []byte, err error) (string, error) {
	if err != nil {
		return "", err
	}
	var answer struct {
		AccessToken string `json:"access_token"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return "", err
	}
	if answer.AccessToken == "" {
		return "", errors.New("the answer has no access_token")
	}
	return answer.AccessToken, nil
}
