//! `imdslet demo`: the whole chain on this machine, in steps that a person can follow.
//!
//! Real are the manifests of an article, the webhook with its TLS, its patch, the sidecar with the
//! arguments and environment that the patch gives it, and every signature. Played are the API
//! server that asks the webhook, the kubelet that mounts the volume, and Microsoft Entra ID.

mod application;
mod cast;
mod story;

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde_json::Value;

use self::application::{Answer, Application};
use self::cast::{Cast, POD_UID, TENANT};
use self::story::{Story, shortened};
use crate::node::Node;
use crate::programs::{self, Program};

/// The manifests of the article that the demo tells.
const ARTICLE: &str = include_str!("../manifests/demo/0-key-vault.yaml");

/// What the article's application reads from: Azure Key Vault.
const VAULT: &str = "https://vault.azure.net";

/// What azcopy asks for: Azure Storage.
const STORAGE: &str = "https://storage.azure.com";

/// How many steps the story has.
const STEPS: usize = 7;

/// Tells the story. `programs` is the folder with `imdslet-webhook` and `imdslet-sidecar`.
///
/// With `keep` it never returns by itself once every step was true. Dropping the future ends the
/// programs and removes the files.
///
/// # Errors
///
/// The step that was not true, or [`ProgramError`](programs::ProgramError) if a program cannot be
/// run.
pub async fn run(programs: &Path, keep: bool) -> anyhow::Result<()> {
    let story = Story::new(STEPS);
    let webhook = programs::find(programs, "imdslet-webhook")?;
    let sidecar = programs::find(programs, "imdslet-sidecar")?;
    let folder = programs::folder("imdslet-demo-")?;
    story.title("A pod of an article from 2019 gets a token: no cluster, no Azure, no root.");

    story.step("The article's manifests, ResourceID, ClientID and Selector as printed");
    let cast = Cast::read(ARTICLE)?;
    for line in cast.introduce() {
        story.line(&line);
    }

    story
        .step("A stand-in for Microsoft Entra ID, which trusts the service accounts of one issuer");
    let entra = cast.start_entra(folder.path()).await?;
    story.line(&format!("listens on {}", entra.authority));
    story.line(&format!("trusts {} to speak of {}", cast::ISSUER, cast::SUBJECT));
    story.line(&format!("as client {} of tenant {TENANT}", cast.client_id));

    story
        .step("The webhook is asked about the Deployment's pod, over TLS with its own certificate");
    let mut webhook = start_webhook(&webhook, folder.path(), &cast, &entra.authority).await?;
    story.line(&format!("$ {}", webhook.command));
    let admitted = cast.ask_webhook(&webhook, folder.path()).await?;
    story.line(&format!("POST https://{}/mutate: admitted", webhook.addr("admission")?));

    story.step("What was added to the pod; nothing was changed or removed");
    story.patch(&admitted.patch);
    story.line("(the second mount keeps the pod's Kubernetes token out of the sidecar)");

    story.step("As the kubelet would: the volume is laid out, the sidecar starts as injected");
    let volume = folder.path().join("imdslet");
    let (mut sidecar, application) =
        start_pod(&story, volume, &cast, &admitted.pod, &sidecar).await?;

    story.step("The application asks for tokens by what it was given");
    ask(&story, &application, &cast, &entra).await?;

    story.step("An identity that the pod is not bound to is refused");
    refuse(&story, &application).await?;

    story.end(&format!("All {STEPS} steps are true."));
    if keep {
        story.keep(&application.lines_to_try(VAULT, &cast.client_id));
        return Err(first_end(&mut webhook, &mut sidecar).await);
    }
    Ok(())
}

/// Waits for an end that nobody asked for.
async fn first_end(webhook: &mut Program, sidecar: &mut Program) -> anyhow::Error {
    // Both are cancel-safe, and only one of the arms is ever taken.
    tokio::select! {
        ended = webhook.ended() => ended,
        ended = sidecar.ended() => ended,
    }
}

/// Does the kubelet's part for `pod`: its sidecar, and what its application is given.
async fn start_pod(
    story: &Story,
    volume: PathBuf,
    cast: &Cast,
    pod: &Value,
    program: &Path,
) -> anyhow::Result<(Program, Application)> {
    story.line("here instead of in a pod: only the folder and the port differ");
    let mut node = Node::new(volume, POD_UID, pod)?;
    node.mount(&|audience| cast.service_account_token(audience))?;
    for line in node.files()? {
        story.line(&line);
    }
    let sidecar = node.start_sidecar(program, 0).await?;
    story.before_and_after("in the pod", &node.injected_command(), "here", &sidecar.command);
    let application = Application::new(node.application()?, sidecar.port("")?)?;
    for (injected, here) in application.variables() {
        story.before_and_after("in the pod", &injected, "here", &here);
    }
    Ok((sidecar, application))
}

async fn start_webhook(
    program: &Path,
    folder: &Path,
    cast: &Cast,
    authority: &str,
) -> anyhow::Result<Program> {
    let manifests = folder.join("manifests.json");
    std::fs::write(&manifests, cast.manifests()).context("cannot write the manifests")?;
    let file = |flag: &str, path: PathBuf| format!("--{flag}={}", path.display());
    let args = [
        "--listen=127.0.0.1:0".to_owned(),
        "--health-listen=127.0.0.1:0".to_owned(),
        file("manifests", manifests),
        file("ca-out", folder.join("webhook-ca.pem")),
        format!("--tenant-id={TENANT}"),
        format!("--authority={authority}"),
        file("extra-ca", folder.join("entra-ca.pem")),
    ];
    let webhook = Program::start(program, &args, &[], &["admission", "health"]).await?;
    webhook.until_ready().await?;
    Ok(webhook)
}

/// Asks by every way that a client has, and checks each token as an Azure service would.
async fn ask(
    story: &Story,
    application: &Application,
    cast: &Cast,
    entra: &cast::Entra,
) -> anyhow::Result<()> {
    let client_id = cast.client_id.as_str();
    let questions = [
        ("by the IMDS route", application.imds(VAULT)?),
        ("by the App Service route of 2019", application.app_service(VAULT, "")?),
        (
            "by the App Service route of 2017, which writes dates otherwise",
            application.old_app_service(VAULT)?,
        ),
        (
            "by client id, for another service, as azcopy asks",
            application.app_service(STORAGE, client_id)?,
        ),
    ];
    let mut last = None;
    for (how, question) in questions {
        story.question(how, &question.line);
        let answer = question.ask().await?;
        ensure!(answer.status == 200, "the answer is {}: {}", answer.status, answer.body);
        story.line(&format!("200 {}", shortened(&answer.body)));
        let resource = if question.line.contains(STORAGE) { STORAGE } else { VAULT };
        let claims = entra.verify(token(&answer)?, resource).await?;
        ensure!(
            claims.appid == client_id,
            "the token is for {} instead of {client_id}",
            claims.appid
        );
        story.claims(&claims);
        last = Some(claims);
    }
    ensure!(last.is_some(), "no token was asked for");
    let calls = entra.calls().await?;
    ensure!(calls == 2, "Entra ID was called {calls} times for two resources");
    story.line("Entra ID was called twice for the four: one token a resource, kept by the sidecar");
    Ok(())
}

async fn refuse(story: &Story, application: &Application) -> anyhow::Result<()> {
    let unknown = "00000000-0000-0000-0000-000000000000";
    let question = application.app_service(VAULT, unknown)?;
    story.question("by an id that no binding names", &question.line);
    let answer = question.ask().await?;
    ensure!(
        answer.status == 400,
        "the answer is {} instead of 400: {}",
        answer.status,
        answer.body
    );
    ensure!(answer.body.get("access_token").is_none(), "a token was given");
    story.line(&format!("400 {}", shortened(&answer.body)));
    Ok(())
}

fn token(answer: &Answer) -> anyhow::Result<&str> {
    answer
        .body
        .get("access_token")
        .and_then(Value::as_str)
        .context("the answer has no access_token")
}
