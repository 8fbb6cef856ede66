//! What was given for the settings, read and checked.

use super::{Binding, DEFAULT_USER, EXTRA_CA_LIMIT, Given, Mistake, Word};
use crate::arguments::TokenProxy;
use crate::authority;
use crate::id::{is_domain_name, is_object_name, is_tenant};
use crate::resources::Preset;

/// Kubernetes keeps the CA of its API server in this ConfigMap of every namespace, and AKS's token
/// proxy has a certificate of that CA. Source: `customTokenEndpoint` in the installation of
/// azure-workload-identity 1.6 for AKS.
const ROOT_CA_CONFIG_MAP: &str = "kube-root-ca.crt";

/// Reads each setting, and keeps what is wrong.
pub(super) struct Reader<'a> {
    pub(super) given: &'a Given,
    pub(super) mistakes: Vec<Mistake>,
}

impl<'a> Reader<'a> {
    /// An empty value is as good as none: charts and shells make them.
    pub(super) fn text(&self, flag: &'static str) -> Option<&'a str> {
        let values = self.given.get(flag)?;
        values.last().map(|value| value.trim()).filter(|value| !value.is_empty())
    }

    pub(super) fn mistake(&mut self, flag: &'static str, value: &str, expected: impl Into<String>) {
        self.mistakes.push(Mistake { flag, value: value.to_owned(), expected: expected.into() });
    }

    pub(super) fn word<T: Word>(&mut self, flag: &'static str) -> Option<T> {
        let text = self.text(flag)?;
        match T::parse(text) {
            Ok(value) => Some(value),
            Err(words) => {
                self.mistake(flag, text, words);
                None
            }
        }
    }

    pub(super) fn switch(&mut self, flag: &'static str) -> bool {
        match self.text(flag) {
            None | Some("false") => false,
            Some("true") => true,
            Some(other) => {
                self.mistake(flag, other, "`true` or `false`");
                false
            }
        }
    }

    pub(super) fn tenant(&mut self) -> Option<String> {
        let text = self.text("tenant-id")?;
        if !is_tenant(text) {
            self.mistake("tenant-id", text, "a tenant id (GUID) or a tenant's domain name");
        }
        Some(text.to_owned())
    }

    pub(super) fn authority(&mut self) -> Option<String> {
        let text = self.text("authority")?;
        let url = authority::normalize(text);
        if url.is_none() {
            self.mistake("authority", text, HTTPS_URL);
        }
        url
    }

    pub(super) fn allowed_authorities(&mut self) -> Vec<String> {
        let mut allowed = Vec::new();
        for text in self.list("allow-authority") {
            match authority::normalize(text) {
                Some(url) => allowed.push(url),
                None => self.mistake("allow-authority", text, HTTPS_URL),
            }
        }
        allowed
    }

    pub(super) fn pull_secrets(&mut self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for name in self.list("sidecar-pull-secret") {
            if !is_object_name(name) {
                self.mistake("sidecar-pull-secret", name, "the name of a Secret");
            } else if !names.iter().any(|known| known == name) {
                names.push(name.to_owned());
            }
        }
        names
    }

    /// The values of a flag that repeats. Its variable holds all of them in one text.
    fn list(&self, flag: &'static str) -> impl Iterator<Item = &'a str> + use<'a> {
        let given = self.given.get(flag).into_iter().flatten();
        let ends = |c: char| c == ',' || c.is_whitespace();
        given.flat_map(move |text| text.split(ends)).filter(|text| !text.is_empty())
    }

    pub(super) fn binding(&mut self) -> Option<Binding> {
        let url = self.text("binding-proxy");
        let proxy = url.and_then(authority::normalize);
        if let (Some(text), None) = (url, &proxy) {
            self.mistake("binding-proxy", text, HTTPS_URL);
        }
        let sni = self.text("binding-sni");
        if let Some(name) = sni {
            if !is_domain_name(name) {
                self.mistake("binding-sni", name, "a DNS name");
            } else if url.is_none() {
                self.mistake("binding-sni", name, "left out, or --binding-proxy given");
            }
        }
        let ca_config_map = self.text("binding-ca-config-map").unwrap_or(ROOT_CA_CONFIG_MAP);
        if !is_object_name(ca_config_map) {
            self.mistake("binding-ca-config-map", ca_config_map, "the name of a ConfigMap");
        }
        Some(Binding {
            proxy: TokenProxy { url: proxy?, sni: sni.map(str::to_owned) },
            ca_config_map: ca_config_map.to_owned(),
        })
    }

    pub(super) fn resources(&mut self) -> Preset {
        let Some(text) = self.text("sidecar-resources") else { return Preset::default() };
        Preset::read(text).unwrap_or_else(|problem| {
            let expected = "requests and limits of cpu and memory, as JSON; this";
            self.mistake("sidecar-resources", text, format!("{expected} {problem}"));
            Preset::default()
        })
    }

    pub(super) fn user(&mut self) -> Option<u32> {
        match self.text("sidecar-run-as-user") {
            None => Some(DEFAULT_USER),
            Some("none") => None,
            Some(text) => {
                let user =
                    text.parse().ok().filter(|user| *user > 0 && i32::try_from(*user).is_ok());
                if user.is_none() {
                    self.mistake(
                        "sidecar-run-as-user",
                        text,
                        "a uid from 1 to 2147483647, or none",
                    );
                }
                user
            }
        }
    }

    pub(super) fn port(&mut self, flag: &'static str) -> Option<u16> {
        let text = self.text(flag)?;
        let port = parse_port(text);
        if port.is_none() {
            self.mistake(flag, text, PORT_RANGE);
        }
        port
    }

    pub(super) fn kubernetes_minor(&mut self) -> Option<u32> {
        let text = self.text("kubernetes-version")?;
        let minor = text.strip_prefix('v').unwrap_or(text).split('.').collect::<Vec<_>>();
        match minor.as_slice() {
            // Managed clusters write `34+`.
            ["1", minor, ..] if let Ok(minor) = minor.trim_end_matches('+').parse() => Some(minor),
            _ => {
                self.mistake("kubernetes-version", text, "a version such as 1.34");
                None
            }
        }
    }
}

/// The certificates of a PEM text and nothing else: it stands in every pod, for all to read.
pub(super) fn certificates(pem: &str) -> Result<String, String> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    let mut kept = String::new();
    let mut inside = false;
    for line in pem.lines().map(str::trim) {
        match line {
            BEGIN if !inside => inside = true,
            END if inside => inside = false,
            // Not to be guessed at, and above all no private key.
            _ if line.starts_with("-----") => {
                return Err("certificates alone; this file has other parts too".to_owned());
            }
            // The outer DER of a certificate is a SEQUENCE of some hundred bytes: `MII` in base64.
            _ if inside && kept.ends_with(&format!("{BEGIN}\n")) && !line.starts_with("MI") => {
                return Err("a PEM file whose certificates can be decoded".to_owned());
            }
            _ if inside
                && !line.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/=".contains(&b)) =>
            {
                return Err("a PEM file whose certificates can be decoded".to_owned());
            }
            // What stands around the certificates says whose they are.
            _ if !inside => continue,
            _ => {}
        }
        kept.push_str(line);
        kept.push('\n');
    }
    if kept.is_empty() || inside {
        return Err("a PEM file with certificates".to_owned());
    }
    if kept.len() > EXTRA_CA_LIMIT {
        return Err(format!("{EXTRA_CA_LIMIT} bytes at most"));
    }
    Ok(kept)
}

const HTTPS_URL: &str = "an https URL of scheme, host and port alone";

/// The ports that a sidecar may listen on, in words.
pub(crate) const PORT_RANGE: &str = "a port from 1024 to 65535";

/// Reads a port that a process without privileges may listen on.
pub(crate) fn parse_port(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port| *port >= 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_extra_ca_is_certificates_and_nothing_else() {
        let certificate =
            "-----BEGIN CERTIFICATE-----\nMIIBjjCC\nAA==\n-----END CERTIFICATE-----\n";
        let key = "-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\n";
        let twice = format!("# our CA\n{certificate}# their CA\n{certificate}");
        assert_eq!(certificates(&twice), Ok(certificate.repeat(2)));
        for (pem, expected) in [
            (String::new(), "a PEM file with certificates"),
            (
                certificate.replace("-----END CERTIFICATE-----\n", ""),
                "a PEM file with certificates",
            ),
            (format!("{certificate}{key}"), "certificates alone; this file has other parts too"),
            (certificate.replace("MIIB", "!!!!"), "a PEM file whose certificates can be decoded"),
            (certificate.replace("MIIB", "AAAA"), "a PEM file whose certificates can be decoded"),
            (certificate.repeat(2000), "65536 bytes at most"),
        ] {
            assert_eq!(certificates(&pem), Err(expected.to_owned()), "{pem}");
        }
    }
}
