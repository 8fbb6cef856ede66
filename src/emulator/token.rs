//! Access tokens: how they are made, and how whoever receives one checks it.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::jwt::{Jwks, KeyError, RS256, SigningKey, Unverified, seconds};
use super::resources::Audience;

/// The claims of an access token for an application, in the shape of version 1.0, which Azure's
/// own services ask for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// What the token is for.
    pub aud: String,
    /// `https://sts.windows.net/TENANT/`.
    pub iss: String,
    /// When it was issued, in seconds since the Unix epoch.
    pub iat: u64,
    /// From when it is valid, in seconds since the Unix epoch.
    pub nbf: u64,
    /// Until when it is valid, in seconds since the Unix epoch.
    pub exp: u64,
    /// The client id.
    pub appid: String,
    /// How the client proved itself: `1` with a secret, `2` with an assertion.
    pub appidacr: String,
    /// Who knows the client; the same as `iss`.
    pub idp: String,
    /// `app`: there is no user.
    pub idtyp: String,
    /// The object id of the application or identity in its tenant.
    pub oid: String,
    /// The same as `oid`.
    pub sub: String,
    /// The tenant's id.
    pub tid: String,
    /// Names this token.
    pub uti: String,
    /// `1.0`.
    pub ver: String,
}

/// Why an access token is not to be accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// It is no token of this shape.
    #[error("the access token cannot be read: {0}")]
    Malformed(&'static str),
    /// It was not signed with RS256.
    #[error("the access token is signed with `{0}` and not with RS256")]
    Algorithm(String),
    /// No key of the set has the name in its header.
    #[error("the access token names the key `{0}`, which is not among the signing keys")]
    UnknownKey(String),
    /// The signature is not the key's.
    #[error("the access token's signature is wrong")]
    Signature,
    /// A claim has another value.
    #[error("the access token's `{claim}` is `{found}` and not `{expected}`")]
    Claim {
        /// The claim's name.
        claim: &'static str,
        /// What it says.
        found: String,
        /// What it should say.
        expected: String,
    },
    /// It is used too early or too late.
    #[error("the access token is valid from {nbf} until {exp}, and it is {now} (Unix seconds)")]
    NotInTime {
        /// From when.
        nbf: u64,
        /// Until when.
        exp: u64,
        /// The time of the check.
        now: u64,
    },
}

/// Checks an access token as the Azure service `audience` would: signature, issuer, tenant,
/// audience, time and version.
///
/// `jwks` are the keys of `/{tenant}/discovery/v2.0/keys` or [`super::Entra::signing_jwks`].
///
/// # Errors
///
/// [`TokenError`] for the first thing that is wrong.
pub fn verify_access_token(
    token: &str,
    jwks: &Jwks,
    audience: &str,
    tenant: &str,
    now: SystemTime,
) -> Result<Claims, TokenError> {
    let token = Unverified::<Claims>::parse(token).map_err(TokenError::Malformed)?;
    if token.alg != RS256 {
        return Err(TokenError::Algorithm(token.alg));
    }
    let kid = token.kid.as_deref().unwrap_or_default();
    let key = jwks.find(kid).ok_or_else(|| TokenError::UnknownKey(kid.to_owned()))?;
    if !key.verifies(&token) {
        return Err(TokenError::Signature);
    }
    let claims = token.claims;
    let tenant = tenant.to_ascii_lowercase();
    for (claim, found, expected) in [
        ("ver", &claims.ver, "1.0"),
        ("iss", &claims.iss, &issuer(&tenant)),
        ("tid", &claims.tid, &tenant),
        ("aud", &claims.aud, audience),
    ] {
        if found != expected {
            let (found, expected) = (found.clone(), expected.to_owned());
            return Err(TokenError::Claim { claim, found, expected });
        }
    }
    let now = seconds(now);
    if now < claims.nbf || now >= claims.exp {
        return Err(TokenError::NotInTime { nbf: claims.nbf, exp: claims.exp, now });
    }
    Ok(claims)
}

/// Who gets a token, for what.
pub(super) struct Grant<'a> {
    pub(super) tenant: &'a str,
    pub(super) client_id: &'a str,
    pub(super) object_id: &'a str,
    pub(super) audience: Audience<'a>,
    pub(super) proof: Proof,
}

/// How a client proved who it is.
#[derive(Clone, Copy)]
pub(super) enum Proof {
    Secret,
    Assertion,
}

/// Signs the token of a grant.
pub(super) fn issue(
    grant: &Grant<'_>,
    key: &SigningKey,
    lifetime: Duration,
    now: SystemTime,
) -> Result<String, KeyError> {
    let issued = seconds(now);
    let claims = Claims {
        aud: grant.audience.as_str().to_owned(),
        iss: issuer(grant.tenant),
        iat: issued,
        nbf: issued,
        exp: issued.saturating_add(lifetime.as_secs()),
        appid: grant.client_id.to_owned(),
        appidacr: match grant.proof {
            Proof::Secret => "1".to_owned(),
            Proof::Assertion => "2".to_owned(),
        },
        idp: issuer(grant.tenant),
        idtyp: "app".to_owned(),
        oid: grant.object_id.to_owned(),
        sub: grant.object_id.to_owned(),
        tid: grant.tenant.to_owned(),
        uti: uuid::Uuid::new_v4().simple().to_string(),
        ver: "1.0".to_owned(),
    };
    key.sign(Some("JWT"), &claims)
}

fn issuer(tenant: &str) -> String {
    format!("https://sts.windows.net/{tenant}/")
}

#[cfg(test)]
mod tests {
    use super::super::jwt::KeyName;
    use super::super::resources::Resources;
    use super::*;

    const TENANT: &str = "11111111-aaaa-1111-1111-111111111111";
    const NOW: Duration = Duration::from_secs(1_790_000_000);

    fn issued(key: &SigningKey, proof: Proof) -> String {
        let grant = Grant {
            tenant: TENANT,
            client_id: "client",
            object_id: "object",
            audience: Resources::default().find("https://vault.azure.net").unwrap(),
            proof,
        };
        issue(&grant, key, Duration::from_mins(1), SystemTime::UNIX_EPOCH + NOW).unwrap()
    }

    fn verify(token: &str, key: &SigningKey, after: u64) -> Result<Claims, TokenError> {
        let jwks = Jwks { keys: vec![key.public().clone()] };
        let now = SystemTime::UNIX_EPOCH + NOW + Duration::from_secs(after);
        verify_access_token(token, &jwks, "https://vault.azure.net", TENANT, now)
    }

    #[test]
    fn a_token_has_the_claims_of_version_1() {
        let key = SigningKey::generate(KeyName::Entra).unwrap();
        let claims = verify(&issued(&key, Proof::Assertion), &key, 0).unwrap();
        let expected = Claims {
            aud: "https://vault.azure.net".to_owned(),
            iss: format!("https://sts.windows.net/{TENANT}/"),
            iat: NOW.as_secs(),
            nbf: NOW.as_secs(),
            exp: NOW.as_secs() + 60,
            appid: "client".to_owned(),
            appidacr: "2".to_owned(),
            idp: format!("https://sts.windows.net/{TENANT}/"),
            idtyp: "app".to_owned(),
            oid: "object".to_owned(),
            sub: "object".to_owned(),
            tid: TENANT.to_owned(),
            uti: claims.uti.clone(),
            ver: "1.0".to_owned(),
        };
        assert_eq!(claims, expected);
        let claims = verify(&issued(&key, Proof::Secret), &key, 0).unwrap();
        assert_eq!(claims.appidacr, "1");
    }

    #[test]
    fn a_token_is_good_to_its_last_second_and_not_before_its_first() {
        let key = SigningKey::generate(KeyName::Entra).unwrap();
        let token = issued(&key, Proof::Assertion);
        assert!(verify(&token, &key, 59).is_ok());
        assert!(matches!(verify(&token, &key, 60), Err(TokenError::NotInTime { .. })));
        let jwks = Jwks { keys: vec![key.public().clone()] };
        let early = SystemTime::UNIX_EPOCH + NOW - Duration::from_secs(1);
        let early = verify_access_token(&token, &jwks, "https://vault.azure.net", TENANT, early);
        assert!(matches!(early, Err(TokenError::NotInTime { .. })));
    }

    #[test]
    fn a_token_of_another_key_audience_or_tenant_is_refused() {
        let key = SigningKey::generate(KeyName::Entra).unwrap();
        let other = SigningKey::generate(KeyName::Entra).unwrap();
        let token = issued(&key, Proof::Assertion);
        assert!(matches!(verify(&token, &other, 0), Err(TokenError::UnknownKey(_))));

        let mut renamed = other.public().clone();
        renamed.kid.clone_from(&key.public().kid);
        let now = SystemTime::UNIX_EPOCH + NOW;
        let check = |jwk, audience, tenant| {
            verify_access_token(&token, &Jwks { keys: vec![jwk] }, audience, tenant, now)
        };
        let audience = "https://vault.azure.net";
        assert_eq!(check(renamed, audience, TENANT), Err(TokenError::Signature));
        let wrong = check(key.public().clone(), "https://vault.azure.net/", TENANT);
        assert!(matches!(wrong, Err(TokenError::Claim { claim: "aud", .. })));
        let wrong = check(key.public().clone(), audience, "2222");
        assert!(matches!(wrong, Err(TokenError::Claim { claim: "iss", .. })));
        // GUIDs have no letter case.
        assert!(check(key.public().clone(), audience, &TENANT.to_uppercase()).is_ok());
    }
}
