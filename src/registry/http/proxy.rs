// SPDX-License-Identifier: Apache-2.0
//! The proxies that the environment names, in the words of curl's and Go's programs: `HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`, each in
//! lower case, too. What is on this machine (`localhost`, loopback addresses) is never asked through one. Pure, but for the
//! environment.

use std::fmt;
use std::net::IpAddr;

use base64::Engine as _;

use super::url::{Origin, Scheme, Url};
use crate::{Context, Error, ErrorKind, Result};

/// Proxies, and for whom there is none.
#[derive(Debug, Clone, Default)]
pub struct Proxies {
    https: Option<Proxy>,
    http: Option<Proxy>,
    direct: Vec<String>,
}

/// A proxy that is spoken to without encryption: what passes it has its own.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Proxy {
    pub(super) origin: Origin,
    /// What it is told of who this is, ready for a header.
    pub(super) authorization: Option<String>,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Proxy").field(&self.origin).finish()
    }
}

impl Proxies {
    /// Those of the environment.
    ///
    /// # Errors
    /// `InvalidInput` for a proxy of another kind, or what is none.
    pub fn of_environment() -> Result<Self> {
        Self::named(|name| std::env::var(name).ok())
    }

    pub(in crate::registry) fn named(get: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let value = |name: &str| {
            let found = get(name).or_else(|| get(&name.to_ascii_lowercase()));
            found.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
        };
        let proxy = |name: &str| {
            value(name).map(|text| Proxy::parse(&text).context(|| format!("understand ${name}"))).transpose()
        };
        let list = value("NO_PROXY").unwrap_or_default().to_ascii_lowercase();
        let direct = list.split([',', ' ']).filter(|name| !name.is_empty()).map(str::to_owned).collect();
        Ok(Self { https: proxy("HTTPS_PROXY")?, http: proxy("HTTP_PROXY")?, direct })
    }

    /// The one on the way to an origin.
    pub(super) fn on_the_way_to(&self, origin: &Origin) -> Option<&Proxy> {
        let proxy = match origin.scheme {
            Scheme::Https => self.https.as_ref(),
            Scheme::Http => self.http.as_ref(),
        };
        proxy.filter(|_| !is_here(&origin.host) && !self.direct.iter().any(|name| covers(name, origin)))
    }
}

impl Proxy {
    /// Reads `[http://][USER:PASSWORD@]HOST[:PORT]`. Without a port it is 80, as that of any address of http.
    fn parse(text: &str) -> Result<Self> {
        let refused = |why: &str| {
            Error::new(ErrorKind::InvalidInput, why.to_owned())
                .with_hint("a proxy is named as http://[USER:PASSWORD@]HOST[:PORT]")
        };
        let rest = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
            Some(_) => return Err(refused("only proxies that are spoken to with http are known")),
            None => text,
        };
        let rest = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let (who, authority) = match rest.rsplit_once('@') {
            Some((who, authority)) => (Some(who), authority),
            None => (None, rest),
        };
        let origin = Origin::new(Scheme::Http, authority).map_err(|_| refused("that is no host and port"))?;
        let decoded = |text: &str| {
            decoded(text).ok_or_else(|| refused("the user or the password is not encoded as in an address"))
        };
        let authorization = match who {
            Some(who) => {
                let (user, password) = who.split_once(':').unwrap_or((who, ""));
                let pair = [decoded(user)?, decoded(password)?].join(&b':');
                Some(format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair)))
            }
            None => None,
        };
        Ok(Self { origin, authorization })
    }

    /// What opens a tunnel to an origin.
    pub(super) fn connect(&self, to: &Origin) -> String {
        let host = if to.host.contains(':') { format!("[{}]", to.host) } else { to.host.clone() };
        let authority = format!("{host}:{}", to.port);
        format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n{}\r\n", self.header())
    }

    /// The line that tells it who this is, or nothing.
    pub(super) fn header(&self) -> String {
        let line = |text: &String| format!("Proxy-Authorization: {text}\r\n");
        self.authorization.as_ref().map(line).unwrap_or_default()
    }

    /// What it is asked for instead of a path.
    pub(super) fn target(url: &Url) -> String {
        format!("{}{}", url.origin, url.path)
    }
}

/// Text with `%XX` in it as bytes.
fn decoded(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if first == b'%' {
            let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = tail.get(2..)?;
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    Some(bytes)
}

fn is_here(host: &str) -> bool {
    host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

/// Whether a name of `NO_PROXY` is of this host: `*`, a host or a domain with all that is in it, an address, a network, each but the
/// last with or without a port.
fn covers(name: &str, origin: &Origin) -> bool {
    if name == "*" {
        return true;
    }
    if let (Some((network, bits)), Ok(address)) = (name.split_once('/'), origin.host.parse::<IpAddr>()) {
        return network.parse().is_ok_and(|network| is_in(address, network, bits));
    }
    let (name, port) = match name.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') => (host, Some(port)),
        _ => (name, None),
    };
    if port.is_some_and(|port| port != origin.port.to_string()) {
        return false;
    }
    let name = name.strip_prefix('*').unwrap_or(name);
    match name.strip_prefix('.') {
        Some(domain) => origin.host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.')),
        None => origin.host == name || origin.host.strip_suffix(name).is_some_and(|rest| rest.ends_with('.')),
    }
}

fn is_in(address: IpAddr, network: IpAddr, bits: &str) -> bool {
    let Ok(bits) = bits.parse::<u32>() else { return false };
    match (address, network) {
        (IpAddr::V4(one), IpAddr::V4(other)) if bits <= 32 => {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            one.to_bits() & mask == other.to_bits() & mask
        }
        (IpAddr::V6(one), IpAddr::V6(other)) if bits <= 128 => {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            one.to_bits() & mask == other.to_bits() & mask
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(variables: &[(&str, &str)]) -> Result<Proxies> {
        let find = |name: &str| variables.iter().find(|(known, _)| *known == name);
        Proxies::named(|name| find(name).map(|(_, value)| (*value).to_owned()))
    }

    fn through(proxies: &Proxies, url: &str) -> Option<String> {
        let origin = Url::parse(url).expect("an address").origin;
        proxies.on_the_way_to(&origin).map(|proxy| proxy.origin.to_string())
    }

    #[test]
    fn who_is_asked_through_which() {
        let found = proxies(&[
            ("HTTPS_PROXY", "http://one:3128"),
            ("http_proxy", "two"),
            ("no_proxy", "inside.example, 10.0.0.0/8,.corp:443,[::1],fd00::/8"),
        ]);
        let found = found.expect("they are named");
        let via = |url: &str| through(&found, url);
        let one = Some("http://one:3128".to_owned());
        assert_eq!(via("https://registry.example"), one);
        assert_eq!(via("http://registry.example:5000"), Some("http://two".to_owned()));
        for direct in [
            "https://localhost:5000",
            "https://127.3.2.1",
            "http://[::1]:5000",
            "https://inside.example:5000",
            "https://a.inside.example",
            "https://10.1.2.3",
            "https://a.corp",
            "https://[fd00::7]",
        ] {
            assert_eq!(via(direct), None, "{direct}");
        }
        for other in ["https://notinside.example", "https://11.1.2.3", "https://a.corp:5000", "https://corp"]
        {
            assert_eq!(via(other), one, "{other}");
        }
        assert_eq!(
            through(&proxies(&[("HTTPS_PROXY", "one"), ("NO_PROXY", "*")]).expect("named"), "https://a"),
            None
        );
        assert_eq!(through(&proxies(&[]).expect("none"), "https://a"), None);
    }

    #[test]
    fn proxies_are_told_who_this_is() {
        let found = Proxy::parse("http://user:p%40ss@proxy:3128/").expect("a proxy");
        let to = Url::parse("https://registry.example/v2/?a=b").expect("an address");
        let asked = found.connect(&to.origin);
        assert!(asked.starts_with("CONNECT registry.example:443 HTTP/1.1\r\n"), "{asked}");
        assert!(asked.ends_with("Proxy-Authorization: Basic dXNlcjpwQHNz\r\n\r\n"), "{asked}");
        assert!(!format!("{found:?}").contains("dXNl"), "it is a secret");
        assert_eq!(Proxy::target(&to), "https://registry.example/v2/?a=b");
        for other in ["socks5://proxy", "https://proxy", "http://", "a b", "u%zz@proxy"] {
            let error = Proxy::parse(other).expect_err(other);
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(!error.chain().contains("zz"), "{}", error.chain());
        }
    }
}
