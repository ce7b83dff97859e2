// SPDX-License-Identifier: Apache-2.0
//! Values of D-Bus: what they are, their signature, and their bytes (D-Bus specification, "Type system" and
//! "Marshaling", little endian).

use crate::{Error, ErrorKind, Result};

/// Containers within containers: the specification allows 64 in all.
const DEEPEST: usize = 64;

/// A value of D-Bus.
#[derive(Debug, Clone, PartialEq)]
pub(in super::super) enum Value {
    Byte(u8),
    Bool(bool),
    Int16(i16),
    Uint16(u16),
    Int32(i32),
    Uint32(u32),
    Int64(i64),
    Uint64(u64),
    Double(f64),
    Text(String),
    ObjectPath(String),
    Signature(String),
    /// The signature of an element, and the elements.
    Array(String, Vec<Value>),
    Struct(Vec<Value>),
    /// An entry of a dictionary, which is an array of them.
    Entry(Box<(Value, Value)>),
    Variant(Box<Value>),
}

impl Value {
    pub(in super::super) fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    pub(in super::super) fn bytes(bytes: &[u8]) -> Self {
        Self::Array("y".to_owned(), bytes.iter().copied().map(Self::Byte).collect())
    }

    pub(in super::super) fn variant(value: Self) -> Self {
        Self::Variant(Box::new(value))
    }

    /// Its complete type.
    pub(in super::super) fn signature(&self) -> String {
        let all = |values: &[Self]| values.iter().map(Self::signature).collect::<String>();
        match self {
            Self::Byte(_) => "y".to_owned(),
            Self::Bool(_) => "b".to_owned(),
            Self::Int16(_) => "n".to_owned(),
            Self::Uint16(_) => "q".to_owned(),
            Self::Int32(_) => "i".to_owned(),
            Self::Uint32(_) => "u".to_owned(),
            Self::Int64(_) => "x".to_owned(),
            Self::Uint64(_) => "t".to_owned(),
            Self::Double(_) => "d".to_owned(),
            Self::Text(_) => "s".to_owned(),
            Self::ObjectPath(_) => "o".to_owned(),
            Self::Signature(_) => "g".to_owned(),
            Self::Array(element, _) => format!("a{element}"),
            Self::Struct(fields) => format!("({})", all(fields)),
            Self::Entry(entry) => format!("{{{}{}}}", entry.0.signature(), entry.1.signature()),
            Self::Variant(_) => "v".to_owned(),
        }
    }

    /// The text of a string, an object path or a signature.
    pub(in super::super) fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) | Self::ObjectPath(text) | Self::Signature(text) => Some(text),
            Self::Variant(inner) => inner.as_text(),
            _ => None,
        }
    }
}

/// Values one after the other, each at its alignment.
#[derive(Debug, Default)]
pub(super) struct Writer {
    pub(super) bytes: Vec<u8>,
}

impl Writer {
    pub(super) fn align(&mut self, to: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(to), 0);
    }

    fn number(&mut self, bytes: &[u8]) {
        self.align(bytes.len());
        self.bytes.extend_from_slice(bytes);
    }

    fn text(&mut self, text: &str) {
        self.number(&length(text.len()).to_le_bytes());
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.push(0);
    }

    fn signature(&mut self, signature: &str) {
        self.bytes.push(signature.len().to_le_bytes()[0]);
        self.bytes.extend_from_slice(signature.as_bytes());
        self.bytes.push(0);
    }

    pub(super) fn put(&mut self, value: &Value) {
        match value {
            Value::Byte(n) => self.bytes.push(*n),
            Value::Bool(b) => self.number(&u32::from(*b).to_le_bytes()),
            Value::Int16(n) => self.number(&n.to_le_bytes()),
            Value::Uint16(n) => self.number(&n.to_le_bytes()),
            Value::Int32(n) => self.number(&n.to_le_bytes()),
            Value::Uint32(n) => self.number(&n.to_le_bytes()),
            Value::Int64(n) => self.number(&n.to_le_bytes()),
            Value::Uint64(n) => self.number(&n.to_le_bytes()),
            Value::Double(n) => self.number(&n.to_le_bytes()),
            Value::Text(text) | Value::ObjectPath(text) => self.text(text),
            Value::Signature(signature) => self.signature(signature),
            Value::Array(element, values) => {
                self.number(&0_u32.to_le_bytes());
                let at = self.bytes.len();
                // The space up to the first element does not count as a part of the array.
                self.align(alignment(element));
                let start = self.bytes.len();
                values.iter().for_each(|value| self.put(value));
                let size = length(self.bytes.len() - start).to_le_bytes();
                self.bytes[at - size.len()..at].copy_from_slice(&size);
            }
            Value::Struct(fields) => {
                self.align(8);
                fields.iter().for_each(|field| self.put(field));
            }
            Value::Entry(entry) => {
                self.align(8);
                self.put(&entry.0);
                self.put(&entry.1);
            }
            Value::Variant(inner) => {
                self.signature(&inner.signature());
                self.put(inner);
            }
        }
    }
}

/// What is written is made of one configuration, which is far below 4 GiB.
fn length(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

fn alignment(signature: &str) -> usize {
    match signature.as_bytes().first() {
        Some(b'n' | b'q') => 2,
        Some(b'b' | b'i' | b'u' | b's' | b'o' | b'a') => 4,
        Some(b'x' | b't' | b'd' | b'(' | b'{') => 8,
        _ => 1,
    }
}

/// Reads values from bytes that somebody else has written.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// The values of a signature.
    pub(super) fn all(&mut self, mut signature: &str) -> Result<Vec<Value>> {
        let mut values = Vec::new();
        while !signature.is_empty() {
            let (first, rest) = split(signature)?;
            values.push(self.value(first, DEEPEST)?);
            signature = rest;
        }
        Ok(values)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let taken = self.bytes.get(self.at..).and_then(|rest| rest.get(..length)).ok_or_else(damaged)?;
        self.at += length;
        Ok(taken)
    }

    fn align(&mut self, to: usize) -> Result<()> {
        self.take(self.at.next_multiple_of(to) - self.at).map(drop)
    }

    fn number<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.align(N)?;
        self.take(N)?.try_into().map_err(|_| damaged())
    }

    fn length(&mut self) -> Result<usize> {
        usize::try_from(u32::from_le_bytes(self.number()?)).map_err(|_| damaged())
    }

    fn text(&mut self, length: usize) -> Result<String> {
        let text = self.take(length)?.to_vec();
        match self.take(1)? {
            [0] => String::from_utf8(text).map_err(|_| damaged()),
            _ => Err(damaged()),
        }
    }

    fn signature(&mut self) -> Result<String> {
        let length = usize::from(self.take(1)?[0]);
        self.text(length)
    }

    fn value(&mut self, signature: &str, depth: usize) -> Result<Value> {
        let depth = depth.checked_sub(1).ok_or_else(damaged)?;
        Ok(match signature.as_bytes().first() {
            Some(b'y') => Value::Byte(self.take(1)?[0]),
            Some(b'b') => Value::Bool(u32::from_le_bytes(self.number()?) != 0),
            Some(b'n') => Value::Int16(i16::from_le_bytes(self.number()?)),
            Some(b'q') => Value::Uint16(u16::from_le_bytes(self.number()?)),
            Some(b'i') => Value::Int32(i32::from_le_bytes(self.number()?)),
            // A descriptor is its place in a list that comes beside the message.
            Some(b'u' | b'h') => Value::Uint32(u32::from_le_bytes(self.number()?)),
            Some(b'x') => Value::Int64(i64::from_le_bytes(self.number()?)),
            Some(b't') => Value::Uint64(u64::from_le_bytes(self.number()?)),
            Some(b'd') => Value::Double(f64::from_le_bytes(self.number()?)),
            Some(b's') => {
                let length = self.length()?;
                Value::Text(self.text(length)?)
            }
            Some(b'o') => {
                let length = self.length()?;
                Value::ObjectPath(self.text(length)?)
            }
            Some(b'g') => Value::Signature(self.signature()?),
            Some(b'v') => {
                let inner = self.signature()?;
                let (one, rest) = split(&inner)?;
                if !rest.is_empty() {
                    return Err(damaged());
                }
                Value::variant(self.value(one, depth)?)
            }
            Some(b'a') => self.array(&signature[1..], depth)?,
            Some(b'(') => {
                self.align(8)?;
                Value::Struct(self.fields(&signature[1..signature.len() - 1], depth)?)
            }
            Some(b'{') => {
                self.align(8)?;
                let fields = self.fields(&signature[1..signature.len() - 1], depth)?;
                let [key, value]: [Value; 2] = fields.try_into().map_err(|_| damaged())?;
                Value::Entry(Box::new((key, value)))
            }
            _ => return Err(damaged()),
        })
    }

    fn array(&mut self, element: &str, depth: usize) -> Result<Value> {
        let length = self.length()?;
        self.align(alignment(element))?;
        let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len()).ok_or_else(damaged)?;
        let mut values = Vec::new();
        while self.at < end {
            let before = self.at;
            values.push(self.value(element, depth)?);
            if self.at == before {
                return Err(damaged());
            }
        }
        if self.at == end { Ok(Value::Array(element.to_owned(), values)) } else { Err(damaged()) }
    }

    fn fields(&mut self, mut signature: &str, depth: usize) -> Result<Vec<Value>> {
        let mut fields = Vec::new();
        while !signature.is_empty() {
            let (first, rest) = split(signature)?;
            fields.push(self.value(first, depth)?);
            signature = rest;
        }
        Ok(fields)
    }
}

/// The first complete type of a signature, and what follows it.
pub(in super::super) fn split(signature: &str) -> Result<(&str, &str)> {
    let mut open = Vec::new();
    for (at, letter) in signature.bytes().enumerate() {
        match letter {
            b'a' => continue,
            b'(' | b'{' => open.push(letter),
            b')' if open.pop() != Some(b'(') => return Err(damaged()),
            b'}' if open.pop() != Some(b'{') => return Err(damaged()),
            b')' | b'}' => {}
            _ if b"ybnqiuxtdsoghv".contains(&letter) => {}
            _ => return Err(damaged()),
        }
        if open.is_empty() {
            return Ok(signature.split_at(at + 1));
        }
    }
    Err(damaged())
}

pub(super) fn damaged() -> Error {
    Error::new(ErrorKind::System, "the other side of the D-Bus socket has sent something that is no D-Bus")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(value: &Value) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.put(value);
        writer.bytes
    }

    #[test]
    fn bytes_of_the_specification_s_examples() {
        // "Marshaling": an array with one 64-bit integer, and the string "foo".
        let array = Value::Array("t".to_owned(), vec![Value::Uint64(5)]);
        assert_eq!(written(&array), [8, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(written(&Value::text("foo")), *b"\x03\0\0\0foo\0");
        assert_eq!(written(&Value::variant(Value::Bool(true))), [1, b'b', 0, 0, 1, 0, 0, 0]);
    }

    #[test]
    fn what_is_written_is_read_back() {
        let entry = Value::Entry(Box::new((Value::text("k"), Value::variant(Value::Double(0.5)))));
        let value = Value::Struct(vec![
            Value::Byte(1),
            Value::Int16(-2),
            Value::Uint16(2),
            Value::Int32(-3),
            Value::Uint32(3),
            Value::Int64(-4),
            Value::Uint64(u64::MAX),
            Value::Bool(true),
            Value::text("é"),
            Value::ObjectPath("/a".to_owned()),
            Value::Signature("a{sv}".to_owned()),
            Value::Array("{sv}".to_owned(), vec![entry]),
            Value::Array("(ss)".to_owned(), Vec::new()),
            Value::variant(Value::bytes(b"xyz")),
        ]);
        let signature = value.signature();
        assert_eq!(signature, "(ynqiuxtbsoga{sv}a(ss)v)");
        assert_eq!(Reader::new(&written(&value)).all(&signature).expect("ours"), [value]);
    }

    #[test]
    fn hostile_bytes_are_refused() {
        for (signature, bytes) in [
            ("s", &b"\xff\xff\xff\xffx\0"[..]),
            ("s", b"\x01\0\0\0xx"),
            ("s", b"\x01\0\0\0\xff\0"),
            ("as", b"\x04\0\0\0\xff\0\0\0"),
            ("a()", b"\x08\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
            ("v", b"\x02ss\0"),
            ("v", b"\x01(\0"),
            ("t", b"\0"),
            ("q)", b"\0\0"),
            ("{y}", b"\0"),
            ("z", b"\0"),
        ] {
            assert!(Reader::new(bytes).all(signature).is_err(), "{signature} {bytes:?}");
        }
        // A variant in a variant in a variant…
        let nested = b"\x01v\0".repeat(1000);
        assert!(Reader::new(&nested).all("v").is_err());
    }
}
