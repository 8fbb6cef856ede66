// Asks azidentity for tokens: `client CREDENTIAL SELECTOR…`, as in ../../node/client.js.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
)

func main() {
	for _, selector := range os.Args[2:] {
		name, value, _ := strings.Cut(selector, "=")
		line := map[string]any{"selector": name}
		if token, err := ask(os.Args[1], name, value); err != nil {
			line["error"] = err.Error()
		} else {
			line["token"], line["expires_on"] = token.Token, token.ExpiresOn.Unix()
		}
		json.NewEncoder(os.Stdout).Encode(line)
	}
}

func ask(credential, name, value string) (azcore.AccessToken, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	scopes := policy.TokenRequestOptions{Scopes: []string{os.Getenv("SCOPE")}}
	if credential == "default" {
		all, err := azidentity.NewDefaultAzureCredential(nil)
		if err != nil {
			return azcore.AccessToken{}, err
		}
		return all.GetToken(ctx, scopes)
	}
	options := &azidentity.ManagedIdentityCredentialOptions{}
	switch name {
	case "none":
	case "client_id":
		options.ID = azidentity.ClientID(value)
	case "object_id":
		options.ID = azidentity.ObjectID(value)
	case "resource_id":
		options.ID = azidentity.ResourceID(value)
	default:
		return azcore.AccessToken{}, fmt.Errorf("no selector %s", name)
	}
	managed, err := azidentity.NewManagedIdentityCredential(options)
	if err != nil {
		return azcore.AccessToken{}, err
	}
	return managed.GetToken(ctx, scopes)
}
