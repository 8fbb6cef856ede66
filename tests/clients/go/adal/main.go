// Asks adal for tokens: `client SELECTOR…`, as in ../../node/client.js.
package main

import (
	"encoding/json"
	"os"
	"strings"

	"github.com/Azure/go-autorest/autorest/adal"
)

func main() {
	for _, selector := range os.Args[1:] {
		name, value, _ := strings.Cut(selector, "=")
		line := map[string]any{"selector": name}
		options := &adal.ManagedIdentityOptions{}
		if name == "client_id" {
			options.ClientID = value
		}
		resource := strings.TrimSuffix(os.Getenv("SCOPE"), "/.default")
		token, err := adal.NewServicePrincipalTokenFromManagedIdentity(resource, options)
		if err == nil {
			err = token.Refresh()
		}
		if err != nil {
			line["error"] = err.Error()
		} else {
			line["token"], line["expires_on"] = token.OAuthToken(), token.Token().Expires().Unix()
		}
		json.NewEncoder(os.Stdout).Encode(line)
	}
}
