//! The arguments of `imdslet-sidecar serve`: written by the webhook, read by the sidecar.
//!
//! They are fixed at admission and are the only place that says where credentials may be sent.

use std::path::PathBuf;

use crate::names::SECRETS_DIR;
use crate::settings::Word;

/// What `imdslet-sidecar serve` is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServeArgs {
    /// Folder of the projected files.
    pub dir: PathBuf,
    /// Port on the loopback addresses; 0 lets the system choose.
    pub port: u16,
    /// Base URL of Entra ID.
    pub authority: String,
    /// How the pod runs the sidecar, which decides what SIGTERM means.
    pub mode: Mode,
    /// Also listen on 169.254.169.254:80.
    pub link_local: bool,
    /// Folder with one folder for each Secret of types 1 and 2.
    pub secrets_dir: Option<PathBuf>,
    /// Authorities of single identities, by `namespace/name`.
    pub authority_for: Vec<(String, String)>,
    /// The token proxy of AKS identity bindings.
    pub binding: Option<TokenProxy>,
    /// Port on all addresses where `/metrics` alone is served; 0 lets the system choose.
    pub metrics_port: Option<u16>,
}

/// The token proxy of AKS identity bindings: it stands in for Entra ID inside the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenProxy {
    /// Its base URL.
    pub url: String,
    /// The name that it is asked for in TLS and that its certificate has; the URL's host if none.
    pub sni: Option<String>,
}

/// How a pod runs the sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// An init container with `restartPolicy: Always`: it outlives the pod's other containers.
    Native,
    /// One of the pod's containers: it is told to end together with the others.
    Container,
}

impl Mode {
    /// The value of `--mode`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Container => "container",
        }
    }
}

/// What is wrong with the arguments.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ArgsError {
    /// An argument that `serve` does not have.
    #[error(
        "unknown argument `{0}`; serve takes --dir, --port, --authority, --mode, --link-local, \
         --secrets-dir, --authority-for, --binding-proxy, --binding-sni and --metrics-port"
    )]
    Unknown(String),
    /// An argument that must be given.
    #[error("`{0}` is missing; give {0}=VALUE")]
    Missing(&'static str),
    /// An argument whose value cannot be used.
    #[error("`{argument}` is `{value}`; it must be {expected}")]
    Value {
        /// The argument's name.
        argument: &'static str,
        /// What was given.
        value: String,
        /// What would be right.
        expected: &'static str,
    },
}

impl ServeArgs {
    /// The arguments as they stand in the container, `serve` first.
    #[must_use]
    pub fn to_args(&self) -> Vec<String> {
        let mut args = vec![
            "serve".to_owned(),
            format!("--dir={}", self.dir.display()),
            format!("--port={}", self.port),
            format!("--authority={}", self.authority),
            format!("--mode={}", self.mode.as_str()),
        ];
        if self.link_local {
            args.push("--link-local".to_owned());
        }
        if let Some(dir) = &self.secrets_dir {
            args.push(format!("--secrets-dir={}", dir.display()));
        }
        for (identity, authority) in &self.authority_for {
            args.push(format!("--authority-for={identity}={authority}"));
        }
        if let Some(TokenProxy { url, sni }) = &self.binding {
            args.push(format!("--binding-proxy={url}"));
            args.extend(sni.iter().map(|name| format!("--binding-sni={name}")));
        }
        args.extend(self.metrics_port.map(|port| format!("--metrics-port={port}")));
        args
    }

    /// Reads the arguments that follow `serve`. Each may be given as `--name=value`.
    ///
    /// # Errors
    ///
    /// [`ArgsError`], for the first argument that is unknown, missing or has a wrong value.
    pub fn parse<S: AsRef<str>>(args: impl IntoIterator<Item = S>) -> Result<Self, ArgsError> {
        let (mut dir, mut port, mut authority, mut mode) = (None, None, None, None);
        let (mut link_local, mut secrets_dir, mut authority_for) = (false, None, Vec::new());
        let (mut proxy, mut sni, mut metrics_port) = (None, None, None);
        for arg in args {
            let arg = arg.as_ref();
            match arg.split_once('=') {
                Some(("--dir", value)) => dir = Some(PathBuf::from(value)),
                Some(("--port", value)) => port = Some(parse_port("--port", value)?),
                Some(("--authority", value)) => authority = Some(https("--authority", value)?),
                Some(("--mode", value)) => mode = Some(parse_mode(value)?),
                Some(("--secrets-dir", value)) => secrets_dir = Some(PathBuf::from(value)),
                Some(("--authority-for", value)) => authority_for.push(parse_pair(value)?),
                Some(("--binding-proxy", value)) => proxy = Some(https("--binding-proxy", value)?),
                Some(("--binding-sni", value)) => sni = Some(dns_name("--binding-sni", value)?),
                Some(("--metrics-port", value)) => {
                    metrics_port = Some(parse_port("--metrics-port", value)?);
                }
                None if arg == "--link-local" => link_local = true,
                _ => return Err(ArgsError::Unknown(arg.to_owned())),
            }
        }
        Ok(Self {
            dir: dir.ok_or(ArgsError::Missing("--dir"))?,
            port: port.ok_or(ArgsError::Missing("--port"))?,
            authority: authority.ok_or(ArgsError::Missing("--authority"))?,
            mode: mode.ok_or(ArgsError::Missing("--mode"))?,
            link_local,
            secrets_dir,
            authority_for,
            binding: match (proxy, sni) {
                (Some(url), sni) => Some(TokenProxy { url, sni }),
                (None, None) => None,
                (None, Some(_)) => return Err(ArgsError::Missing("--binding-proxy")),
            },
            metrics_port,
        })
    }

    /// The authority for the identity `namespace/name`.
    #[must_use]
    pub fn authority_of(&self, identity: &str) -> &str {
        self.authority_for
            .iter()
            .find(|(name, _)| name == identity)
            .map_or(&self.authority, |(_, authority)| authority)
    }
}

/// The folder that `--secrets-dir` names in a pod.
#[must_use]
pub fn secrets_dir() -> PathBuf {
    PathBuf::from(SECRETS_DIR)
}

fn parse_port(argument: &'static str, value: &str) -> Result<u16, ArgsError> {
    value.parse().map_err(|_| ArgsError::Value {
        argument,
        value: value.to_owned(),
        expected: "a number from 0 to 65535",
    })
}

fn parse_mode(value: &str) -> Result<Mode, ArgsError> {
    Mode::parse(value).map_err(|_| ArgsError::Value {
        argument: "--mode",
        value: value.to_owned(),
        expected: "`native` or `container`",
    })
}

fn https(argument: &'static str, value: &str) -> Result<String, ArgsError> {
    crate::authority::normalize(value).ok_or_else(|| ArgsError::Value {
        argument,
        value: value.to_owned(),
        expected: "an https URL of scheme, host and port alone",
    })
}

fn dns_name(argument: &'static str, value: &str) -> Result<String, ArgsError> {
    crate::id::is_domain_name(value).then(|| value.to_owned()).ok_or_else(|| ArgsError::Value {
        argument,
        value: value.to_owned(),
        expected: "a DNS name",
    })
}

fn parse_pair(value: &str) -> Result<(String, String), ArgsError> {
    let (identity, authority) = value.split_once('=').ok_or_else(|| ArgsError::Value {
        argument: "--authority-for",
        value: value.to_owned(),
        expected: "NAMESPACE/NAME=URL",
    })?;
    Ok((identity.to_owned(), https("--authority-for", authority)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> ServeArgs {
        ServeArgs {
            dir: PathBuf::from("/d"),
            port: 2579,
            authority: "https://login.example".to_owned(),
            mode: Mode::Native,
            link_local: false,
            secrets_dir: None,
            authority_for: Vec::new(),
            binding: None,
            metrics_port: None,
        }
    }

    #[test]
    fn what_the_webhook_writes_the_sidecar_reads() {
        let args = ServeArgs {
            port: 8579,
            mode: Mode::Container,
            link_local: true,
            secrets_dir: Some(secrets_dir()),
            authority_for: vec![("web/db".to_owned(), "https://login.partner.example".to_owned())],
            binding: Some(TokenProxy {
                url: "https://kubernetes.default.svc".to_owned(),
                sni: Some("1a2b.ests.aks".to_owned()),
            }),
            metrics_port: Some(9579),
            ..args()
        };
        let written = args.to_args();
        assert_eq!(written[0], "serve");
        assert_eq!(ServeArgs::parse(&written[1..]), Ok(args));
    }

    #[test]
    fn each_mistake_is_named() {
        let cases = [
            (vec!["--port=1"], "`--dir` is missing; give --dir=VALUE"),
            (vec!["--port=http"], "`--port` is `http`; it must be a number from 0 to 65535"),
            (
                vec!["--authority=http://login.example"],
                "`--authority` is `http://login.example`; it must be an https URL of scheme, host \
                 and port alone",
            ),
            (
                vec!["--metrics-port=all"],
                "`--metrics-port` is `all`; it must be a number from 0 to 65535",
            ),
            (vec!["--mode=both"], "`--mode` is `both`; it must be `native` or `container`"),
            (
                vec!["--authority-for=web/db"],
                "`--authority-for` is `web/db`; it must be NAMESPACE/NAME=URL",
            ),
            (
                vec!["--binding-proxy=https://kubernetes.default.svc/path"],
                "`--binding-proxy` is `https://kubernetes.default.svc/path`; it must be an https \
                 URL of scheme, host and port alone",
            ),
            (vec!["--binding-sni=a b"], "`--binding-sni` is `a b`; it must be a DNS name"),
            (
                vec![
                    "--dir=/d",
                    "--port=1",
                    "--authority=https://login.example",
                    "--mode=native",
                    "--binding-sni=a.b",
                ],
                "`--binding-proxy` is missing; give --binding-proxy=VALUE",
            ),
        ];
        for (args, expected) in cases {
            assert_eq!(ServeArgs::parse(&args).unwrap_err().to_string(), expected);
        }
        assert_eq!(ServeArgs::parse(["--verbose"]), Err(ArgsError::Unknown("--verbose".into())));
    }

    #[test]
    fn an_identity_of_its_own_authority_keeps_it() {
        let args = ServeArgs {
            authority_for: vec![("web/db".to_owned(), "https://other.example".to_owned())],
            ..args()
        };
        assert_eq!(args.authority_of("web/db"), "https://other.example");
        assert_eq!(args.authority_of("web/app"), "https://login.example");
    }
}
