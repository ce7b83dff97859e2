// SPDX-License-Identifier: Apache-2.0
//! Values of D-Bus written as text, in the format of GVariant ("GVariant Text Format"), as annotations have them:
//! `true`, `5`, `uint64 5`, `'text'`, `['a', 'b']`, `@as []`, `('a', 1)`, `{'k': <1>}`, `<'x'>`. Pure.
//!
//! Two steps: the text becomes a tree of [`Literal`]s, and these become values of a type, which is the one that is asked
//! for or follows from them: a number without a type is an int32, or a double if it is written like one.

use super::bus::{Value, split};

/// Brackets within brackets.
const DEEPEST: usize = 32;

type Parsed<T> = std::result::Result<T, String>;

/// Reads a value.
pub(super) fn parse(text: &str) -> Parsed<Value> {
    let mut parser = Parser { rest: text };
    let literal = parser.literal(DEEPEST)?;
    parser.skip_space();
    if !parser.rest.is_empty() {
        return Err(format!("{:?} follows the value", parser.rest));
    }
    let signature = literal.natural_type()?;
    literal.to_value(&signature)
}

#[derive(Debug, Clone, PartialEq)]
enum Literal {
    Bool(bool),
    Number(String),
    Text(String),
    Bytes(Vec<u8>),
    Array(Vec<Literal>),
    Tuple(Vec<Literal>),
    Dictionary(Vec<(Literal, Literal)>),
    Variant(Box<Literal>),
    /// With its type.
    Typed(String, Box<Literal>),
}

/// The words that may stand before a value.
const KEYWORDS: [(&str, &str); 12] = [
    ("boolean", "b"),
    ("byte", "y"),
    ("int16", "n"),
    ("uint16", "q"),
    ("int32", "i"),
    ("uint32", "u"),
    ("int64", "x"),
    ("uint64", "t"),
    ("double", "d"),
    ("string", "s"),
    ("objectpath", "o"),
    ("signature", "g"),
];

struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn word(&mut self, belongs: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|c| !belongs(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }

    /// Whether this comes next; then it is taken.
    fn eat(&mut self, mark: char) -> bool {
        self.skip_space();
        let rest = self.rest.strip_prefix(mark);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn expect(&mut self, mark: char) -> Parsed<()> {
        if self.eat(mark) { Ok(()) } else { Err(format!("{mark:?} is missing before {:?}", self.rest)) }
    }

    fn literal(&mut self, depth: usize) -> Parsed<Literal> {
        let depth = depth.checked_sub(1).ok_or("it is nested too deeply")?;
        self.skip_space();
        let first = self.rest.chars().next().ok_or("there is no value")?;
        match first {
            '\'' | '"' => self.quoted().map(Literal::Text),
            'b' if self.rest.starts_with("b'") || self.rest.starts_with("b\"") => {
                self.rest = &self.rest[1..];
                let mut bytes = self.quoted()?.into_bytes();
                bytes.push(0);
                Ok(Literal::Bytes(bytes))
            }
            '[' => self.list('[', ']', depth).map(Literal::Array),
            '(' => self.list('(', ')', depth).map(Literal::Tuple),
            '{' => self.dictionary(depth),
            '<' => {
                self.expect('<')?;
                let inner = self.literal(depth)?;
                self.expect('>')?;
                Ok(Literal::Variant(Box::new(inner)))
            }
            '@' => {
                self.rest = &self.rest[1..];
                let signature = self.word(|c| !c.is_whitespace()).to_owned();
                match split(&signature) {
                    Ok((_, "")) => Ok(Literal::Typed(signature, Box::new(self.literal(depth)?))),
                    _ => Err(format!("{signature:?} is no type")),
                }
            }
            '0'..='9' | '-' | '+' | '.' => {
                let number = self.word(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
                Ok(Literal::Number(number.to_owned()))
            }
            _ => self.named(depth),
        }
    }

    fn named(&mut self, depth: usize) -> Parsed<Literal> {
        let word = self.word(|c| c.is_ascii_alphanumeric() || c == '_');
        match word {
            "true" => Ok(Literal::Bool(true)),
            "false" => Ok(Literal::Bool(false)),
            "inf" | "nan" => Ok(Literal::Number(word.to_owned())),
            _ => match KEYWORDS.iter().find(|(keyword, _)| *keyword == word) {
                Some((_, signature)) => {
                    Ok(Literal::Typed((*signature).to_owned(), Box::new(self.literal(depth)?)))
                }
                None => Err(format!("{:?} is no value", if word.is_empty() { self.rest } else { word })),
            },
        }
    }

    fn list(&mut self, open: char, close: char, depth: usize) -> Parsed<Vec<Literal>> {
        self.expect(open)?;
        let mut list = Vec::new();
        while !self.eat(close) {
            list.push(self.literal(depth)?);
            // A tuple of one is written with a comma after it.
            if !self.eat(',') {
                self.expect(close)?;
                break;
            }
        }
        Ok(list)
    }

    fn dictionary(&mut self, depth: usize) -> Parsed<Literal> {
        self.expect('{')?;
        let mut entries = Vec::new();
        while !self.eat('}') {
            let key = self.literal(depth)?;
            self.expect(':')?;
            entries.push((key, self.literal(depth)?));
            if !self.eat(',') {
                self.expect('}')?;
                break;
            }
        }
        Ok(Literal::Dictionary(entries))
    }

    fn quoted(&mut self) -> Parsed<String> {
        let mut chars = self.rest.chars();
        let quote = chars.next();
        let mut text = String::new();
        loop {
            match chars.next() {
                None => return Err(format!("the text {:?} does not end", self.rest)),
                Some(end) if Some(end) == quote => break,
                Some('\\') => text.extend(escaped(&mut chars)?),
                Some(other) => text.push(other),
            }
        }
        self.rest = chars.as_str();
        Ok(text)
    }
}

/// What follows a backslash; the end of a line stands for nothing.
fn escaped(chars: &mut std::str::Chars<'_>) -> Parsed<Option<char>> {
    let bad = || "what follows a backslash is no character".to_owned();
    Ok(Some(match chars.next().ok_or_else(bad)? {
        '\n' => return Ok(None),
        'u' => unicode(chars, 4).ok_or_else(bad)?,
        'U' => unicode(chars, 8).ok_or_else(bad)?,
        'a' => '\x07',
        'b' => '\x08',
        'f' => '\x0c',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\x0b',
        other => other,
    }))
}

fn unicode(chars: &mut std::str::Chars<'_>, digits: usize) -> Option<char> {
    let code: String = chars.by_ref().take(digits).collect();
    let number = u32::from_str_radix(&code, 16).ok().filter(|_| code.len() == digits);
    number.and_then(char::from_u32).filter(|c| *c != '\0')
}

impl Literal {
    /// The type that it has by itself.
    fn natural_type(&self) -> Parsed<String> {
        Ok(match self {
            Self::Bool(_) => "b".to_owned(),
            Self::Number(digits) => if is_double(digits) { "d" } else { "i" }.to_owned(),
            Self::Text(_) => "s".to_owned(),
            Self::Bytes(_) => "ay".to_owned(),
            Self::Variant(_) => "v".to_owned(),
            Self::Typed(signature, _) => signature.clone(),
            Self::Tuple(fields) => {
                let fields = fields.iter().map(Self::natural_type).collect::<Parsed<String>>()?;
                format!("({fields})")
            }
            Self::Array(elements) => format!("a{}", common_type(elements.iter())?),
            Self::Dictionary(entries) => {
                let keys = common_type(entries.iter().map(|(key, _)| key))?;
                format!("a{{{keys}{}}}", common_type(entries.iter().map(|(_, value)| value))?)
            }
        })
    }

    /// The value of that type.
    fn to_value(&self, signature: &str) -> Parsed<Value> {
        let wrong = || format!("a value of the type {signature:?} is expected");
        Ok(match (self, signature.as_bytes()) {
            (Self::Typed(own, inner), _) if own == signature => inner.to_value(own)?,
            (Self::Typed(..), _) => return Err(wrong()),
            (Self::Bool(value), b"b") => Value::Bool(*value),
            (Self::Number(digits), _) => number(digits, signature)?,
            (Self::Text(text), b"s") => Value::Text(text.clone()),
            (Self::Text(text), b"o") => Value::ObjectPath(text.clone()),
            (Self::Text(text), b"g") => Value::Signature(text.clone()),
            (Self::Bytes(bytes), b"ay") => Value::bytes(bytes),
            (Self::Variant(inner), b"v") => Value::variant(inner.to_value(&inner.natural_type()?)?),
            (Self::Array(elements), [b'a', element @ ..]) if !element.starts_with(b"{") => {
                let element = &signature[1..];
                let values = elements.iter().map(|e| e.to_value(element)).collect::<Parsed<_>>()?;
                Value::Array(element.to_owned(), values)
            }
            (Self::Tuple(fields), [b'(', .., b')']) => {
                let mut types = &signature[1..signature.len() - 1];
                let mut values = Vec::new();
                for field in fields {
                    let (first, rest) = split(types).map_err(|_| wrong())?;
                    values.push(field.to_value(first)?);
                    types = rest;
                }
                if !types.is_empty() {
                    return Err(wrong());
                }
                Value::Struct(values)
            }
            (Self::Dictionary(entries), [b'a', b'{', .., b'}']) => {
                let types = &signature[2..signature.len() - 1];
                let (key_type, value_type) = split(types).map_err(|_| wrong())?;
                let entry = |(key, value): &(Self, Self)| {
                    Ok(Value::Entry(Box::new((key.to_value(key_type)?, value.to_value(value_type)?))))
                };
                Value::Array(signature[1..].to_owned(), entries.iter().map(entry).collect::<Parsed<_>>()?)
            }
            _ => return Err(wrong()),
        })
    }
}

/// The type of elements that are of one type: that of the first which says what it is, since a bare number takes the
/// type of those beside it.
fn common_type<'a>(mut elements: impl Iterator<Item = &'a Literal> + Clone) -> Parsed<String> {
    let bare = |literal: &&Literal| matches!(literal, Literal::Number(_));
    let doubles = elements.clone().find(|l| matches!(l, Literal::Number(digits) if is_double(digits)));
    let speaking = elements.clone().find(|literal| !bare(literal)).or(doubles).or_else(|| elements.next());
    match speaking {
        Some(literal) => literal.natural_type(),
        None => {
            Err("nothing is in it that would tell its type: write it before, as in \"@as []\"".to_owned())
        }
    }
}

fn is_double(digits: &str) -> bool {
    let hexadecimal = digits.contains("0x") || digits.contains("0X");
    !hexadecimal && digits.contains(['.', 'e', 'E', 'n'])
}

fn number(digits: &str, signature: &str) -> Parsed<Value> {
    let wrong = || format!("{digits} is no number of the type {signature:?}");
    if signature == "d" {
        return digits.parse().map(Value::Double).map_err(|_| wrong());
    }
    let (negative, magnitude) = match digits.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, digits.strip_prefix('+').unwrap_or(digits)),
    };
    let (radix, bare) = match magnitude.strip_prefix("0x").or(magnitude.strip_prefix("0X")) {
        Some(hexadecimal) => (16, hexadecimal),
        None if magnitude.len() > 1 && magnitude.starts_with('0') => (8, &magnitude[1..]),
        None => (10, magnitude),
    };
    let magnitude = i128::from(u64::from_str_radix(bare, radix).map_err(|_| wrong())?);
    let n = if negative { -magnitude } else { magnitude };
    let value = match signature {
        "y" => n.try_into().ok().map(Value::Byte),
        "n" => n.try_into().ok().map(Value::Int16),
        "q" => n.try_into().ok().map(Value::Uint16),
        "i" => n.try_into().ok().map(Value::Int32),
        "u" => n.try_into().ok().map(Value::Uint32),
        "x" => n.try_into().ok().map(Value::Int64),
        "t" => n.try_into().ok().map(Value::Uint64),
        _ => None,
    };
    value.ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(texts: &[&str]) -> Value {
        Value::Array("s".to_owned(), texts.iter().copied().map(Value::text).collect())
    }

    #[test]
    fn values() {
        for (text, value) in [
            ("true", Value::Bool(true)),
            (" false ", Value::Bool(false)),
            ("5", Value::Int32(5)),
            ("-5", Value::Int32(-5)),
            ("0x1f", Value::Int32(31)),
            ("017", Value::Int32(15)),
            ("1.5", Value::Double(1.5)),
            ("1e3", Value::Double(1000.0)),
            ("uint64 18446744073709551615", Value::Uint64(u64::MAX)),
            ("@t 7", Value::Uint64(7)),
            ("byte 255", Value::Byte(255)),
            ("int16 -1", Value::Int16(-1)),
            ("uint16 1", Value::Uint16(1)),
            ("int64 -1", Value::Int64(-1)),
            ("uint32 0x10", Value::Uint32(16)),
            ("double 2", Value::Double(2.0)),
            ("boolean true", Value::Bool(true)),
            ("'it\\'s'", Value::text("it's")),
            ("\"a\\tb\\u00e9\"", Value::text("a\tbé")),
            ("objectpath '/a'", Value::ObjectPath("/a".to_owned())),
            ("signature 'as'", Value::Signature("as".to_owned())),
            ("['a', \"b\"]", texts(&["a", "b"])),
            ("@as []", texts(&[])),
            ("b'hi'", Value::bytes(b"hi\0")),
            ("[1, uint64 2]", Value::Array("t".to_owned(), vec![Value::Uint64(1), Value::Uint64(2)])),
            ("[1, 2.5]", Value::Array("d".to_owned(), vec![Value::Double(1.0), Value::Double(2.5)])),
            ("('a', 1)", Value::Struct(vec![Value::text("a"), Value::Int32(1)])),
            ("('a',)", Value::Struct(vec![Value::text("a")])),
            ("<'x'>", Value::variant(Value::text("x"))),
            (
                "[('/dev/null', 'rw')]",
                Value::Array(
                    "(ss)".to_owned(),
                    vec![Value::Struct(vec![Value::text("/dev/null"), Value::text("rw")])],
                ),
            ),
            (
                "{'k': <uint32 1>}",
                Value::Array(
                    "{sv}".to_owned(),
                    vec![Value::Entry(Box::new((Value::text("k"), Value::variant(Value::Uint32(1)))))],
                ),
            ),
        ] {
            assert_eq!(parse(text), Ok(value), "{text}");
        }
    }

    #[test]
    fn what_is_no_value_is_refused() {
        for text in [
            "",
            "x",
            "'a",
            "[1",
            "[1 2]",
            "[]",
            "{}",
            "1 2",
            "2147483648",
            "byte 256",
            "uint32 -1",
            "uint64",
            "@zz 1",
            "@as [1]",
            "['a', 1]",
            "(1",
            "<1",
            "uint32 'a'",
            "string 1",
            "0x",
            "1.2.3",
            "true1",
            "@(s) (1)",
            "@(ss) ('a',)",
            "'\\u00'",
            "'\\",
        ] {
            assert!(parse(text).is_err(), "{text}: {:?}", parse(text));
        }
        assert!(parse(&"[".repeat(10_000)).is_err());
    }
}
