//! What a server that shares its keyring with others does next.
//!
//! Each server looks at three things: what is kept for all, what those who connect were told to
//! trust, and what it shows itself. The order of every change is: kept, told, shown.

use std::time::SystemTime;

use crate::keyring::trusted;
use crate::{Error, Fault, Held, Keyring};

/// What is to be done about what is kept.
pub enum Step {
    /// Nothing: tell its CAs to whoever connects, then show it.
    Keep(Box<Held>),
    /// Keep this instead.
    Write {
        /// What to keep.
        keyring: Box<Keyring>,
        /// Why, as a stable name for logs and metrics.
        reason: &'static str,
        /// What was wrong with what was kept, where that could not be used.
        fault: Option<Fault>,
    },
}

/// Decides by what is `kept`, by what this server has `shown` and by the CAs that were `told` to
/// whoever connects (PEM).
///
/// What is kept and cannot be used is replaced and not refused: it is nobody else's, and without it
/// nothing is served. Whatever takes its place is trusted beside everything that was trusted
/// before, since other servers may still show that.
///
/// # Errors
///
/// [`Error`] if a name is neither a DNS name nor an IP address.
pub fn next(
    kept: &Keyring,
    shown: Option<&Keyring>,
    told: &str,
    names: &[String],
    now: SystemTime,
) -> Result<Step, Error> {
    let fault = match kept.read(names, now) {
        Ok(Held { renewal: Some(due), .. }) => {
            let keyring = Box::new(kept.renew(&due, names, now)?);
            return Ok(Step::Write { keyring, reason: due.reason(), fault: None });
        }
        Ok(held) => return Ok(Step::Keep(Box::new(held))),
        Err(fault) => (!kept.is_empty()).then_some(fault),
    };
    // What is shown is trusted by everybody.
    if let Some(shown) = shown.filter(|shown| shown.read(names, now).is_ok()) {
        let keyring = Box::new(shown.clone());
        return Ok(Step::Write { keyring, reason: "SecretRestored", fault });
    }
    let shown = shown.map(|shown| shown.authorities.as_str()).unwrap_or_default();
    let keyring = Keyring::generate(names, &[shown, &kept.authorities, told], now)?;
    Ok(Step::Write { keyring: Box::new(keyring), reason: "CertificateMade", fault })
}

/// What those who connect are to be told to trust.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tell {
    /// What they were told.
    Nothing,
    /// This, at once: a CA of ours is not among what they trust.
    Now(String),
    /// This, if it is still so after [`SETTLED`](crate::SETTLED): all of ours are among what they
    /// trust, and others are too. Whoever told them of these may know of a change that has not
    /// come to us yet.
    Later(String),
}

/// Decides by the CAs of what is kept (`ours`, PEM) and those that were `told`.
///
/// So a server that is behind takes nothing away that another one shows by now.
#[must_use]
pub fn tell(ours: &str, told: &str, now: SystemTime) -> Tell {
    if told == ours {
        return Tell::Nothing;
    }
    // Both in one form, since what was told may have been written by anybody.
    let told = trusted(&[told], now);
    let all = trusted(&[ours, &told], now);
    if all.len() == told.len() { Tell::Later(ours.to_owned()) } else { Tell::Now(all) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::{SETTLED, Serving};

    const DAY: Duration = Duration::from_hours(24);
    /// The two servers.
    const SERVERS: usize = 2;

    fn names() -> Vec<String> {
        vec!["imdslet-webhook.web.svc".to_owned()]
    }

    fn start() -> SystemTime {
        SystemTime::UNIX_EPOCH + DAY * 20_000
    }

    /// What can happen between two looks at the certificates.
    #[derive(Clone, Debug)]
    enum Happening {
        /// Time passes.
        Wait(Duration),
        /// A server looks, and does what is to be done. Some of it may be lost.
        Look { server: usize, is_written: bool, is_told: bool },
        /// A server sees what is kept now. Between two of these it is behind.
        Hear { server: usize },
        /// A server begins anew.
        Restart { server: usize },
        /// What is kept is deleted.
        Delete,
        /// One of the texts that are kept is made rubbish.
        Corrupt { text: usize },
    }

    fn happenings() -> impl Strategy<Value = Vec<Happening>> {
        use Happening::{Corrupt, Delete, Hear, Look, Restart, Wait};
        let server = 0..SERVERS;
        let one = prop_oneof![
            6 => (server.clone(), any::<[bool; 2]>()).prop_map(|(server, [written, told])| Look {
                server, is_written: written, is_told: told,
            }),
            6 => server.clone().prop_map(|server| Look { server, is_written: true, is_told: true }),
            4 => server.clone().prop_map(|server| Hear { server }),
            2 => (1_u64..40).prop_map(|minutes| Wait(Duration::from_mins(minutes))),
            2 => (1_u32..200).prop_map(|days| Wait(DAY * days)),
            1 => server.prop_map(|server| Restart { server }),
            1 => Just(Delete),
            1 => (0..4_usize).prop_map(|text| Corrupt { text }),
        ];
        vec(one, 1..60)
    }

    #[derive(Clone, Default)]
    struct Server {
        seen: Keyring,
        shown: Option<Keyring>,
    }

    /// What is kept for all, with its version, and what whoever connects was told.
    struct World {
        at: SystemTime,
        kept: Keyring,
        version: u64,
        told: String,
        servers: [Server; SERVERS],
        seen_versions: [u64; SERVERS],
    }

    impl World {
        fn hear(&mut self, server: usize) {
            self.servers[server].seen = self.kept.clone();
            self.seen_versions[server] = self.version;
        }

        fn change(&mut self, keyring: Keyring) {
            self.kept = keyring;
            self.version += 1;
        }

        /// As the webhook does it: kept, told, shown.
        fn look(&mut self, server: usize, is_written: bool, is_told: bool, is_late: bool) {
            for _ in 0..2 {
                let Server { seen, shown } = &self.servers[server];
                match next(seen, shown.as_ref(), &self.told, &names(), self.at).unwrap() {
                    Step::Write { keyring, .. } => {
                        // Whoever wrote after what was seen is not overwritten.
                        if !is_written || self.version != self.seen_versions[server] {
                            return;
                        }
                        self.change(*keyring);
                        self.hear(server);
                    }
                    Step::Keep(held) => {
                        if !is_told {
                            return;
                        }
                        match tell(&held.authorities, &self.told, self.at) {
                            Tell::Now(told) => self.told = told,
                            Tell::Later(told) if is_late => self.told = told,
                            Tell::Later(_) | Tell::Nothing => {}
                        }
                        let server = &mut self.servers[server];
                        let waits = |shown: &Keyring| held.wait(shown, self.at).is_some();
                        if !server.shown.as_ref().is_some_and(waits) {
                            server.shown = Some(server.seen.clone());
                        }
                        return;
                    }
                }
            }
        }

        fn check(&self) -> Result<(), TestCaseError> {
            for shown in self.servers.iter().filter_map(|server| server.shown.as_ref()) {
                let serving = Serving::from_pem(&shown.certificate, &shown.key).unwrap();
                let verdict = serving.verify(&self.told, &names(), self.at);
                prop_assert!(verdict.is_ok(), "{verdict:?}");
            }
            Ok(())
        }

        /// Time passes as it does for servers that live: both hear and look again and again.
        fn wait(&mut self, time: Duration) -> Result<(), TestCaseError> {
            let (began, end) = (self.at, self.at + time);
            while self.at < end {
                let is_late = self.at >= began + SETTLED;
                for server in 0..SERVERS {
                    self.hear(server);
                    self.look(server, true, true, is_late);
                    self.check()?;
                }
                // Nothing happens for most of the time, so that is gone through in long strides.
                if self.at == began {
                    self.at += SETTLED;
                    continue;
                }
                let mut strides = [DAY * 100, DAY * 10, DAY, DAY / 12].into_iter();
                let stride = strides.find(|stride| is_quiet(self, *stride));
                let stride = stride.unwrap_or(Duration::from_mins(30));
                self.at = end.min(self.at + stride);
            }
            Ok(())
        }
    }

    /// Whether nothing is due for so long.
    fn is_quiet(world: &World, time: Duration) -> bool {
        world.kept.read(&names(), world.at + time).is_ok_and(|held| held.renewal.is_none())
            && world.servers.iter().all(|server| server.shown.as_ref() == Some(&world.kept))
    }

    #[test]
    fn what_is_trusted_is_added_at_once_and_taken_away_late() {
        let ring = || Keyring::generate(&names(), &[], start()).unwrap().authorities;
        let (old, new) = (ring(), ring());
        let both = format!("{new}{old}");
        let swapped = format!("{old}{new}");
        for (ours, told, expected) in [
            (&both, &both, Tell::Nothing),
            (&both, &old, Tell::Now(both.clone())),
            (&new, &old, Tell::Now(both.clone())),
            (&old, &both, Tell::Later(old.clone())),
            (&both, &swapped, Tell::Later(both.clone())),
            (&new, &String::new(), Tell::Now(new.clone())),
            (&new, &"rubbish".to_owned(), Tell::Now(new.clone())),
            (&new, &format!("{new}rubbish"), Tell::Later(new.clone())),
        ] {
            assert_eq!(tell(ours, told, start()), expected);
        }
        assert_eq!(tell(&new, &old, start() + DAY * 3651), Tell::Later(new));
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            // Thousands of signatures each.
            cases: ProptestConfig::default().cases / 16,
            max_shrink_iters: 200,
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        /// Whatever happens, in whatever order: what is shown is verified by what was told last.
        #[test]
        fn nothing_is_ever_shown_that_those_who_connect_were_not_told_of(all in happenings()) {
            let mut world = World {
                at: start(),
                kept: Keyring::default(),
                version: 0,
                told: String::new(),
                servers: Default::default(),
                seen_versions: [0; SERVERS],
            };
            for happening in all {
                match happening {
                    Happening::Wait(time) => world.wait(time)?,
                    Happening::Look { server, is_written, is_told } => {
                        world.look(server, is_written, is_told, false);
                    }
                    Happening::Hear { server } => world.hear(server),
                    Happening::Restart { server } => {
                        world.servers[server] = Server::default();
                        world.hear(server);
                    }
                    Happening::Delete => world.change(Keyring::default()),
                    Happening::Corrupt { text } => {
                        let mut broken = world.kept.clone();
                        let texts = [
                            &mut broken.certificate,
                            &mut broken.key,
                            &mut broken.authorities,
                            &mut broken.authority_key,
                        ];
                        "rubbish".clone_into(texts.into_iter().nth(text).unwrap());
                        world.change(broken);
                    }
                }
                world.check()?;
            }
            // And in the end both show what is kept.
            world.wait(DAY)?;
            for server in &world.servers {
                prop_assert!(server.shown.as_ref() == Some(&world.kept));
            }
            prop_assert_eq!(&world.told, &world.kept.authorities);
        }
    }
}
