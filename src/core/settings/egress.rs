//! How sidecars reach Entra ID, in the whole cluster and in single namespaces.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::Reader;
use super::read::certificates;
use crate::id::is_object_name;
use crate::proxy::Proxy;

/// How a sidecar reaches Entra ID. All of it stands in its pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Egress {
    /// URL of the HTTP proxy, credentials included.
    pub https_proxy: Option<String>,
    /// Where no proxy is asked.
    pub no_proxy: Option<String>,
    /// PEM of CAs that are trusted beside the public ones.
    pub extra_ca: Option<String>,
}

const NAMESPACES: &str = "namespace-settings";

/// The keys of a namespace in the file of [`NAMESPACES`].
const KEYS: [&str; 3] = ["httpsProxy", "noProxy", "extraCa"];

const PROXY_URL: &str = "http://[USER[:PASSWORD]@]HOST[:PORT]";

impl Reader<'_> {
    /// That of the whole cluster.
    pub(super) fn egress(&mut self) -> Egress {
        let extra_ca = self.text("extra-ca").and_then(|pem| match certificates(pem) {
            Ok(pem) => Some(pem),
            Err(expected) => {
                self.mistake("extra-ca", "(a file)", expected);
                None
            }
        });
        let given = self.text("https-proxy");
        let https_proxy = given.filter(|url| Proxy::parse(url).is_some()).map(str::to_owned);
        if https_proxy.is_none() && given.is_some() {
            // It may hold a password.
            self.mistake("https-proxy", "(a URL)", PROXY_URL);
        }
        Egress { https_proxy, no_proxy: self.text("no-proxy").map(str::to_owned), extra_ca }
    }

    /// Those of single namespaces. What one leaves out is `common`; what it has as an empty text it
    /// does without.
    pub(super) fn namespaces(&mut self, common: &Egress) -> BTreeMap<String, Egress> {
        let Some(text) = self.text(NAMESPACES) else { return BTreeMap::new() };
        match serde_json::from_str::<Map<String, Value>>(text) {
            Ok(all) => {
                let each = all.into_iter();
                each.map(|(name, own)| (name.clone(), self.namespace(&name, &own, common)))
                    .collect()
            }
            Err(error) => {
                // Its own words may quote a URL with a password.
                let (line, column) = (error.line(), error.column());
                let expected =
                    format!("a file with a JSON object; see its line {line}, column {column}");
                self.mistake(NAMESPACES, "(a file)", expected);
                BTreeMap::new()
            }
        }
    }

    fn namespace(&mut self, name: &str, own: &Value, common: &Egress) -> Egress {
        // A namespace's name is that of a host, without a domain.
        if !is_object_name(name) || name.contains('.') {
            self.wrong(&format!("keys are names of namespaces, which `{name}` is not"));
        }
        let none = Map::new();
        let own = own.as_object().unwrap_or_else(|| {
            self.wrong(&format!("`{name}` is an object with {}", KEYS.join(", ")));
            &none
        });
        for key in own.keys().filter(|key| !KEYS.contains(&key.as_str())) {
            self.wrong(&format!("`{name}` has {} and no `{key}`", KEYS.join(", ")));
        }
        let mut text = |key: &str, common: &Option<String>| match own.get(key) {
            None | Some(Value::Null) => common.clone(),
            Some(Value::String(text)) => Some(text.trim().to_owned()).filter(|it| !it.is_empty()),
            Some(_) => {
                self.wrong(&format!("`{name}.{key}` is a text"));
                None
            }
        };
        let [proxy_key, none_key, ca_key] = KEYS;
        let mut egress = Egress {
            https_proxy: text(proxy_key, &common.https_proxy),
            no_proxy: text(none_key, &common.no_proxy),
            extra_ca: text(ca_key, &common.extra_ca),
        };
        if egress.https_proxy.as_deref().is_some_and(|url| Proxy::parse(url).is_none()) {
            self.wrong(&format!("`{name}.{proxy_key}` is {PROXY_URL}"));
        }
        match egress.extra_ca.as_deref().map(certificates).transpose() {
            Ok(pem) => egress.extra_ca = pem,
            Err(expected) => self.wrong(&format!("`{name}.{ca_key}` is {expected}")),
        }
        egress
    }

    fn wrong(&mut self, what_is_right: &str) {
        self.mistake(NAMESPACES, "(a file)", format!("a file whose {what_is_right}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Given, Settings};
    use serde_json::json;

    const PEM: &str = "-----BEGIN CERTIFICATE-----\nMIIBjjCC\n-----END CERTIFICATE-----\n";

    fn read(namespaces: &str) -> Result<Settings, Vec<String>> {
        let given = [
            ("https-proxy", "http://me:p4ss@proxy.example:3128"),
            ("no-proxy", ".svc"),
            (NAMESPACES, namespaces),
        ];
        let given: Given = given.map(|(flag, value)| (flag, vec![value.to_owned()])).into();
        Settings::read(&given).map_err(|all| all.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_namespace_has_its_own_or_none_or_that_of_all() {
        let file = json!({
            "own": {"httpsProxy": " http://other.example:8080 ", "noProxy": ".example", "extraCa": PEM},
            "part": {"extraCa": format!("# whose it is\n{PEM}")},
            "none": {"httpsProxy": "", "noProxy": ""},
            "same": {"httpsProxy": null},
        });
        let settings = read(&file.to_string()).unwrap();
        let all = Some("http://me:p4ss@proxy.example:3128");
        let cases = [
            ("own", (Some("http://other.example:8080"), Some(".example"), Some(PEM))),
            ("part", (all, Some(".svc"), Some(PEM))),
            ("none", (None, None, None)),
            ("same", (all, Some(".svc"), None)),
            ("unnamed", (all, Some(".svc"), None)),
        ];
        for (namespace, expected) in cases {
            let Egress { https_proxy, no_proxy, extra_ca } = settings.egress_of(namespace);
            let got = (https_proxy.as_deref(), no_proxy.as_deref(), extra_ca.as_deref());
            assert_eq!(got, expected, "{namespace}");
        }
    }

    #[test]
    fn every_mistake_is_named_by_its_namespace_and_quotes_no_value() {
        let file = json!({
            "A.b": {},
            "key": {"httpProxy": "http://me:p4ss@proxy.example"},
            "list": ["http://me:p4ss@proxy.example"],
            "number": {"noProxy": 5},
            "pem": {"extraCa": "p4ss"},
            "socks": {"httpsProxy": "socks5://me:p4ss@proxy.example"},
        });
        let expected = [
            "keys are names of namespaces, which `A.b` is not",
            "`key` has httpsProxy, noProxy, extraCa and no `httpProxy`",
            "`list` is an object with httpsProxy, noProxy, extraCa",
            "`number.noProxy` is a text",
            "`pem.extraCa` is a PEM file with certificates",
            "`socks.httpsProxy` is http://[USER[:PASSWORD]@]HOST[:PORT]",
        ];
        let expected = expected.map(|words| {
            format!(
                "--namespace-settings (IMDSLET_NAMESPACE_SETTINGS) is `(a file)`; it must be a file \
                 whose {words}"
            )
        });
        assert_eq!(read(&file.to_string()).unwrap_err(), expected);
        for text in ["{\n\"web\": p4ss}", "[\"p4ss\"]"] {
            let mistakes = read(text).unwrap_err();
            assert!(mistakes.concat().contains("a JSON object; see its line"), "{mistakes:?}");
            assert!(!mistakes.concat().contains("p4ss"), "{mistakes:?}");
        }
    }
}
