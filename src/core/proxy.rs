//! HTTP proxies, as `HTTPS_PROXY` and `NO_PROXY` name them.

use std::fmt;
use std::net::IpAddr;

/// The port of a proxy that names none.
const DEFAULT_PORT: u16 = 80;

/// An HTTP proxy. Its `Debug` shows no credentials.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    /// Its name or address; an IPv6 address in brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// User name and password, as bytes that are sent in Base64: `user:password`.
    pub credentials: Option<Vec<u8>>,
}

/// Where no proxy is asked.
///
/// As Go's `golang.org/x/net/http/httpproxy` reads it, which most programs of a cluster use: names
/// with their subdomains, `.name` for subdomains alone, addresses, CIDR blocks, each with `:port` or
/// without, and `*`; besides, always the loopback.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NoProxy(Vec<(Place, Option<u16>)>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Everywhere,
    /// With its subdomains.
    Domain(String),
    /// Without itself.
    Subdomains(String),
    Block(IpAddr, u32),
}

impl Proxy {
    /// Reads `[http://][user[:password]@]host[:port][/]`; `None` if it is anything else. TLS to the
    /// proxy itself is not spoken, nor SOCKS.
    ///
    /// ```
    /// use imdslet_core::proxy::Proxy;
    /// let proxy = Proxy::parse("http://me:p%40ss@proxy.example:3128/").unwrap();
    /// assert_eq!((&*proxy.host, proxy.port), ("proxy.example", 3128));
    /// assert_eq!(proxy.credentials.as_deref(), Some(&b"me:p@ss"[..]));
    /// assert!(Proxy::parse("socks5://proxy.example").is_none());
    /// ```
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let rest = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
            Some(_) => return None,
            None => text,
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (user, server) = match rest.rsplit_once('@') {
            Some((user, server)) => (Some(user), server),
            None => (None, rest),
        };
        let (host, port) = host_and_port(server)?;
        let is_host = crate::id::is_domain_name(host) || bracketed(host).is_some();
        let credentials = match user {
            None | Some("") => None,
            // A password may be absent; what is sent has the colon all the same.
            Some(user) if user.contains(':') => Some(unescaped(user)?),
            Some(user) => Some(unescaped(&format!("{user}:"))?),
        };
        is_host.then(|| Self {
            host: host.to_ascii_lowercase(),
            port: port.unwrap_or(DEFAULT_PORT),
            credentials,
        })
    }
}

/// Where it is, without credentials.
impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}:{}", self.host, self.port)
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({self})")
    }
}

impl NoProxy {
    /// Reads a list with `,` or spaces between. What is nothing of it matches nothing.
    #[must_use]
    pub fn parse(list: &str) -> Self {
        Self(list.split([',', ' ']).filter_map(|entry| place(entry.trim())).collect())
    }

    /// Whether `host` (an IPv6 address in brackets) is reached without a proxy at `port`.
    ///
    /// ```
    /// use imdslet_core::proxy::NoProxy;
    /// let list = NoProxy::parse("example.com, .svc, 10.0.0.0/8, other.example:8443");
    /// assert!(list.covers("login.example.com", 443));
    /// assert!(!list.covers("other.example", 443));
    /// ```
    #[must_use]
    pub fn covers(&self, host: &str, port: u16) -> bool {
        let host = host.to_ascii_lowercase();
        let address = bracketed(&host).or_else(|| host.parse().ok());
        if host == "localhost" || address.is_some_and(|address| address.is_loopback()) {
            return true;
        }
        self.0.iter().any(|(place, only)| {
            only.is_none_or(|only| only == port) && place.contains(&host, address)
        })
    }
}

impl Place {
    fn contains(&self, host: &str, address: Option<IpAddr>) -> bool {
        let is_below = |domain: &str| {
            host.strip_suffix(domain).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
        };
        match self {
            Self::Everywhere => true,
            Self::Domain(domain) => host == domain || is_below(domain),
            Self::Subdomains(domain) => is_below(domain),
            Self::Block(block, bits) => address.is_some_and(|own| in_block(own, *block, *bits)),
        }
    }
}

fn place(entry: &str) -> Option<(Place, Option<u16>)> {
    let entry = entry.to_ascii_lowercase();
    if entry == "*" {
        return Some((Place::Everywhere, None));
    }
    if let Some((address, bits)) = entry.split_once('/') {
        let address: IpAddr = address.parse().ok()?;
        let bits = bits.parse().ok().filter(|bits| *bits <= width(address))?;
        return Some((Place::Block(address, bits), None));
    }
    // Without brackets it is an address, and its last group no port.
    if let Ok(address) = entry.parse::<IpAddr>() {
        return Some((Place::Block(address, width(address)), None));
    }
    let (host, port) = host_and_port(&entry)?;
    if let Some(address) = bracketed(host).or_else(|| host.parse().ok()) {
        return Some((Place::Block(address, width(address)), port));
    }
    let below = host.strip_prefix("*.").or_else(|| host.strip_prefix('.'));
    let name = below.unwrap_or(host);
    let place = if below.is_some() { Place::Subdomains } else { Place::Domain };
    crate::id::is_domain_name(name).then(|| (place(name.to_owned()), port))
}

fn width(address: IpAddr) -> u32 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn in_block(address: IpAddr, block: IpAddr, bits: u32) -> bool {
    let number = |address: IpAddr| match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    };
    let host_bits = width(block) - bits;
    let network = |address| number(address).checked_shr(host_bits).unwrap_or_default();
    address.is_ipv4() == block.is_ipv4() && network(address) == network(block)
}

/// Splits `host[:port]`; the host may be an IPv6 address in brackets.
fn host_and_port(text: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = match text.rfind(':') {
        Some(at) if text.rfind(']').is_none_or(|end| end < at) => {
            (text.get(..at)?, Some(text.get(at + 1..)?))
        }
        _ => (text, None),
    };
    // `parse` would also take a sign.
    let number =
        |port: &str| port.bytes().all(|b| b.is_ascii_digit()).then(|| port.parse().ok())?;
    Some((host, port.map(|port| number(port).ok_or(())).transpose().ok()?))
}

fn bracketed(host: &str) -> Option<IpAddr> {
    let address = host.strip_prefix('[')?.strip_suffix(']')?;
    address.parse().ok().map(IpAddr::V6)
}

/// The bytes of a text with `%XX` in it.
fn unescaped(text: &str) -> Option<Vec<u8>> {
    let mut pieces = text.split('%');
    let mut bytes = pieces.next()?.as_bytes().to_vec();
    for piece in pieces {
        let digits = piece.get(..2).filter(|two| two.bytes().all(|b| b.is_ascii_hexdigit()))?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend(piece.get(2..)?.as_bytes());
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_a_host_with_what_it_asks_for() {
        for (text, host, port, credentials) in [
            ("http://proxy.example:3128", "proxy.example", 3128, None),
            ("HTTP://Proxy.Example/", "proxy.example", 80, None),
            ("proxy.example:3128", "proxy.example", 3128, None),
            ("10.0.0.9:3128", "10.0.0.9", 3128, None),
            ("http://[fd00::9]:3128", "[fd00::9]", 3128, None),
            ("http://[fd00::9]", "[fd00::9]", 80, None),
            ("http://me@proxy.example", "proxy.example", 80, Some("me:")),
            ("http://me:a:b@proxy.example", "proxy.example", 80, Some("me:a:b")),
            ("http://me:%40%2f%3A@proxy.example", "proxy.example", 80, Some("me:@/:")),
            ("http://@proxy.example", "proxy.example", 80, None),
        ] {
            let proxy = Proxy::parse(text).unwrap();
            assert_eq!((&*proxy.host, proxy.port), (host, port), "{text}");
            assert_eq!(proxy.credentials.as_deref(), credentials.map(str::as_bytes), "{text}");
            assert!(!format!("{proxy} {proxy:?}").contains("me"), "{proxy:?}");
        }
        for text in [
            "",
            "https://proxy.example",
            "socks5://proxy.example",
            "http://",
            "http://proxy.example/path",
            "http://proxy.example:x",
            "http://proxy.example:+1",
            "http://proxy.example:99999",
            "http://me:%4@proxy.example",
            "http://me:%zz@proxy.example",
            "http://proxy example",
            "http://proxy.example\r\nX: y",
            "fd00::9",
        ] {
            assert_eq!(Proxy::parse(text), None, "{text}");
        }
    }

    #[test]
    fn where_no_proxy_is_asked() {
        let login = "login.microsoftonline.com";
        for (list, host, port, covered) in [
            ("", login, 443, false),
            ("*", login, 443, true),
            ("microsoftonline.com", login, 443, true),
            ("MicrosoftOnline.com", "LOGIN.microsoftonline.com", 443, true),
            (login, login, 443, true),
            (".microsoftonline.com", login, 443, true),
            ("*.microsoftonline.com", login, 443, true),
            (".login.microsoftonline.com", login, 443, false),
            ("online.com", login, 443, false),
            ("login", login, 443, false),
            ("a.example,microsoftonline.com", login, 443, true),
            ("a.example microsoftonline.com", login, 443, true),
            (" a.example , microsoftonline.com ", login, 443, true),
            ("microsoftonline.com:443", login, 443, true),
            ("microsoftonline.com:8443", login, 443, false),
            ("10.0.0.0/8", "10.1.2.3", 443, true),
            ("10.0.0.0/8", "11.1.2.3", 443, false),
            ("10.0.0.0/8", login, 443, false),
            ("10.1.2.3", "10.1.2.3", 443, true),
            ("10.1.2.3:8443", "10.1.2.3", 443, false),
            ("10.1.2.3:443", "10.1.2.3", 443, true),
            ("0.0.0.0/0", "10.1.2.3", 443, true),
            ("0.0.0.0/0", "[fd00::1]", 443, false),
            ("fd00::/8", "[fd00::1]", 443, true),
            ("fd00::1", "[fd00::1]", 443, true),
            ("[fd00::1]:443", "[fd00::1]", 443, true),
            ("[fd00::1]:8443", "[fd00::1]", 443, false),
            ("::/0", "[fd00::1]", 443, true),
            ("10.0.0.0/33", "10.1.2.3", 443, false),
            ("10.0.0.0/x", "10.1.2.3", 443, false),
            ("a..b,**,:443,.", login, 443, false),
            ("", "localhost", 8443, true),
            ("", "127.0.0.2", 8443, true),
            ("", "[::1]", 8443, true),
        ] {
            assert_eq!(NoProxy::parse(list).covers(host, port), covered, "{list} {host}:{port}");
        }
    }
}
