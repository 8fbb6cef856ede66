//! The query string of a token request, or the form that stands for it.

use std::borrow::Cow;

/// The parameters that decide which token is meant. An empty one counts as absent: Go's SDK sends
/// `clientid=` for "no client id".
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Query<'a> {
    pub(crate) resource: Option<Cow<'a, str>>,
    pub(crate) client_id: Option<Cow<'a, str>>,
    pub(crate) object_id: Option<Cow<'a, str>>,
    pub(crate) resource_id: Option<Cow<'a, str>>,
    /// A token that was fetched just now is wanted, and not one that is held.
    pub(crate) bypass_cache: bool,
}

/// What is wrong with a query string.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadQuery {
    #[error("the query string is not UTF-8; encode it as UTF-8, then percent-encode it")]
    NotUtf8,
    #[error("the query gives `{0}` twice with different values; give it once")]
    Twice(&'static str),
}

impl<'a> Query<'a> {
    /// Reads `query` and `form` as one. They are form-encoded as all SDKs do, or not encoded at all
    /// as Python's.
    pub(crate) fn parse(query: &'a str, form: &'a str) -> Result<Self, BadQuery> {
        let mut read = Self::default();
        for pair in pairs(query).chain(pairs(form)) {
            let (name, value) = cut(pair, b'=');
            let value = value.unwrap_or_default();
            let (slot, name) = match &*decode(name)? {
                "bypass_cache" => {
                    read.bypass_cache |= decode(value)?.eq_ignore_ascii_case("true");
                    continue;
                }
                "resource" => (&mut read.resource, "resource"),
                "client_id" | "clientid" => (&mut read.client_id, "client_id"),
                "object_id" | "principal_id" => (&mut read.object_id, "object_id"),
                "mi_res_id" | "msi_res_id" | "msi-res-id" | "resource_id" => {
                    (&mut read.resource_id, "mi_res_id")
                }
                // Any api-version is accepted, and what is not known is for someone else.
                _ => continue,
            };
            let value = decode(value)?;
            match slot {
                _ if value.is_empty() => {}
                Some(earlier) if *earlier != value => return Err(BadQuery::Twice(name)),
                _ => *slot = Some(value),
            }
        }
        Ok(read)
    }
}

/// What stands between the `&` of `text`.
fn pairs(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let (pair, after) = cut(rest?, b'&');
        rest = after;
        Some(pair)
    })
}

/// What is before the first `separator`, and what is after it. `str::split` prepares for longer
/// texts: in a program that is optimised for size, that is a tenth of a request's instructions.
fn cut(text: &str, separator: u8) -> (&str, Option<&str>) {
    match text.bytes().position(|byte| byte == separator) {
        Some(at) => (text.get(..at).unwrap_or_default(), text.get(at + 1..)),
        None => (text, None),
    }
}

/// Decodes `application/x-www-form-urlencoded`: `+` is a space; a `%` without two hexadecimal
/// digits stands for itself, as in the URL standard.
fn decode(text: &str) -> Result<Cow<'_, str>, BadQuery> {
    if !text.bytes().any(|byte| matches!(byte, b'+' | b'%')) {
        return Ok(text.into());
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let (decoded, next) = match (byte, after) {
            (b'+', _) => (b' ', after),
            (b'%', [high, low, next @ ..]) => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => ((high << 4) | low, next),
                _ => (byte, after),
            },
            _ => (byte, after),
        };
        bytes.push(decoded);
        rest = next;
    }
    String::from_utf8(bytes).map(Cow::Owned).map_err(|_| BadQuery::NotUtf8)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_alias_is_known_and_empty_is_absent() {
        let cases = [
            ("client_id=c&resource=r", "c", "", ""),
            ("clientid=c&resource=r", "c", "", ""),
            ("clientid=&client_id=c&resource=r", "c", "", ""),
            ("clientid=&resource=r", "", "", ""),
            ("object_id=o&resource=r", "", "o", ""),
            ("principal_id=o&resource=r", "", "o", ""),
            ("mi_res_id=m&resource=r", "", "", "m"),
            ("msi_res_id=m&resource=r", "", "", "m"),
            ("msi-res-id=m&resource=r", "", "", "m"),
            ("resource_id=m&resource=r", "", "", "m"),
            ("api-version=2017-09-01&resource=r&bypass_cache=true", "", "", ""),
        ];
        for (text, client, object, id) in cases {
            let some = |value: &'static str| (!value.is_empty()).then_some(value.into());
            let expected = Query {
                resource: some("r"),
                client_id: some(client),
                object_id: some(object),
                resource_id: some(id),
                bypass_cache: text.contains("bypass_cache"),
            };
            assert_eq!(Query::parse(text, ""), Ok(expected.clone()), "{text}");
            assert_eq!(Query::parse("", text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn spaces_and_slashes_arrive_in_three_spellings() {
        for text in
            ["resource_id=%2Frg+one%2Fx", "resource_id=%2frg%20one/x", "resource_id=/rg+one/x"]
        {
            assert_eq!(Query::parse(text, "").unwrap().resource_id.as_deref(), Some("/rg one/x"));
        }
        let plain = Query::parse("resource=https://vault.azure.net", "").unwrap();
        assert_eq!(plain.resource.as_deref(), Some("https://vault.azure.net"));
        let odd = Query::parse("resource=100%&client_id=%zz", "object_id=%4").unwrap();
        assert_eq!(odd.resource.as_deref(), Some("100%"));
        assert_eq!(odd.client_id.as_deref(), Some("%zz"));
        assert_eq!(odd.object_id.as_deref(), Some("%4"));
    }

    #[test]
    fn what_could_mean_two_things_is_refused() {
        assert_eq!(Query::parse("client_id=a&clientid=b", ""), Err(BadQuery::Twice("client_id")));
        assert_eq!(Query::parse("resource=a", "resource=b"), Err(BadQuery::Twice("resource")));
        assert!(Query::parse("client_id=a&clientid=a", "").is_ok());
        assert_eq!(Query::parse("resource=%ff", ""), Err(BadQuery::NotUtf8));
        assert_eq!(Query::parse("", ""), Ok(Query::default()));
    }
}
