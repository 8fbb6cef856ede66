//! CA and serving certificate as a set that is kept somewhere, and when which of them is renewed.
//!
//! Pure: what is kept, the names and `now` go in, what to keep instead comes out.

use std::time::{Duration, SystemTime};

use crate::parsed::{certificates, to_pem};
use crate::{Authority, Error, Serving, Unusable};

/// A serving certificate is renewed when it has less than this left. Thirty days of an API server
/// that refuses the new one can pass before an admission fails.
const RENEW_BEFORE: Duration = Duration::from_hours(30 * 24);

/// The common name of a CA that is made here.
const CA_NAME: &str = "imdslet-webhook CA";

/// CA and serving certificate with their keys, as PEM texts.
///
/// No `Debug`: two of the texts are private keys.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Keyring {
    /// The serving certificate.
    pub certificate: String,
    /// Its private key.
    pub key: String,
    /// The CAs that clients trust. The first one issues; one behind it is the one before, so that
    /// what that issued is taken until the last server shows its new certificate.
    pub authorities: String,
    /// The private key of the first CA.
    pub authority_key: String,
}

/// A keyring that can be used.
pub struct Held {
    /// What to show.
    pub serving: Serving,
    /// What clients must trust: the CAs' certificates, and nothing else that stood in the text.
    pub authorities: String,
    /// What to renew, if anything.
    pub renewal: Option<Renewal>,
}

/// What has to be made anew although it still works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// The serving certificate: it ends soon, or is for other names.
    Serving(Unusable),
    /// CA and serving certificate: the CA would end before what it issues.
    Authority,
}

impl Renewal {
    /// Stable name for logs and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Serving(_) => "CertificateRenewed",
            Self::Authority => "AuthorityRenewed",
        }
    }
}

/// Why a keyring cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key} {cause}")]
pub struct Fault {
    /// Which of the texts, by its name in a Secret.
    pub key: &'static str,
    /// What is wrong with it.
    pub cause: Unusable,
}

impl Keyring {
    /// The names of the texts in a Secret, in the order of the fields.
    pub const KEYS: [&str; 4] = ["tls.crt", "tls.key", "ca.crt", "ca.key"];

    /// Makes a CA and a serving certificate for `names`. The issuing CA of `before` stays trusted,
    /// if there is one that is valid at `now`.
    ///
    /// # Errors
    ///
    /// [`Error`] if a name is neither a DNS name nor an IP address.
    pub fn generate(
        names: &[String],
        before: Option<&Self>,
        now: SystemTime,
    ) -> Result<Self, Error> {
        let authority = Authority::generate(CA_NAME, now)?;
        let mut ring = Self::of(&authority, &authority.issue(names, now)?);
        if let Some(before) = before.and_then(|before| before.issuing(now)) {
            ring.authorities.push_str(&before);
        }
        Ok(ring)
    }

    /// The keyring with the part renewed that [`Keyring::read`] found due.
    ///
    /// # Errors
    ///
    /// [`Error`] if a name is neither a DNS name nor an IP address.
    pub fn renew(&self, due: &Renewal, names: &[String], now: SystemTime) -> Result<Self, Error> {
        let authority = match due {
            Renewal::Authority => None,
            Renewal::Serving(_) => {
                Authority::from_pem(&self.authorities, &self.authority_key, now).ok()
            }
        };
        let Some(authority) = authority else {
            return Self::generate(names, Some(self), now);
        };
        let renewed = Self::of(&authority, &authority.issue(names, now)?);
        Ok(Self { authorities: self.authorities.clone(), ..renewed })
    }

    /// Reads the keyring as a server that must show a certificate for `names` at `now`.
    ///
    /// # Errors
    ///
    /// [`Fault`], the first text that cannot be used and why. Where only the names do not fit, that
    /// is a [`Renewal`]: clients of the old names are served meanwhile.
    pub fn read(&self, names: &[String], now: SystemTime) -> Result<Held, Fault> {
        let fault = |certificate, key| {
            move |cause: Unusable| Fault {
                key: if cause.is_of_the_key() { key } else { certificate },
                cause,
            }
        };
        let authority = Authority::from_pem(&self.authorities, &self.authority_key, now);
        let authority = authority.map_err(fault("ca.crt", "ca.key"))?;
        let serving = Serving::from_pem(&self.certificate, &self.key);
        let serving = serving.map_err(fault("tls.crt", "tls.key"))?;
        serving.verify(&self.authorities, &[], now).map_err(fault("tls.crt", "tls.key"))?;
        let renewal = if authority.is_ending(now) {
            Some(Renewal::Authority)
        } else {
            let later = serving.verify(&self.authorities, names, now + RENEW_BEFORE);
            later.err().map(Renewal::Serving)
        };
        let authorities = certificates(&self.authorities).unwrap_or_default();
        Ok(Held { serving, authorities: authorities.iter().map(to_pem).collect(), renewal })
    }

    /// Whether nothing is kept yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        [&self.certificate, &self.key, &self.authorities, &self.authority_key]
            .into_iter()
            .all(|text| text.trim().is_empty())
    }

    fn of(authority: &Authority, serving: &Serving) -> Self {
        Self {
            certificate: serving.pem().to_owned(),
            key: serving.key_pem().to_owned(),
            authorities: authority.pem().to_owned(),
            authority_key: authority.key_pem(),
        }
    }

    /// The certificate of the issuing CA, as long as it is worth trusting.
    fn issuing(&self, now: SystemTime) -> Option<String> {
        let first = certificates(&self.authorities).ok()?.into_iter().next()?;
        let details = crate::parsed::Details::of(&first).ok()?;
        (details.is_ca && details.valid_at(now).is_ok()).then(|| to_pem(&first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_hours(24);

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + DAY * 20_000
    }

    fn names() -> Vec<String> {
        vec!["imdslet-webhook.web.svc".to_owned(), "127.0.0.1".to_owned()]
    }

    fn ring() -> Keyring {
        Keyring::generate(&names(), None, now()).unwrap()
    }

    fn fault(ring: &Keyring, at: SystemTime) -> String {
        match ring.read(&names(), at) {
            Ok(_) => "none".to_owned(),
            Err(fault) => fault.to_string(),
        }
    }

    fn renewal(ring: &Keyring, at: SystemTime) -> Option<Renewal> {
        ring.read(&names(), at).map_err(|fault| fault.to_string()).unwrap().renewal
    }

    #[test]
    fn what_is_made_can_be_read_and_needs_nothing() {
        let held = ring().read(&names(), now()).map_err(|fault| fault.to_string()).unwrap();
        assert_eq!(held.renewal, None);
        assert_eq!(held.authorities, ring_text(&held.authorities));
        assert!(!ring().is_empty());
        assert!(Keyring::default().is_empty());
    }

    fn ring_text(authorities: &str) -> String {
        certificates(authorities).unwrap().iter().map(to_pem).collect()
    }

    #[test]
    fn the_serving_certificate_is_renewed_thirty_days_before_its_end_by_the_same_ca() {
        let ring = ring();
        assert_eq!(renewal(&ring, now() + DAY * 334), None);
        let at = now() + DAY * 336;
        let due = renewal(&ring, at).unwrap();
        assert!(matches!(&due, Renewal::Serving(Unusable::Expired(_))), "{due:?}");
        let renewed = ring.renew(&due, &names(), at).unwrap();
        assert_eq!(renewal(&renewed, at), None);
        assert_eq!(
            (&renewed.authorities, &renewed.authority_key),
            (&ring.authorities, &ring.authority_key)
        );
        assert_ne!(renewed.certificate, ring.certificate);
    }

    #[test]
    fn other_names_renew_the_serving_certificate() {
        let ring = Keyring::generate(&["other.example".to_owned()], None, now()).unwrap();
        let due = Renewal::Serving(Unusable::NotFor("imdslet-webhook.web.svc".to_owned()));
        assert_eq!(renewal(&ring, now()), Some(due.clone()));
        assert_eq!(renewal(&ring.renew(&due, &names(), now()).unwrap(), now()), None);
    }

    #[test]
    fn a_ca_gives_way_before_what_it_issues_would_outlive_it_and_stays_trusted() {
        let first = ring();
        let nine_years = now() + DAY * (9 * 365 + 1);
        let issued = first.renew(&Renewal::Serving(Unusable::NoKey), &names(), nine_years);
        let issued = issued.unwrap();
        assert_eq!(renewal(&issued, nine_years), Some(Renewal::Authority));
        let second = issued.renew(&Renewal::Authority, &names(), nine_years).unwrap();
        assert_eq!(renewal(&second, nine_years), None);
        // What the server before the switch shows is trusted by whom is given the new CAs.
        let old = Serving::from_pem(&issued.certificate, &issued.key).unwrap();
        assert_eq!(old.verify(&second.authorities, &names(), nine_years), Ok(()));
        assert_eq!(certificates(&second.authorities).unwrap().len(), 2);
        // One before is kept, not all there ever were; one that has expired is not kept.
        let third = Keyring::generate(&names(), Some(&second), nine_years).unwrap();
        assert_eq!(certificates(&third.authorities).unwrap().len(), 2);
        let late = Keyring::generate(&names(), Some(&first), now() + DAY * 3651).unwrap();
        assert_eq!(certificates(&late.authorities).unwrap().len(), 1);
    }

    #[test]
    fn rubbish_is_named_with_its_key() {
        type Change = fn(&mut Keyring, &Keyring);
        let (good, other) = (ring(), ring());
        let broken = |change: Change| {
            let mut ring = good.clone();
            change(&mut ring, &other);
            fault(&ring, now())
        };
        let cases: [(Change, &str); 8] = [
            (|_, _| {}, "none"),
            (|ring, _| *ring = Keyring::default(), "ca.crt has no certificate in it"),
            (|ring, _| ring.authority_key.clear(), "ca.key has no private key in it"),
            (
                |ring, other| ring.authority_key.clone_from(&other.authority_key),
                "ca.key does not belong to the certificate",
            ),
            (
                |ring, _| ring.authorities.clone_from(&ring.certificate),
                "ca.crt is not the certificate of a CA",
            ),
            (
                |ring, other| ring.key.clone_from(&other.key),
                "tls.key does not belong to the certificate",
            ),
            (|ring, _| ring.key = "x".to_owned(), "tls.key has no private key in it"),
            (|ring, _| ring.certificate.clear(), "tls.crt has no certificate in it"),
        ];
        for (change, expected) in cases {
            assert_eq!(broken(change), expected);
        }
        let foreign = broken(|ring, other| {
            ring.certificate.clone_from(&other.certificate);
            ring.key.clone_from(&other.key);
        });
        assert!(
            foreign.starts_with("tls.crt is not a serving certificate of the CA in ca.crt: "),
            "{foreign}"
        );
        assert_eq!(fault(&good, now() + DAY * 366), "tls.crt has expired on 2025-10-04");
        assert_eq!(
            fault(&good, now() - DAY),
            "ca.crt is valid only from 2024-10-03 on; compare the clocks"
        );
        let half = &good.certificate[..good.certificate.len() / 2];
        let half = Keyring { certificate: half.to_owned(), ..good.clone() };
        assert!(fault(&half, now()).starts_with("tls.crt has a"), "{}", fault(&half, now()));
        let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned();
        let garbage = Keyring { authorities: garbage, ..good.clone() };
        assert!(fault(&garbage, now()).starts_with("ca.crt has a certificate that cannot be read"));
    }
}
