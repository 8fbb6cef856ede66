use clap::Parser;

use super::*;
use crate::config::{CommandLine, Task};
use crate::emulate::Emulate;

const AUTHORITY: &str = "https://127.0.0.1:8444";

fn args(line: &[&str]) -> ImdsArgs {
    let line = [&["imdslet", "emulate", "imds"], line].concat();
    match CommandLine::parse_from(line).task {
        Task::Emulate(Emulate::Imds(args)) => args,
        task => panic!("{task:?}"),
    }
}

fn decided(args: &ImdsArgs) -> Vec<PodIdentity> {
    let entra = Entra::new(Config::parse("tenants: []", None).unwrap(), SystemTime::now()).unwrap();
    identities(&admitted(args, AUTHORITY, entra.ca_pem()).unwrap()).unwrap()
}

#[test]
fn the_first_client_id_is_the_default() {
    let ids = ["c0000000-0000-4000-8000-00000000000b", "c0000000-0000-4000-8000-00000000000a"];
    let flags = ids.map(|id| format!("--client-id={id}"));
    let found = decided(&args(&[&flags[0], &flags[1]]));
    let found: Vec<_> = found.iter().map(|identity| identity.client_id.as_str()).collect();
    assert_eq!(found, ids);
    assert_eq!(decided(&args(&[])).len(), 1);
}

#[test]
fn an_identity_of_any_kind_is_played_and_object_ids_stay() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("identities.yaml");
    fs::write(
        &file,
        "apiVersion: v1
kind: List
items:
- apiVersion: aadpodidentity.k8s.io/v1
  kind: AzureIdentity
  metadata:
    name: sp
    namespace: web
    annotations:
      imdslet.dev/object-id: b0000000-0000-4000-8000-000000000001
      imdslet.dev/allowed-resources: https://vault.azure.net;api://orders
  spec:
    Type: 1
    ClientID: C0000000-0000-4000-8000-000000000001
    TenantID: 7e000000-0000-4000-8000-00000000000f
    ADEndpoint: https://login.example
    ClientPassword: {name: password, namespace: web}
- apiVersion: aadpodidentity.k8s.io/v1
  kind: AzureIdentityBinding
  metadata: {name: sp, namespace: web}
  spec: {AzureIdentity: sp, Selector: db}
",
    )
    .unwrap();
    let file = file.to_str().unwrap();
    let args = args(&[
        "-f",
        file,
        "--label=db",
        "-n=web",
        "--token-lifetime=5m",
        "--resource=api://named",
    ]);
    let found = decided(&args);
    let config = configuration(&found, &args, &json!({"keys": []}));
    assert_eq!(
        config,
        json!({
            "tenants": [{
                "id": "7e000000-0000-4000-8000-00000000000f",
                "applications": [{
                    "clientId": "c0000000-0000-4000-8000-000000000001",
                    "objectId": "b0000000-0000-4000-8000-000000000001",
                }],
                "resources": ["api://named", "https://vault.azure.net", "api://orders"],
            }],
            "issuers": [{"issuer": ISSUER, "jwks": {"keys": []}}],
            "federatedCredentials": [{
                "clientId": "c0000000-0000-4000-8000-000000000001", "issuer": ISSUER,
                "subject": "system:serviceaccount:web:default",
                "audiences": ["api://AzureADTokenExchange"],
            }],
            "tokenLifetime": "5m",
        })
    );
}

#[test]
fn a_label_that_nothing_binds_is_refused_in_the_webhooks_words() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("other.yaml");
    fs::write(&file, "apiVersion: v1\nkind: Namespace\nmetadata: {name: web}\n").unwrap();
    let args = args(&["-f", file.to_str().unwrap(), "--label=db", "-n=web"]);
    let error = admitted(&args, AUTHORITY, "").unwrap_err().to_string();
    assert!(
        error.starts_with(
            "a pod in namespace `web` with the label aadpodidbinding: db gets no identity of these \
             files: "
        ),
        "{error}"
    );
    assert!(error.contains("AzureIdentityBinding"), "{error}");
}
