// Prints until when its token for Key Vault is valid.
package main

import (
	"context"
	"fmt"
	"log"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
)

func main() {
	credential, err := azidentity.NewDefaultAzureCredential(nil)
	if err != nil {
		log.Fatal(err)
	}
	scopes := policy.TokenRequestOptions{Scopes: []string{"https://vault.azure.net/.default"}}
	token, err := credential.GetToken(context.Background(), scopes)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("valid until", token.ExpiresOn.UTC())
}
