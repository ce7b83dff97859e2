// SPDX-License-Identifier: Apache-2.0
//! Patterns of a line: words, and `{name}` or `{}` for what varies between them.
//!
//! The words are looked for from left to right, each as near as possible; what varies is what lies between. A `{name}`
//! at the end takes the rest. Everything in a line may be the container's choice, so a match takes linear time for each
//! piece, and a pattern has few.

/// What varied in a line, by name.
pub(super) type Captures<'a> = Vec<(&'static str, &'a [u8])>;

enum Piece {
    Words(&'static str),
    Varies(&'static str),
}

/// The pieces of a pattern, in order.
fn pieces(mut pattern: &'static str) -> impl Iterator<Item = Piece> {
    std::iter::from_fn(move || {
        if pattern.is_empty() {
            return None;
        }
        let varies = pattern.strip_prefix('{').and_then(|rest| rest.split_once('}'));
        if let Some((name, rest)) = varies {
            pattern = rest;
            return Some(Piece::Varies(name));
        }
        let end = pattern.get(1..).and_then(|rest| rest.find('{')).map_or(pattern.len(), |at| at + 1);
        let (words, rest) = pattern.split_at(end);
        pattern = rest;
        Some(Piece::Words(words))
    })
}

/// What varied, if the pattern is in the line.
pub(super) fn matches<'a>(pattern: &'static str, line: &'a [u8]) -> Option<Captures<'a>> {
    let mut captures = Vec::new();
    let mut rest = line;
    let mut open: Option<&'static str> = None;
    for piece in pieces(pattern) {
        match piece {
            Piece::Varies(name) => open = Some(name),
            Piece::Words(words) => {
                let at = find(rest, words.as_bytes())?;
                let (before, after) = rest.split_at_checked(at)?;
                if let Some(name) = open.take().filter(|name| !name.is_empty()) {
                    captures.push((name, before));
                }
                rest = after.get(words.len()..)?;
            }
        }
    }
    if let Some(name) = open.filter(|name| !name.is_empty()) {
        captures.push((name, rest));
    }
    Some(captures)
}

/// The names of what varies in a pattern or in a sentence.
#[cfg(test)]
pub(super) fn names(pattern: &'static str) -> Vec<&'static str> {
    pieces(pattern)
        .filter_map(|piece| match piece {
            Piece::Varies(name) => Some(name),
            Piece::Words(_) => None,
        })
        .collect()
}

fn find(line: &[u8], words: &[u8]) -> Option<usize> {
    let first = *words.first()?;
    let mut start = 0;
    loop {
        let at = line.get(start..)?.iter().position(|&b| b == first)? + start;
        if line.get(at..)?.starts_with(words) {
            return Some(at);
        }
        start = at + 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(pattern: &'static str, line: &str) -> Option<Vec<(String, String)>> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        matches(pattern, line.as_bytes())
            .map(|found| found.into_iter().map(|(name, value)| (name.to_owned(), text(value))).collect())
    }

    fn found(list: &[(&str, &str)]) -> Option<Vec<(String, String)>> {
        Some(list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn what_varies_is_taken_from_the_line() {
        let table = [
            ("no words", "there are no words here", found(&[])),
            ("no words", "there are words", None),
            ("File {path} has bad size {is} (expect {was})", "File a b has bad size 1 (expect 2)", {
                found(&[("path", "a b"), ("is", "1"), ("was", "2")])
            }),
            ("open {path}: {why}", "can't open x: y: z", found(&[("path", "x"), ("why", "y: z")])),
            ("{pid} killed by signal {}: ", "7 killed by signal 9: Killed", found(&[("pid", "7")])),
            ("a {x} b {y} c", "a 1 c b", None),
            ("{all}", "anything", found(&[("all", "anything")])),
            ("{x}!", "", None),
            ("aab", "aaab", found(&[])),
        ];
        for (pattern, line, expected) in table {
            assert_eq!(shown(pattern, line), expected, "{pattern} in {line}");
        }
    }
}
