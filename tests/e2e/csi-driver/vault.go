package main

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/url"
)

// read gives an object as the provider writes it: a secret as it is, a key as the PEM of its public half.
func (p provider) read(ctx context.Context, vault, token string, one object) ([]byte, error) {
	switch one.Type {
	case "secret":
		var secret struct {
			Value string `json:"value"`
		}
		err := p.get(ctx, vault, token, "secrets", one, &secret)
		return []byte(secret.Value), err
	case "key":
		var answer struct {
			Key key `json:"key"`
		}
		if err := p.get(ctx, vault, token, "keys", one, &answer); err != nil {
			return nil, err
		}
		return answer.Key.pem()
	default:
		return nil, fmt.Errorf("invalid objectType %q, of which this one knows secret and key", one.Type)
	}
}

func (p provider) get(ctx context.Context, vault, token, kind string, one object, into any) error {
	path, err := url.JoinPath(vault, kind, one.Name, one.Version)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, path+"?api-version=7.4", nil)
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", "Bearer "+token)
	body, err := ask(p.client, request)
	if err != nil {
		return err
	}
	return json.Unmarshal(body, into)
}

// key is a JSON Web Key of kind RSA, without its private half.
type key struct {
	Kind     string `json:"kty"`
	Modulus  string `json:"n"`
	Exponent string `json:"e"`
}

func (k key) pem() ([]byte, error) {
	modulus, err := base64.RawURLEncoding.DecodeString(k.Modulus)
	if err != nil {
		return nil, err
	}
	exponent, err := base64.RawURLEncoding.DecodeString(k.Exponent)
	if err != nil {
		return nil, err
	}
	if k.Kind != "RSA" {
		return nil, fmt.Errorf("a key of kind %q is none that this one knows", k.Kind)
	}
	public := &rsa.PublicKey{N: new(big.Int).SetBytes(modulus), E: int(new(big.Int).SetBytes(exponent).Int64())}
	bytes, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: bytes}), nil
}
