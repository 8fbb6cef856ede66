//! Base URLs of Entra ID: what is one, and when two are the same.

/// The base URL in its one spelling: scheme and host in lower case, port where it is not 443, no
/// trailing slash. `None` if it is not an https URL of scheme, host and port alone.
///
/// ```
/// use imdslet_core::authority::normalize;
/// let one = normalize("https://Login.MicrosoftOnline.com/").unwrap();
/// assert_eq!(one, "https://login.microsoftonline.com");
/// assert_eq!(normalize("https://localhost:8443"), Some("https://localhost:8443".into()));
/// assert_eq!(normalize("http://login.microsoftonline.com"), None);
/// assert_eq!(normalize("https://user@evil.example"), None);
/// ```
#[must_use]
pub fn normalize(url: &str) -> Option<String> {
    let scheme = url.get(..8)?;
    if !scheme.eq_ignore_ascii_case("https://") {
        return None;
    }
    let rest = url.get(8..)?;
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    let (host, port) = split_port(authority)?;
    if !is_host(host) {
        return None;
    }
    let host = host.to_ascii_lowercase();
    Some(match port {
        None | Some(443) => format!("https://{host}"),
        Some(port) => format!("https://{host}:{port}"),
    })
}

/// Splits `host:port`; the host may be an IPv6 address in brackets.
fn split_port(authority: &str) -> Option<(&str, Option<u16>)> {
    let colon = match authority.rfind(']') {
        Some(end) => authority.get(end..)?.find(':').map(|at| at + end),
        None => authority.find(':'),
    };
    match colon {
        None => Some((authority, None)),
        Some(at) => {
            let port = authority.get(at + 1..)?;
            // `parse` would also take a sign.
            let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
            Some((authority.get(..at)?, Some(digits.then(|| port.parse().ok())??)))
        }
    }
}

fn is_host(host: &str) -> bool {
    if let Some(address) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        return address.parse::<std::net::Ipv6Addr>().is_ok();
    }
    crate::id::is_domain_name(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_send_a_credential_elsewhere_is_no_authority() {
        for url in [
            "",
            "https://",
            "https:///tenant",
            "https://login.example/path",
            "https://login.example?x",
            "https://login.example#x",
            "https://a@login.example",
            "https://login.example:0x1",
            "https://login.example:",
            "https://login.example:+1",
            "https://login.example:99999",
            "https://login.example\r\nHost: x",
            "https://[::1",
            "https://[::g]",
            "ftp://login.example",
            "héttps://x",
        ] {
            assert_eq!(normalize(url), None, "{url}");
        }
    }

    #[test]
    fn one_spelling_for_one_place() {
        for (url, same) in [
            ("HTTPS://LOGIN.example:443/", "https://login.example"),
            ("https://127.0.0.1:9", "https://127.0.0.1:9"),
            ("https://[::1]:9/", "https://[::1]:9"),
        ] {
            assert_eq!(normalize(url).as_deref(), Some(same));
        }
    }
}
