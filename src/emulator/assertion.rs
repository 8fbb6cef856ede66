//! Whether a client assertion is what one of the application's federated credentials asks for.

use std::time::{Duration, Instant, SystemTime};

use serde::Deserialize;

use super::config::{Application, Config};
use super::file::FederatedCredential;
use super::jwt::{RS256, Unverified, seconds};
use super::keys::NoKey;
use super::refusal::{Refusal, timestamp};

/// How far `nbf` and `iat` may lie ahead, for an issuer whose clock is fast. Entra allows five
/// minutes. For `exp` there is no allowance: the emulator runs beside its issuer as a rule, and an
/// expired assertion that passes would hide a client that does not read its token file again.
const AHEAD: Duration = Duration::from_mins(5);

#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: Audience,
    exp: u64,
    nbf: Option<u64>,
    iat: Option<u64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

impl Audience {
    fn presented(&self) -> &[String] {
        match self {
            Self::One(audience) => std::slice::from_ref(audience),
            Self::Many(audiences) => audiences,
        }
    }
}

/// Checks an assertion: form, algorithm, issuer, audience, subject, signature, time, in this
/// order, which is the order in which Entra reports.
pub(super) async fn check(
    assertion: &str,
    application: &Application,
    config: &Config,
    now: SystemTime,
) -> Result<(), Refusal> {
    let token = read(assertion)?;
    matches(&token.claims, application, config.credentials(application))?;
    verify(&token, config, now).await
}

/// The subject of an assertion for `audience` alone that a configured issuer has signed, whether or
/// not any credential is for it.
pub(super) async fn subject(
    assertion: &str,
    audience: &str,
    config: &Config,
    now: SystemTime,
) -> Result<String, Refusal> {
    let token = read(assertion)?;
    let presented = token.claims.aud.presented();
    if presented != [audience] {
        return Err(Refusal::Audience(presented.join(", ")));
    }
    verify(&token, config, now).await?;
    Ok(token.claims.sub)
}

fn read(assertion: &str) -> Result<Unverified<'_, Claims>, Refusal> {
    let token = Unverified::<Claims>::parse(assertion).map_err(Refusal::MalformedAssertion)?;
    if token.alg == RS256 { Ok(token) } else { Err(Refusal::UnsupportedAlgorithm(token.alg)) }
}

/// Compares byte for byte, each part with those credentials alone that fit so far.
fn matches(
    claims: &Claims,
    application: &Application,
    credentials: &[FederatedCredential],
) -> Result<(), Refusal> {
    if credentials.is_empty() {
        return Err(Refusal::NoFederatedCredential(application.client_id.clone()));
    }
    let of_issuer: Vec<_> = credentials.iter().filter(|c| c.issuer == claims.iss).collect();
    if of_issuer.is_empty() {
        return Err(Refusal::Issuer(claims.iss.clone()));
    }
    let presented = claims.aud.presented();
    let for_audience: Vec<_> = of_issuer.iter().filter(|c| c.audiences == presented).collect();
    if for_audience.is_empty() {
        Err(Refusal::Audience(presented.join(", ")))
    } else if for_audience.iter().any(|c| c.subject == claims.sub) {
        Ok(())
    } else if for_audience.iter().any(|c| c.subject.eq_ignore_ascii_case(&claims.sub)) {
        Err(Refusal::SubjectCase(claims.sub.clone()))
    } else {
        Err(Refusal::Subject(claims.sub.clone()))
    }
}

/// Signature, then time.
async fn verify(
    token: &Unverified<'_, Claims>,
    config: &Config,
    now: SystemTime,
) -> Result<(), Refusal> {
    let issuer = &token.claims.iss;
    let unavailable = |problem| Refusal::KeysUnavailable { issuer: issuer.clone(), problem };
    let keys = config.keys(issuer).ok_or_else(|| {
        unavailable("the issuer is not among the emulator's `issuers`, add it there".to_owned())
    })?;
    let kid = token.kid.as_deref().unwrap_or_default();
    let key = keys.find(kid, Instant::now()).await.map_err(|error| match error {
        NoKey::Unknown => Refusal::UnknownKey { kid: kid.to_owned(), issuer: issuer.clone() },
        NoKey::Unavailable(problem) => unavailable(problem),
    })?;
    if !key.verifies(token) {
        return Err(Refusal::Signature);
    }
    in_time(token.claims.nbf.max(token.claims.iat), token.claims.exp, now)
}

/// Whether an assertion that begins and ends at these seconds is good at `now`.
pub(super) fn in_time(begins: Option<u64>, ends: u64, now: SystemTime) -> Result<(), Refusal> {
    let (begins, now) = (begins.unwrap_or_default(), seconds(now));
    if begins <= now.saturating_add(AHEAD.as_secs()) && now < ends {
        return Ok(());
    }
    Err(Refusal::NotInTime { now: when(now), from: when(begins), until: when(ends) })
}

/// These seconds since the Unix epoch, as Entra writes a time in its refusals.
pub(super) fn when(seconds: u64) -> String {
    let time = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
    time.map_or_else(String::new, |time| timestamp(time, "%Y-%m-%dT%H:%M:%SZ"))
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::{Value, json};

    use super::super::LocalIssuer;
    use super::super::testing::{
        AUDIENCE, CLIENT, CLUSTER, ISSUER, OTHER_CLIENT, SUBJECT, TENANT, claims, config,
        credential, parsed,
    };
    use super::*;

    /// What is never read is the system's clock.
    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    fn now() -> SystemTime {
        NOW + Duration::from_secs(1_790_000_000)
    }

    async fn code(config: &Value, client: &str, assertion: &str) -> Option<u32> {
        let config = parsed(config);
        let application = config.tenant(TENANT).unwrap().application(client).unwrap();
        check(assertion, application, &config, now()).await.err().map(|refusal| refusal.code())
    }

    /// The code for a token that the cluster signed with one claim changed, or taken out by null.
    async fn code_with(claim: &str, value: Value) -> Option<u32> {
        let mut claims = claims(now());
        claims[claim] = value.clone();
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(claim);
        }
        code(&config(), CLIENT, &CLUSTER.sign(&claims).unwrap()).await
    }

    #[tokio::test]
    async fn each_claim_decides() {
        let now = seconds(now());
        for (name, claim, value, expected) in [
            ("all is right", "jti", json!("x"), None),
            (
                "the issuer lacks its slash",
                "iss",
                json!("https://issuer.example/cluster"),
                Some(700_211),
            ),
            (
                "the issuer in capitals",
                "iss",
                json!("https://Issuer.example/cluster/"),
                Some(700_211),
            ),
            ("no issuer", "iss", Value::Null, Some(50027)),
            ("another audience", "aud", json!(["api://AKSIdentityBinding"]), Some(700_212)),
            (
                "the audience in small letters",
                "aud",
                json!("api://azureadtokenexchange"),
                Some(700_212),
            ),
            ("the right audience and another", "aud", json!([AUDIENCE, "x"]), Some(700_212)),
            ("no audience", "aud", json!([]), Some(700_212)),
            ("the audience as a text", "aud", json!(AUDIENCE), None),
            ("another subject", "sub", json!("system:serviceaccount:web:other"), Some(700_213)),
            (
                "the subject in capitals",
                "sub",
                json!("system:serviceaccount:web:DB"),
                Some(7_002_138),
            ),
            ("more after the subject", "sub", json!(format!("{SUBJECT}x")), Some(700_213)),
            ("the subject is no text", "sub", json!(1), Some(50027)),
            ("expired this second", "exp", json!(now), Some(700_024)),
            ("one second left", "exp", json!(now + 1), None),
            ("no expiry", "exp", Value::Null, Some(50027)),
            ("from a fast clock", "nbf", json!(now + 300), None),
            ("not yet valid", "nbf", json!(now + 301), Some(700_024)),
            ("issued in the future", "iat", json!(now + 301), Some(700_024)),
            ("issued after the end of time", "iat", json!(u64::MAX), Some(700_024)),
            ("without nbf", "nbf", Value::Null, None),
        ] {
            assert_eq!(code_with(claim, value).await, expected, "{name}");
        }
    }

    #[tokio::test]
    async fn only_rs256_is_a_signature() {
        let token = CLUSTER.sign(&claims(now())).unwrap();
        let parts: Vec<_> = token.split('.').collect();
        let header = URL_SAFE_NO_PAD.decode(parts[0]).unwrap();
        let header: Value = serde_json::from_slice(&header).unwrap();
        for alg in ["none", "HS256", "ES256", "RS384", "PS256", "rs256"] {
            let mut header = header.clone();
            header["alg"] = json!(alg);
            let header = URL_SAFE_NO_PAD.encode(header.to_string());
            for signature in ["", parts[2]] {
                let token = format!("{header}.{}.{signature}", parts[1]);
                assert_eq!(code(&config(), CLIENT, &token).await, Some(5_002_738), "{alg}");
            }
        }
    }

    #[tokio::test]
    async fn the_signature_must_be_the_issuers() {
        // Without a signature, with another's, and with the right one of other claims.
        let token = CLUSTER.sign(&claims(now())).unwrap();
        let (message, _) = token.rsplit_once('.').unwrap();
        assert_eq!(code(&config(), CLIENT, &format!("{message}.")).await, Some(700_027));
        let mut others = claims(now());
        others["jti"] = json!("another");
        let other = CLUSTER.sign(&others).unwrap();
        let (_, signature) = other.rsplit_once('.').unwrap();
        assert_eq!(code(&config(), CLIENT, &format!("{message}.{signature}")).await, Some(700_027));

        // An issuer of the same name with a key of its own.
        let stranger = LocalIssuer::generate(ISSUER).unwrap();
        let forged = stranger.sign(&claims(now())).unwrap();
        assert_eq!(code(&config(), CLIENT, &forged).await, Some(7_000_272));
    }

    #[tokio::test]
    async fn what_is_no_token_is_malformed() {
        for assertion in ["not-a-token", "..", "e30.e30.", "a.b.c"] {
            assert_eq!(code(&config(), CLIENT, assertion).await, Some(50027), "{assertion}");
        }
    }

    #[tokio::test]
    async fn the_credential_must_be_the_applications_own() {
        let token = CLUSTER.sign(&claims(now())).unwrap();
        assert_eq!(code(&config(), OTHER_CLIENT, &token).await, Some(70025));
    }

    #[tokio::test]
    async fn parts_of_different_credentials_do_not_make_one() {
        let mut config = config();
        let (mut audience, mut subject) = (credential(), credential());
        audience["audiences"] = json!(["other"]);
        subject["subject"] = json!("system:serviceaccount:web:other");
        config["federatedCredentials"] = json!([audience, subject]);
        let token = CLUSTER.sign(&claims(now())).unwrap();
        assert_eq!(code(&config, CLIENT, &token).await, Some(700_213));
    }

    #[tokio::test]
    async fn an_issuer_without_keys_is_said_to_be_unavailable() {
        let mut config = config();
        config["issuers"] = json!([]);
        let token = CLUSTER.sign(&claims(now())).unwrap();
        assert_eq!(code(&config, CLIENT, &token).await, Some(50166));
    }
}
