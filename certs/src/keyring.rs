//! CA and serving certificate as a set that is kept somewhere, and when which of them is renewed.
//!
//! Pure: what is kept, the names and `now` go in, what to keep instead comes out.

use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::parsed::{Details, certificates, first_certificate, to_pem};
use crate::{Authority, Error, Serving, Unusable};

/// A serving certificate is renewed when it has less than this left. Thirty days of an API server
/// that refuses the new one can pass before an admission fails.
const RENEW_BEFORE: Duration = Duration::from_hours(30 * 24);

/// CAs that are kept at most beside a new one: a Secret that somebody breaks again and again must
/// not grow without end.
const MOST_TRUSTED: usize = 8;

/// The common name of a CA that is made here.
const CA_NAME: &str = "imdslet-webhook CA";

/// How long a new CA is known to whoever trusts us before anything that it issued is shown. The
/// API server has a change of its webhook configuration in seconds; this is for one that restarts,
/// or was cut off.
const KNOWN_FOR: Duration = Duration::from_hours(1);

/// How long a new CA is known before it is shown by a server that can still show something else.
/// Long enough for an API server to hear of it, and short, since what brought it about was not
/// planned.
pub const SETTLED: Duration = Duration::from_mins(1);

/// How long a CA is trusted after the last server has shown what another one issued.
const KEPT_FOR: Duration = Duration::from_hours(24);

/// CA and serving certificate with their keys, as PEM texts.
///
/// A CA is replaced in three steps, each of which is a state of these texts, so that whoever comes
/// between two of them goes on from there: the new CA stands before the old one in `authorities`
/// and everybody is told; then it issues the certificate; then the old one goes. So at each moment
/// what any server shows is verified by what any client was told last.
///
/// No `Debug`: two of the texts are private keys.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Keyring {
    /// The serving certificate.
    pub certificate: String,
    /// Its private key.
    pub key: String,
    /// The CAs that clients trust. The first one issues; those behind it came before, so that what
    /// they issued is taken until the last server shows its new certificate.
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
    /// Since when the CA of `serving` is there, if it is the newest one.
    known: Option<SystemTime>,
}

impl Held {
    /// How long a server that shows `shown` should go on with it: those who were told of the CA
    /// last may not all have heard it yet. Nothing where they would refuse `shown` by now.
    #[must_use]
    pub fn wait(&self, shown: &Keyring, now: SystemTime) -> Option<Duration> {
        let still = Serving::from_pem(&shown.certificate, &shown.key).ok()?;
        still.verify(&self.authorities, &[], now).ok()?;
        let rest = (self.known? + SETTLED).duration_since(now).ok()?;
        (!rest.is_zero()).then_some(rest)
    }
}

/// What has to be made anew although it still works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// The serving certificate: it ends soon, or is for other names.
    Serving(Unusable),
    /// A new CA, which issues nothing yet: the one that there is would end before what it issues.
    Authority,
    /// The serving certificate: the new CA is known long enough to issue it.
    Switch,
    /// The CAs that came before are not needed any more.
    Retire,
}

impl Renewal {
    /// Stable name for logs and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Serving(_) => "CertificateRenewed",
            Self::Authority => "AuthorityAdded",
            Self::Switch => "AuthoritySwitched",
            Self::Retire => "AuthorityRetired",
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

    /// Makes a CA and a serving certificate for `names`. The CAs in the texts `before` that are
    /// valid at `now` stay trusted: other servers may still show what they issued.
    ///
    /// # Errors
    ///
    /// [`Error`] if a name is neither a DNS name nor an IP address.
    pub fn generate(names: &[String], before: &[&str], now: SystemTime) -> Result<Self, Error> {
        let authority = Authority::generate(CA_NAME, now)?;
        let mut ring = Self::of(&authority, &authority.issue(names, now)?);
        ring.authorities.push_str(&trusted(before, now));
        Ok(ring)
    }

    /// The keyring with the part renewed that [`Keyring::read`] found due.
    ///
    /// # Errors
    ///
    /// [`Error`] if a name is neither a DNS name nor an IP address.
    pub fn renew(&self, due: &Renewal, names: &[String], now: SystemTime) -> Result<Self, Error> {
        match due {
            Renewal::Authority => {
                let added = Authority::generate(CA_NAME, now)?;
                Ok(Self {
                    authorities: format!("{}{}", added.pem(), trusted(&[&self.authorities], now)),
                    authority_key: added.key_pem(),
                    ..self.clone()
                })
            }
            Renewal::Serving(_) | Renewal::Switch => {
                let Ok(issuing) = Authority::from_pem(&self.authorities, &self.authority_key, now)
                else {
                    return Self::generate(names, &[&self.authorities], now);
                };
                let renewed = Self::of(&issuing, &issuing.issue(names, now)?);
                Ok(Self { authorities: self.authorities.clone(), ..renewed })
            }
            Renewal::Retire => {
                let first = first_certificate(&self.authorities).map(|first| to_pem(&first));
                Ok(Self { authorities: first.unwrap_or_default(), ..self.clone() })
            }
        }
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
        let renewal = self.renewal(&authority, &serving, names, now);
        let is_newest = serving.verify(authority.pem(), &[], now).is_ok();
        let known = is_newest.then(|| authority.made());
        let authorities = certificates(&self.authorities).unwrap_or_default();
        let authorities = authorities.iter().map(to_pem).collect();
        Ok(Held { serving, authorities, renewal, known })
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

    /// The next step, if it is time for one.
    fn renewal(
        &self,
        issuing: &Authority,
        serving: &Serving,
        names: &[String],
        now: SystemTime,
    ) -> Option<Renewal> {
        let since = |time: Option<SystemTime>| {
            time.map_or(Duration::MAX, |time| now.duration_since(time).unwrap_or_default())
        };
        let later = serving.verify(&self.authorities, names, now + RENEW_BEFORE);
        if serving.verify(issuing.pem(), &[], now).is_err() {
            // What is shown ends before the wait does, or is for other names: it cannot wait.
            let ends = serving.verify(&self.authorities, names, now + KNOWN_FOR);
            return match ends {
                Err(why) => Some(Renewal::Serving(why)),
                Ok(()) => (since(Some(issuing.made())) >= KNOWN_FOR).then_some(Renewal::Switch),
            };
        }
        if issuing.is_ending(now) {
            return Some(Renewal::Authority);
        }
        if let Err(why) = later {
            return Some(Renewal::Serving(why));
        }
        let has_others = certificates(&self.authorities).is_ok_and(|all| all.len() > 1);
        (has_others && since(serving.made()) >= KEPT_FOR).then_some(Renewal::Retire)
    }
}

/// The certificates of CAs in `texts`, each once, as long as they are worth trusting.
pub(crate) fn trusted(texts: &[&str], now: SystemTime) -> String {
    let is_worth = |certificate: &CertificateDer<'_>| {
        let details = Details::of(certificate);
        details.is_ok_and(|details| details.is_ca && details.valid_at(now).is_ok())
    };
    let mut all: Vec<CertificateDer<'static>> = Vec::new();
    for text in texts {
        // One that cannot be read must not take those before it along.
        let readable = CertificateDer::pem_slice_iter(text.as_bytes()).map_while(Result::ok);
        for certificate in readable.filter(is_worth) {
            if !all.contains(&certificate) {
                all.push(certificate);
            }
        }
    }
    all.iter().take(MOST_TRUSTED).map(to_pem).collect()
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
        Keyring::generate(&names(), &[], now()).unwrap()
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
        let ring = Keyring::generate(&["other.example".to_owned()], &[], now()).unwrap();
        let due = Renewal::Serving(Unusable::NotFor("imdslet-webhook.web.svc".to_owned()));
        assert_eq!(renewal(&ring, now()), Some(due.clone()));
        assert_eq!(renewal(&ring.renew(&due, &names(), now()).unwrap(), now()), None);
    }

    /// What the texts are at `at`, once nothing more is due then.
    fn settled(ring: &Keyring, at: SystemTime) -> Keyring {
        match renewal(ring, at) {
            None => ring.clone(),
            Some(due) => settled(&ring.renew(&due, &names(), at).unwrap(), at),
        }
    }

    #[test]
    fn a_ca_gives_way_in_three_steps_before_what_it_issues_would_outlive_it() {
        let hour = Duration::from_hours(1);
        let nine_years = now() + DAY * (9 * 365 + 1);
        let old = ring().renew(&Renewal::Serving(Unusable::NoKey), &names(), nine_years).unwrap();
        assert_eq!(renewal(&old, nine_years), Some(Renewal::Authority));

        let told = settled(&old, nine_years);
        assert_eq!(certificates(&told.authorities).unwrap().len(), 2);
        assert!(told.authorities.ends_with(&ring_text(&old.authorities)));
        assert_eq!((&told.certificate, &told.key), (&old.certificate, &old.key));
        assert_eq!(renewal(&told, nine_years + hour - Duration::from_secs(1)), None);
        assert_eq!(renewal(&told, nine_years + hour), Some(Renewal::Switch));

        let switched = settled(&told, nine_years + hour);
        assert_eq!(switched.authorities, told.authorities);
        assert_ne!(switched.certificate, told.certificate);
        assert_eq!(renewal(&switched, nine_years + DAY), None);
        assert_eq!(renewal(&switched, nine_years + hour + DAY), Some(Renewal::Retire));

        let retired = settled(&switched, nine_years + hour + DAY);
        assert!(told.authorities.starts_with(&retired.authorities));
        assert_eq!(certificates(&retired.authorities).unwrap().len(), 1);
        assert_eq!(retired.certificate, switched.certificate);
    }

    #[test]
    fn a_certificate_that_ends_or_gets_other_names_does_not_wait_for_its_ca() {
        let nine_years = now() + DAY * (9 * 365 + 1);
        let old = ring().renew(&Renewal::Switch, &names(), nine_years - DAY * 365).unwrap();
        let told = old.renew(&Renewal::Authority, &names(), nine_years - DAY).unwrap();
        let minutes = nine_years - Duration::from_mins(5);
        assert!(matches!(renewal(&told, minutes), Some(Renewal::Serving(Unusable::Expired(_)))));
        let other = vec!["other.example".to_owned()];
        let due = told.read(&other, nine_years - DAY).map_err(|f| f.to_string()).unwrap().renewal;
        assert_eq!(due, Some(Renewal::Serving(Unusable::NotFor("other.example".to_owned()))));
    }

    #[test]
    fn what_takes_the_place_of_something_broken_keeps_every_ca_that_is_still_good() {
        let first = ring();
        let second = Keyring::generate(&names(), &[&first.authorities], now()).unwrap();
        let third = Keyring::generate(&names(), &[&second.authorities], now()).unwrap();
        assert_eq!(certificates(&third.authorities).unwrap().len(), 3);
        for shown in [&first, &second, &third] {
            let shown = Serving::from_pem(&shown.certificate, &shown.key).unwrap();
            assert_eq!(shown.verify(&third.authorities, &names(), now()), Ok(()));
        }
        let late = Keyring::generate(&names(), &[&third.authorities], now() + DAY * 3651).unwrap();
        assert_eq!(certificates(&late.authorities).unwrap().len(), 1);
        let broken = Keyring { authorities: format!("{}-----BEGIN", first.authorities), ..first };
        let mended = Keyring::generate(&names(), &[&broken.authorities], now()).unwrap();
        assert_eq!(certificates(&mended.authorities).unwrap().len(), 2);
        let many = (0..12).fold(ring(), |ring, _| {
            Keyring::generate(&names(), &[&ring.authorities], now()).unwrap()
        });
        assert_eq!(certificates(&many.authorities).unwrap().len(), 1 + MOST_TRUSTED);
    }

    /// Two replicas and an API server go through thirty years, each a while behind the Secret.
    /// Whatever is shown is verified by whatever is trusted at that moment.
    #[test]
    fn no_server_ever_shows_what_a_client_was_not_told_of() {
        let step = Duration::from_mins(20);
        // What each has seen of the Secret: now, and up to two steps ago.
        let mut seen = vec![ring(); 3];
        let mut at = now();
        let mut switches = 0;
        while at < now() + DAY * 365 * 30 {
            // Nothing happens for most of the time, so that is gone through in long strides.
            let is_quiet = seen.iter().all(|one| *one == seen[0]);
            let mut strides = [DAY * 10, DAY, Duration::from_hours(2)].into_iter();
            let stride = strides.find(|stride| renewal(&seen[0], at + *stride).is_none());
            if let (true, Some(stride)) = (is_quiet, stride) {
                at += stride;
                continue;
            }
            at += step;
            let next = match renewal(&seen[0], at) {
                None => seen[0].clone(),
                Some(due) => {
                    switches += usize::from(due == Renewal::Switch);
                    seen[0].renew(&due, &names(), at).unwrap()
                }
            };
            seen.insert(0, next);
            seen.truncate(3);
            for shown in &seen {
                let serving = Serving::from_pem(&shown.certificate, &shown.key).unwrap();
                for trusted in &seen {
                    assert_eq!(serving.verify(&trusted.authorities, &names(), at), Ok(()));
                }
            }
        }
        assert_eq!(switches, 3);
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
