//! What became of the tokens of a pod, as its sidecar says it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::facts::{Followed, Seen, State, TokenState};
use super::report::{Check, Verdict};

const WHAT: (&str, &str) = ("token", "its sidecar gets tokens");

/// Judges the tokens of a pod whose annotation names the identities `names`.
pub(super) fn check(names: &[String], followed: &Followed, now: i64) -> Check {
    match (&followed.state, &followed.log) {
        (Ok(state), log) => by_state(names, state, log.as_ref(), now),
        (Err(unasked), Some(Ok(log))) => by_log(names, unasked, log),
        (Err(unasked), Some(Err(unread))) => {
            Check::unknown(WHAT, &format!("{unasked}; the sidecar's log neither: {unread}"))
        }
        (Err(unasked), None) => Check::unknown(WHAT, unasked),
    }
}

/// By what the sidecar says of itself, which is the whole truth.
fn by_state(names: &[String], state: &State, log: Option<&Seen<String>>, now: i64) -> Check {
    if let Some(problem) = &state.problem {
        let message = format!("its sidecar cannot use what it is told: {problem}");
        let remedy = "the controller writes the annotation anew: see its log, and that one leads";
        return Check::found(WHAT, Verdict::Failed, message, remedy);
    }
    let known: BTreeSet<_> = state.identities.iter().map(|identity| &identity.name).collect();
    if known != names.iter().collect() {
        let known: Vec<_> = known.into_iter().map(String::as_str).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        let message = format!("its sidecar knows another list of identities yet: {known}");
        let remedy = "the kubelet carries the annotation into the pod, in seconds as a rule; look \
                      again, and if it stays so, see the kubelet's log";
        return Check::found(WHAT, Verdict::Warning, message, remedy);
    }
    let tokens: Vec<(&str, &TokenState)> = (state.identities.iter())
        .flat_map(|identity| identity.tokens.iter().map(|token| (&*identity.name, token)))
        .collect();
    let mut failed: Vec<_> = tokens.iter().filter(|(_, token)| token.reason.is_some()).collect();
    // What an application has no token for at all comes first.
    failed.sort_by_key(|(_, token)| minutes(token, now) > 0);
    match failed.first() {
        Some((identity, token)) => unfetched(identity, token, log, now),
        None => fine(tokens.iter().filter(|(_, token)| token.expires_on.is_some()).count()),
    }
}

/// How long a token is still good for.
fn minutes(token: &TokenState, now: i64) -> i64 {
    token.expires_on.map_or(0, |end| (end - now) / 60)
}

/// A token whose last fetch failed.
fn unfetched(identity: &str, token: &TokenState, log: Option<&Seen<String>>, now: i64) -> Check {
    let (resource, reason) = (&token.resource, token.reason.as_deref().unwrap_or_default());
    let words = match log {
        Some(Ok(log)) => failure(log, identity, resource).map(|words| format!(": {words}")),
        Some(Err(unread)) => Some(format!("; its log, which says more, was not read: {unread}")),
        None => None,
    };
    let words = words.unwrap_or_default();
    let (verdict, message) = match minutes(token, now) {
        left @ 1.. => (
            Verdict::Warning,
            format!(
                "the token of {identity} for {resource} is good for {left} min more and is not \
                 renewed ({reason}){words}"
            ),
        ),
        _ => (Verdict::Failed, format!("no token of {identity} for {resource} ({reason}){words}")),
    };
    Check::found(WHAT, verdict, message, remedy(reason))
}

fn fine(tokens: usize) -> Check {
    if tokens == 0 {
        return Check::passed(WHAT.0, "no token was asked for yet, and none was refused");
    }
    Check::passed(WHAT.0, format!("its sidecar got {tokens} of {tokens} tokens"))
}

/// By the last result of each identity and resource in the log, where the sidecar was not asked.
fn by_log(names: &[String], unasked: &str, log: &str) -> Check {
    let mut last: BTreeMap<(String, String), Value> = BTreeMap::new();
    for event in events(log) {
        if matches!(text(&event, "result"), "fetched" | "failed") {
            let of = (text(&event, "identity").to_owned(), text(&event, "resource").to_owned());
            if names.contains(&of.0) {
                last.insert(of, event);
            }
        }
    }
    let failed = last.iter().find(|(_, event)| text(event, "result") == "failed");
    let mut check = match failed {
        None => fine(last.len()),
        Some(((identity, resource), event)) => {
            let (reason, error) = (text(event, "reason"), text(event, "error"));
            let when = text(event, "timestamp");
            let message =
                format!("no token of {identity} for {resource} ({reason}, {when}): {error}");
            Check::found(WHAT, Verdict::Failed, message, remedy(reason))
        }
    };
    let note = format!(
        "the sidecar's log says so, which may have lost what is long ago; the sidecar itself was not \
         asked: {unasked}"
    );
    check.message = Some(check.message.map_or(note.clone(), |found| format!("{found}\n{note}")));
    check
}

/// The words of the last failed fetch.
fn failure(log: &str, identity: &str, resource: &str) -> Option<String> {
    let is_it = |event: &Value| {
        (text(event, "result"), text(event, "identity"), text(event, "resource"))
            == ("failed", identity, resource)
    };
    let last = events(log).filter(is_it).last()?;
    Some(text(&last, "error").to_owned())
}

fn events(log: &str) -> impl Iterator<Item = Value> {
    log.lines().filter_map(|line| serde_json::from_str(line).ok())
}

fn text<'a>(event: &'a Value, key: &str) -> &'a str {
    event.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// Whose fault a failed fetch is, in the order in which they are looked for.
fn remedy(reason: &str) -> String {
    let who = match reason {
        "NoFederatedCredential"
        | "WrongIssuer"
        | "WrongAudience"
        | "WrongLetterCase"
        | "UnknownIssuerKey"
        | "IssuerUnreachable"
        | "WrongSignature" => "it is the federated credential, or the issuer that it names",
        "NoAnswer" | "Untrusted" | "Deadline" | "BadAnswer" => {
            "it is the network: the pod must reach the authority over TLS, through --https-proxy \
             where there is one, and trust its CA (--extra-ca)"
        }
        "Unavailable" | "Throttled" => "it is Entra ID itself, and is tried again",
        "UnknownApplication" | "UnknownTenant" | "DisabledApplication" => {
            "it is what the AzureIdentity names, or its tenant"
        }
        "DeniedByPolicy" => "it is a policy of the tenant",
        "UnknownResource" => "it is the resource that the application asks for",
        _ => "it is what the message says",
    };
    format!("{who}; docs/operations.md has {reason}, and the message what mends it")
}
