// SPDX-License-Identifier: Apache-2.0
//! Addresses of HTTP: taken apart, and resolved against another one as `Location` headers are. Pure.

use std::fmt;

use super::invalid_answer;
use crate::Result;

/// Longest address that is followed.
const LONGEST: usize = 16 << 10;

/// Whether a connection is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::registry) enum Scheme {
    Http,
    Https,
}

impl Scheme {
    fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// Who is spoken to. Secrets that are for one origin are for no other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::registry) struct Origin {
    pub(in crate::registry) scheme: Scheme,
    /// Name or address, without the brackets of an IPv6 address.
    pub(in crate::registry) host: String,
    pub(in crate::registry) port: u16,
}

impl Origin {
    /// Reads `HOST[:PORT]`.
    pub(in crate::registry) fn new(scheme: Scheme, authority: &str) -> Result<Self> {
        let wrong = || invalid_answer(format!("{authority:?} is not a host and a port"));
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = rest.split_once(']').ok_or_else(wrong)?;
                (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':').ok_or_else(wrong)?) })
            }
            None => match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        if host.is_empty() || !host.chars().all(good) {
            return Err(wrong());
        }
        let default = if scheme == Scheme::Https { 443 } else { 80 };
        let port = port.map_or(Ok(default), |port| port.parse().map_err(|_| wrong()))?;
        Ok(Self { scheme, host: host.to_ascii_lowercase(), port })
    }

    /// As the `Host` header has it.
    pub(super) fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        match (self.scheme, self.port) {
            (Scheme::Https, 443) | (Scheme::Http, 80) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.name(), self.authority())
    }
}

/// An address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::registry) struct Url {
    pub(in crate::registry) origin: Origin,
    /// Path and query, which begin with a slash.
    pub(in crate::registry) path: String,
}

impl Url {
    pub(in crate::registry) fn new(origin: &Origin, path: impl Into<String>) -> Self {
        Self { origin: origin.clone(), path: path.into() }
    }

    /// Reads an absolute address.
    pub(in crate::registry) fn parse(text: &str) -> Result<Self> {
        let wrong = || invalid_answer(format!("{} is not an address of http or https", shortened(text)));
        if text.len() > LONGEST || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(wrong());
        }
        let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return Err(wrong()),
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let path = path.split('#').next().unwrap_or_default();
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Self { origin: Origin::new(scheme, authority)?, path })
    }

    /// The address that a `Location` in an answer from this one means.
    pub(in crate::registry) fn join(&self, location: &str) -> Result<Self> {
        let here = |path: String| {
            let absolute = format!("{}{path}", self.origin);
            Self::parse(&absolute)
        };
        if location.contains("://") && !location.starts_with(['/', '?']) {
            return Self::parse(location);
        }
        if let Some(rest) = location.strip_prefix("//") {
            return Self::parse(&format!("{}://{rest}", self.origin.scheme.name()));
        }
        let own = self.path.split('?').next().unwrap_or_default();
        match location.chars().next() {
            Some('/') => here(location.to_owned()),
            Some('?') => here(format!("{own}{location}")),
            _ => here(format!("{}/{location}", own.rsplit_once('/').map_or("", |(directory, _)| directory))),
        }
    }

    /// The same with more in the query.
    pub(in crate::registry) fn with_query(mut self, name: &str, value: &str) -> Self {
        self.path.push(if self.path.contains('?') { '&' } else { '?' });
        self.path.push_str(&format!("{}={}", encoded(name), encoded(value)));
        self
    }
}

impl fmt::Display for Url {
    /// Without the query, in which secrets may be.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.split('?').next().unwrap_or_default();
        write!(f, "{}{}", self.origin, shortened(path))
    }
}

fn shortened(text: &str) -> String {
    let shown: String = text.chars().take(200).map(|c| if c.is_control() { '?' } else { c }).collect();
    if shown.len() < text.len() { shown + "…" } else { shown }
}

/// What a query or a form has for a text.
pub(in crate::registry) fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_apart() {
        for (text, origin, path) in [
            ("https://registry.example", "https://registry.example", "/"),
            ("HTTP://Registry.example:5000/v2/?a=b#c", "http://registry.example:5000", "/v2/?a=b"),
            ("http://[::1]:5000/x", "http://[::1]:5000", "/x"),
            ("https://h:443?x=y", "https://h", "/?x=y"),
        ] {
            let url = Url::parse(text).expect(text);
            assert_eq!((url.origin.to_string().as_str(), url.path.as_str()), (origin, path), "{text}");
        }
        for text in [
            "",
            "h",
            "ftp://h/",
            "http://",
            "http://h:x/",
            "http://h:70000/",
            "http://a b/",
            "http://u@h/",
            "http://h/\r\nX: y",
        ] {
            assert!(Url::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn locations_are_resolved() {
        let base = Url::parse("http://h:5000/v2/a/blobs/uploads/?n=1").expect("an address");
        for (location, resolved) in [
            ("https://other/x?y", "https://other/x?y"),
            ("//other/x", "http://other/x"),
            ("/v2/b?u=http://z/", "http://h:5000/v2/b?u=http://z/"),
            ("?state=1", "http://h:5000/v2/a/blobs/uploads/?state=1"),
            ("uuid", "http://h:5000/v2/a/blobs/uploads/uuid"),
        ] {
            let url = base.join(location).expect(location);
            assert_eq!(format!("{}{}", url.origin, url.path), resolved);
        }
        assert!(base.join("/a\nb").is_err());
        let query = base.with_query("digest", "sha256:ab/c");
        assert_eq!(query.path, "/v2/a/blobs/uploads/?n=1&digest=sha256%3Aab%2Fc");
        assert_eq!(query.to_string(), "http://h:5000/v2/a/blobs/uploads/", "the query is not shown");
    }
}
