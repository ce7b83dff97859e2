// SPDX-License-Identifier: Apache-2.0
//! What a registry wants to know before it answers: the `WWW-Authenticate` header, read. Pure.

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// A user and a password.
    Basic,
    /// A token from that address.
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

/// The first challenge of these headers that can be met; Bearer before Basic.
pub(super) fn choose<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Challenge> {
    let all: Vec<Challenge> = headers.filter_map(parse).collect();
    all.iter().find(|one| matches!(one, Challenge::Bearer { .. })).or(all.first()).cloned()
}

fn parse(header: &str) -> Option<Challenge> {
    let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let parameters = parameters(rest);
    let find =
        |name: &str| parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
    Some(Challenge::Bearer { realm: find("realm")?, service: find("service"), scope: find("scope") })
}

/// `name="value", name=value`. A value in quotes may have commas, and backslashes before quotes.
fn parameters(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    while let Some((name, after)) = rest.split_once('=') {
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted_string(quoted),
            None => {
                let end = after.find(',').unwrap_or(after.len());
                (after[..end].trim().to_owned(), &after[end..])
            }
        };
        found.push((name.trim().to_ascii_lowercase(), value));
        rest = after.trim_start().trim_start_matches(',').trim_start();
    }
    found
}

/// What is in the quotes, and what is behind them.
fn quoted_string(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read() {
        let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| {
            let owned = |text: Option<&str>| text.map(str::to_owned);
            Some(Challenge::Bearer { realm: realm.to_owned(), service: owned(service), scope: owned(scope) })
        };
        for (headers, expected) in [
            (&["Basic realm=\"x\""][..], Some(Challenge::Basic)),
            (&["basic"], Some(Challenge::Basic)),
            (
                &["Bearer realm=\"https://a/token\",service=\"r\",scope=\"repository:x:pull,push\""],
                bearer("https://a/token", Some("r"), Some("repository:x:pull,push")),
            ),
            (&["bearer realm=https://a/t , Service=r"], bearer("https://a/t", Some("r"), None)),
            (&["Basic realm=\"x\"", "Bearer realm=\"https://a\""], bearer("https://a", None, None)),
            (&["Bearer realm=\"a\\\"b\""], bearer("a\"b", None, None)),
            (&["Bearer service=\"r\""], None),
            (&["Bearer realm=\"unended"], bearer("unended", None, None)),
            (&["Negotiate"], None),
            (&[""], None),
            (&[], None),
        ] {
            assert_eq!(choose(headers.iter().copied()), expected, "{headers:?}");
        }
    }
}
