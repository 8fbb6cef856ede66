//! What an operator sets once for a cluster: the same for the webhook and for `imdslet inject`.

use std::collections::BTreeMap;

use crate::authority;
use crate::id::{is_domain_name, is_object_name, is_tenant};
use crate::names::DEFAULT_PORT;
use crate::proxy::Proxy;
use crate::serve::{Mode, TokenProxy};

/// The largest CA bundle that travels to a sidecar, in bytes. It stands in every pod, and a pod is
/// an object of at most 1.5 MiB.
pub const EXTRA_CA_LIMIT: usize = 64 * 1024;

/// The uid and gid of the sidecar where nothing else is said. Not 65532, which is many an app's.
pub const DEFAULT_USER: u32 = 2579;

/// What an operator sets once for a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Tenant of identities that name none.
    pub tenant_id: Option<String>,
    /// Base URL of Entra ID.
    pub authority: String,
    /// Audience of the service account tokens that Entra ID exchanges.
    pub audience: String,
    /// Other authorities that `spec.adEndpoint` of types 1 and 2 may name.
    pub allowed_authorities: Vec<String>,
    /// Whether `imdslet.dev/source: managed` is honoured.
    pub allow_managed: bool,
    /// Through which `imdslet.dev/source: binding` is served; `None`: it is not.
    pub binding: Option<Binding>,
    /// PEM of CAs that sidecars trust beside the public ones.
    pub extra_ca: Option<String>,
    /// URL of the HTTP proxy through which sidecars reach Entra ID, credentials included.
    pub https_proxy: Option<String>,
    /// Where sidecars ask no proxy.
    pub no_proxy: Option<String>,
    /// Which bindings a pod may match.
    pub scope: Scope,
    /// Image of the sidecar.
    pub sidecar_image: String,
    /// The sidecar's uid and gid; `None` leaves them to the platform.
    pub sidecar_user: Option<u32>,
    /// Where sidecars serve their metrics to the cluster; `None`: nowhere.
    pub sidecar_metrics_port: Option<u16>,
    /// How tokens are asked for, where pod and namespace say nothing.
    pub endpoint: Endpoint,
    /// What becomes of unbound pods, where pod and namespace say nothing.
    pub when_unbound: WhenUnbound,
    /// How the sidecar runs, where pod and namespace say nothing.
    pub sidecar: Mode,
    /// Port of the token endpoint, where pod and namespace say nothing.
    pub port: u16,
}

/// What AKS identity bindings need in every pod that uses one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// Where the token requests go.
    pub proxy: TokenProxy,
    /// The ConfigMap of the pod's namespace whose `ca.crt` signed the proxy's certificate.
    pub ca_config_map: String,
}

/// An Azure cloud: it decides authority and audience where neither is given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cloud {
    /// Azure's public cloud.
    #[default]
    Public,
    /// Azure Government (United States).
    UsGov,
    /// Azure operated by 21Vianet (China).
    China,
}

/// Which bindings a pod may match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Those of every namespace, as aad-pod-identity did by default.
    Cluster,
    /// Those of its own namespace, as the managed mode and the AKS add-on did.
    Namespaced,
}

/// How an application asks for tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// By variables that every container gets.
    Env,
    /// At 169.254.169.254, which the pod gets on its loopback interface.
    LinkLocal,
}

/// What becomes of a pod that is bound to no identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenUnbound {
    /// It is admitted and waits for a binding.
    Wait,
    /// It is refused.
    Deny,
}

/// A value that a person chooses among a few words.
pub(crate) trait Word: Sized + Copy + 'static {
    /// Each word and what it means.
    const WORDS: &'static [(&'static str, Self)];

    /// `Err` lists the words.
    fn parse(text: &str) -> Result<Self, String> {
        let found = Self::WORDS.iter().find(|(word, _)| *word == text);
        found.map(|(_, value)| *value).ok_or_else(|| {
            let words: Vec<_> = Self::WORDS.iter().map(|(word, _)| format!("`{word}`")).collect();
            words.join(" or ")
        })
    }
}

impl Word for Cloud {
    const WORDS: &'static [(&'static str, Self)] =
        &[("public", Self::Public), ("usgov", Self::UsGov), ("china", Self::China)];
}

impl Word for Scope {
    const WORDS: &'static [(&'static str, Self)] =
        &[("cluster", Self::Cluster), ("namespaced", Self::Namespaced)];
}

impl Word for Endpoint {
    const WORDS: &'static [(&'static str, Self)] =
        &[("env", Self::Env), ("link-local", Self::LinkLocal)];
}

impl Word for WhenUnbound {
    const WORDS: &'static [(&'static str, Self)] = &[("wait", Self::Wait), ("deny", Self::Deny)];
}

impl Word for Mode {
    const WORDS: &'static [(&'static str, Self)] =
        &[("native", Self::Native), ("container", Self::Container)];
}

impl Cloud {
    /// Base URL of Entra ID in this cloud.
    /// Source: Entra's documentation, "National clouds".
    #[must_use]
    pub fn authority(self) -> &'static str {
        match self {
            Self::Public => "https://login.microsoftonline.com",
            Self::UsGov => "https://login.microsoftonline.us",
            Self::China => "https://login.chinacloudapi.cn",
        }
    }

    /// Audience of service account tokens that Entra ID exchanges in this cloud.
    /// Source: Entra's documentation, "Important considerations and restrictions for federated
    /// identity credentials".
    #[must_use]
    pub fn audience(self) -> &'static str {
        match self {
            Self::Public => "api://AzureADTokenExchange",
            Self::UsGov => "api://AzureADTokenExchangeUSGov",
            Self::China => "api://AzureADTokenExchangeChina",
        }
    }
}

/// A flag of the settings, from which both programs make their command line.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// Its name, without the dashes.
    pub name: &'static str,
    /// The environment variable that stands in for it.
    pub variable: &'static str,
    /// What its value is called in the help; empty if it takes none.
    pub value: &'static str,
    /// One line of help.
    pub help: &'static str,
    /// Whether it may be given more than once.
    pub repeats: bool,
}

const fn flag(
    name: &'static str,
    variable: &'static str,
    value: &'static str,
    help: &'static str,
) -> Flag {
    Flag { name, variable, value, help, repeats: false }
}

/// The flags of the settings.
pub const FLAGS: &[Flag] = &[
    flag("tenant-id", "AZURE_TENANT_ID", "TENANT", "Tenant of identities that name none"),
    flag(
        "cloud",
        "IMDSLET_CLOUD",
        "CLOUD",
        "Azure cloud: public, usgov or china [default: public]",
    ),
    flag(
        "authority",
        "AZURE_AUTHORITY_HOST",
        "URL",
        "Base URL of Microsoft Entra ID [default: the cloud's]",
    ),
    flag(
        "audience",
        "IMDSLET_AUDIENCE",
        "AUDIENCE",
        "Audience of service account tokens [default: the cloud's]",
    ),
    Flag {
        repeats: true,
        ..flag(
            "allow-authority",
            "IMDSLET_ALLOW_AUTHORITY",
            "URL",
            "Authority that spec.adEndpoint may name; can be repeated",
        )
    },
    flag(
        "allow-managed",
        "IMDSLET_ALLOW_MANAGED",
        "",
        "Honour imdslet.dev/source: managed, which any pod of a node could use",
    ),
    flag(
        "binding-proxy",
        "IMDSLET_BINDING_PROXY",
        "URL",
        "Token proxy of AKS identity bindings, for imdslet.dev/source: binding",
    ),
    flag(
        "binding-sni",
        "IMDSLET_BINDING_SNI",
        "NAME",
        "Name of that proxy in TLS [default: the URL's host]",
    ),
    flag(
        "binding-ca-config-map",
        "IMDSLET_BINDING_CA_CONFIG_MAP",
        "NAME",
        "ConfigMap with that proxy's CA (ca.crt), in every namespace [default: kube-root-ca.crt]",
    ),
    flag("extra-ca", "IMDSLET_EXTRA_CA", "FILE", "PEM file of CAs that sidecars also trust"),
    flag(
        "https-proxy",
        "IMDSLET_HTTPS_PROXY",
        "URL",
        "HTTP proxy through which sidecars reach Entra ID; all of it stands in every pod",
    ),
    flag("no-proxy", "IMDSLET_NO_PROXY", "LIST", "Where sidecars use no proxy, as in NO_PROXY"),
    flag(
        "scope",
        "IMDSLET_SCOPE",
        "SCOPE",
        "Bindings that a pod may match: cluster or namespaced [default: cluster]",
    ),
    flag("sidecar-image", "IMDSLET_SIDECAR_IMAGE", "IMAGE", "Image of the sidecar"),
    flag(
        "sidecar-run-as-user",
        "IMDSLET_SIDECAR_RUN_AS_USER",
        "UID",
        "Uid and gid of the sidecar, or none to leave them to the platform [default: 2579]",
    ),
    flag(
        "sidecar-metrics-port",
        "IMDSLET_SIDECAR_METRICS_PORT",
        "PORT",
        "Port of each sidecar's /metrics on all addresses of its pod [default: none]",
    ),
    flag(
        "endpoint",
        "IMDSLET_ENDPOINT",
        "ENDPOINT",
        "How tokens are asked for: env or link-local [default: env]",
    ),
    flag(
        "when-unbound",
        "IMDSLET_WHEN_UNBOUND",
        "WHAT",
        "What becomes of unbound pods: wait or deny [default: wait]",
    ),
    flag(
        "sidecar",
        "IMDSLET_SIDECAR",
        "MODE",
        "How the sidecar runs: native or container [default: native from Kubernetes 1.32]",
    ),
    flag("port", "IMDSLET_PORT", "PORT", "Port of the token endpoint [default: 2579]"),
    flag(
        "kubernetes-version",
        "IMDSLET_KUBERNETES_VERSION",
        "VERSION",
        "Version of the cluster [default: 1.34]",
    ),
];

/// What was given for the flags, by name: as texts, but for the content of the `extra-ca` file.
pub type Given = BTreeMap<&'static str, Vec<String>>;

/// A flag whose value cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("--{flag} ({variable}) is `{value}`; it must be {expected}", variable = variable(flag))]
pub struct Mistake {
    /// The flag's name.
    pub flag: &'static str,
    /// What was given.
    pub value: String,
    /// What would be right.
    pub expected: String,
}

/// The variable that stands in for a flag.
fn variable(flag: &str) -> &'static str {
    FLAGS.iter().find(|known| known.name == flag).map_or("", |known| known.variable)
}

impl Settings {
    /// Reads the settings from what was given.
    ///
    /// # Errors
    ///
    /// Every [`Mistake`], so that all can be mended at once.
    pub fn read(given: &Given) -> Result<Self, Vec<Mistake>> {
        let mut reader = Reader { given, mistakes: Vec::new() };
        let cloud = reader.word::<Cloud>("cloud").unwrap_or_default();
        let default_mode = match reader.kubernetes_minor() {
            // Below, kubelets within the version skew may lack native sidecars (on by default from
            // 1.29).
            Some(minor) if minor < 32 => Mode::Container,
            _ => Mode::Native,
        };
        let settings = Self {
            tenant_id: reader.tenant(),
            authority: reader.authority().unwrap_or_else(|| cloud.authority().to_owned()),
            audience: reader.text("audience").unwrap_or(cloud.audience()).to_owned(),
            allowed_authorities: reader.allowed_authorities(),
            allow_managed: reader.switch("allow-managed"),
            binding: reader.binding(),
            extra_ca: reader.extra_ca(),
            https_proxy: reader.https_proxy(),
            no_proxy: reader.text("no-proxy").map(str::to_owned),
            scope: reader.word("scope").unwrap_or(Scope::Cluster),
            sidecar_image: reader.text("sidecar-image").unwrap_or(DEFAULT_IMAGE).to_owned(),
            sidecar_user: reader.user(),
            sidecar_metrics_port: reader.port("sidecar-metrics-port"),
            endpoint: reader.word("endpoint").unwrap_or(Endpoint::Env),
            when_unbound: reader.word("when-unbound").unwrap_or(WhenUnbound::Wait),
            sidecar: reader.word("sidecar").unwrap_or(default_mode),
            port: reader.port("port").unwrap_or(DEFAULT_PORT),
        };
        if settings.sidecar_metrics_port == Some(settings.port) {
            let port = settings.port.to_string();
            reader.mistake("sidecar-metrics-port", &port, "another port than --port");
        }
        if reader.mistakes.is_empty() { Ok(settings) } else { Err(reader.mistakes) }
    }
}

/// The image of the sidecar where nothing else is said: this release's, from the node's own
/// registry settings.
const DEFAULT_IMAGE: &str = concat!("imdslet-sidecar:", env!("CARGO_PKG_VERSION"));

/// Kubernetes keeps the CA of its API server in this ConfigMap of every namespace, and AKS's token
/// proxy has a certificate of that CA. Source: `customTokenEndpoint` in the installation of
/// azure-workload-identity 1.6 for AKS.
const ROOT_CA_CONFIG_MAP: &str = "kube-root-ca.crt";

struct Reader<'a> {
    given: &'a Given,
    mistakes: Vec<Mistake>,
}

impl<'a> Reader<'a> {
    /// An empty value is as good as none: charts and shells make them.
    fn text(&self, flag: &'static str) -> Option<&'a str> {
        let values = self.given.get(flag)?;
        values.last().map(|value| value.trim()).filter(|value| !value.is_empty())
    }

    fn mistake(&mut self, flag: &'static str, value: &str, expected: impl Into<String>) {
        self.mistakes.push(Mistake { flag, value: value.to_owned(), expected: expected.into() });
    }

    fn word<T: Word>(&mut self, flag: &'static str) -> Option<T> {
        let text = self.text(flag)?;
        match T::parse(text) {
            Ok(value) => Some(value),
            Err(words) => {
                self.mistake(flag, text, words);
                None
            }
        }
    }

    fn switch(&mut self, flag: &'static str) -> bool {
        match self.text(flag) {
            None | Some("false") => false,
            Some("true") => true,
            Some(other) => {
                self.mistake(flag, other, "`true` or `false`");
                false
            }
        }
    }

    fn tenant(&mut self) -> Option<String> {
        let text = self.text("tenant-id")?;
        if !is_tenant(text) {
            self.mistake("tenant-id", text, "a tenant id (GUID) or a tenant's domain name");
        }
        Some(text.to_owned())
    }

    fn authority(&mut self) -> Option<String> {
        let text = self.text("authority")?;
        let url = authority::normalize(text);
        if url.is_none() {
            self.mistake("authority", text, HTTPS_URL);
        }
        url
    }

    fn allowed_authorities(&mut self) -> Vec<String> {
        let given = self.given.get("allow-authority");
        let mut allowed = Vec::new();
        // The variable holds all of them in one text.
        for text in given.into_iter().flatten().flat_map(|text| text.split([',', ' '])) {
            match authority::normalize(text) {
                Some(url) => allowed.push(url),
                None if text.is_empty() => {}
                None => self.mistake("allow-authority", text, HTTPS_URL),
            }
        }
        allowed
    }

    fn binding(&mut self) -> Option<Binding> {
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

    fn extra_ca(&mut self) -> Option<String> {
        match certificates(self.text("extra-ca")?) {
            Ok(pem) => Some(pem),
            Err(expected) => {
                self.mistake("extra-ca", "(a file)", expected);
                None
            }
        }
    }

    fn https_proxy(&mut self) -> Option<String> {
        let text = self.text("https-proxy")?;
        if Proxy::parse(text).is_none() {
            // It may hold a password.
            self.mistake("https-proxy", "(a URL)", "http://[USER[:PASSWORD]@]HOST[:PORT]");
        }
        Some(text.to_owned())
    }

    fn user(&mut self) -> Option<u32> {
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

    fn port(&mut self, flag: &'static str) -> Option<u16> {
        let text = self.text(flag)?;
        let port = parse_port(text);
        if port.is_none() {
            self.mistake(flag, text, PORT_RANGE);
        }
        port
    }

    fn kubernetes_minor(&mut self) -> Option<u32> {
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
fn certificates(pem: &str) -> Result<String, String> {
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

    fn read(given: &[(&'static str, &str)]) -> Result<Settings, Vec<String>> {
        let mut map = Given::new();
        for (flag, value) in given {
            map.entry(flag).or_default().push((*value).to_owned());
        }
        Settings::read(&map).map_err(|all| all.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn nothing_given_is_the_public_cloud() {
        let settings = read(&[]).unwrap();
        assert_eq!(settings.authority, "https://login.microsoftonline.com");
        assert_eq!(settings.audience, "api://AzureADTokenExchange");
        assert_eq!(settings.tenant_id, None);
        assert_eq!(settings.sidecar, Mode::Native);
        assert_eq!(settings.sidecar_user, Some(2579));
        assert_eq!((settings.port, settings.sidecar_metrics_port), (2579, None));
    }

    #[test]
    fn metrics_have_a_port_of_their_own() {
        let port =
            |flag, value| read(&[(flag, value)]).map(|settings| settings.sidecar_metrics_port);
        assert_eq!(port("sidecar-metrics-port", "9579"), Ok(Some(9579)));
        assert_eq!(
            port("sidecar-metrics-port", "2579").unwrap_err(),
            [
                "--sidecar-metrics-port (IMDSLET_SIDECAR_METRICS_PORT) is `2579`; it must be another \
              port than --port"
            ]
        );
    }

    #[test]
    fn the_cloud_decides_authority_and_audience_unless_they_are_given() {
        let settings = read(&[("cloud", "usgov")]).unwrap();
        assert_eq!(settings.authority, "https://login.microsoftonline.us");
        assert_eq!(settings.audience, "api://AzureADTokenExchangeUSGov");
        let settings = read(&[("cloud", "china"), ("authority", "https://Login.example/")]);
        assert_eq!(settings.unwrap().authority, "https://login.example");
    }

    #[test]
    fn identity_bindings_need_a_proxy_and_find_its_ca_where_kubernetes_puts_it() {
        assert_eq!(read(&[]).unwrap().binding, None);
        let url = ("binding-proxy", "https://Kubernetes.default.svc/");
        let binding = read(&[url]).unwrap().binding.unwrap();
        assert_eq!(binding.proxy.url, "https://kubernetes.default.svc");
        assert_eq!((binding.proxy.sni, &*binding.ca_config_map), (None, "kube-root-ca.crt"));
        let more = [url, ("binding-sni", "1a2b.ests.aks"), ("binding-ca-config-map", "proxy-ca")];
        let binding = read(&more).unwrap().binding.unwrap();
        assert_eq!(binding.proxy.sni.as_deref(), Some("1a2b.ests.aks"));
        assert_eq!(binding.ca_config_map, "proxy-ca");
        assert_eq!(
            read(&[("binding-sni", "1a2b.ests.aks")]).unwrap_err(),
            ["--binding-sni (IMDSLET_BINDING_SNI) is `1a2b.ests.aks`; it must be left out, or \
              --binding-proxy given"]
        );
    }

    #[test]
    fn old_clusters_get_a_plain_container() {
        let mode = |version| read(&[("kubernetes-version", version)]).unwrap().sidecar;
        assert_eq!(mode("v1.31.9"), Mode::Container);
        assert_eq!(mode("1.32"), Mode::Native);
        assert_eq!(mode("1.34+"), Mode::Native);
        let given = read(&[("kubernetes-version", "1.29"), ("sidecar", "native")]);
        assert_eq!(given.unwrap().sidecar, Mode::Native);
    }

    #[test]
    fn every_mistake_is_listed_at_once() {
        let mistakes = read(&[
            ("tenant-id", "common"),
            ("cloud", "german"),
            ("authority", "http://login.example"),
            ("allow-authority", "https://a.example,b.example"),
            ("extra-ca", "nothing"),
            ("https-proxy", "socks5://me:p4ss@proxy.example"),
            ("sidecar-run-as-user", "0"),
            ("sidecar-metrics-port", "9"),
            ("port", "80"),
            ("kubernetes-version", "new"),
            ("allow-managed", "yes"),
            ("binding-proxy", "kubernetes.default.svc"),
            ("binding-sni", "a b"),
            ("binding-ca-config-map", "Root_CA"),
        ]);
        assert_eq!(
            mistakes.unwrap_err(),
            [
                "--cloud (IMDSLET_CLOUD) is `german`; it must be `public` or `usgov` or `china`",
                "--kubernetes-version (IMDSLET_KUBERNETES_VERSION) is `new`; it must be a version such as 1.34",
                "--tenant-id (AZURE_TENANT_ID) is `common`; it must be a tenant id (GUID) or a tenant's domain name",
                "--authority (AZURE_AUTHORITY_HOST) is `http://login.example`; it must be an https URL of scheme, host \
                 and port alone",
                "--allow-authority (IMDSLET_ALLOW_AUTHORITY) is `b.example`; it must be an https URL of scheme, host and \
                 port alone",
                "--allow-managed (IMDSLET_ALLOW_MANAGED) is `yes`; it must be `true` or `false`",
                "--binding-proxy (IMDSLET_BINDING_PROXY) is `kubernetes.default.svc`; it must be an https URL of scheme, \
                 host and port alone",
                "--binding-sni (IMDSLET_BINDING_SNI) is `a b`; it must be a DNS name",
                "--binding-ca-config-map (IMDSLET_BINDING_CA_CONFIG_MAP) is `Root_CA`; it must be the name of a ConfigMap",
                "--extra-ca (IMDSLET_EXTRA_CA) is `(a file)`; it must be a PEM file with certificates",
                "--https-proxy (IMDSLET_HTTPS_PROXY) is `(a URL)`; it must be http://[USER[:PASSWORD]@]HOST[:PORT]",
                "--sidecar-run-as-user (IMDSLET_SIDECAR_RUN_AS_USER) is `0`; it must be a uid from 1 to 2147483647, or none",
                "--sidecar-metrics-port (IMDSLET_SIDECAR_METRICS_PORT) is `9`; it must be a port from 1024 to 65535",
                "--port (IMDSLET_PORT) is `80`; it must be a port from 1024 to 65535",
            ]
        );
    }

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

    #[test]
    fn empty_values_are_absent() {
        assert_eq!(read(&[("tenant-id", ""), ("port", " ")]), read(&[]));
    }
}
