// SPDX-License-Identifier: Apache-2.0
//! Messages of D-Bus (D-Bus specification, "Message Format"), little endian. Pure.

use super::value::{Reader, Value, Writer, damaged};
use crate::Result;

/// The part of a message before its header fields' content.
pub(super) const FIXED: usize = 16;

/// More than this is refused; the specification allows 128 MiB, and systemd's answers have some hundred bytes.
const LARGEST: usize = 1 << 20;

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Kind {
    Call,
    Return,
    Error,
    Signal,
}

impl Kind {
    fn number(self) -> u8 {
        match self {
            Self::Call => 1,
            Self::Return => 2,
            Self::Error => 3,
            Self::Signal => 4,
        }
    }
}

/// A message, without the parts that nobody here needs.
#[derive(Debug, Clone, PartialEq)]
pub(in super::super) struct Message {
    pub(in super::super) kind: Kind,
    pub(in super::super) serial: u32,
    pub(in super::super) path: Option<String>,
    pub(in super::super) interface: Option<String>,
    pub(in super::super) member: Option<String>,
    pub(in super::super) error: Option<String>,
    pub(in super::super) reply_to: Option<u32>,
    pub(in super::super) destination: Option<String>,
    pub(in super::super) body: Vec<Value>,
}

impl Message {
    /// An empty one.
    pub(in super::super) fn new(kind: Kind, serial: u32) -> Self {
        Self {
            kind,
            serial,
            path: None,
            interface: None,
            member: None,
            error: None,
            reply_to: None,
            destination: None,
            body: Vec::new(),
        }
    }

    /// Its bytes.
    pub(in super::super) fn to_bytes(&self) -> Vec<u8> {
        let mut body = Writer::default();
        self.body.iter().for_each(|value| body.put(value));
        let signature: String = self.body.iter().map(Value::signature).collect();
        let text = |text: &Option<String>| text.clone().map(Value::Text);
        let fields = [
            (1, self.path.clone().map(Value::ObjectPath)),
            (2, text(&self.interface)),
            (3, text(&self.member)),
            (4, text(&self.error)),
            (5, self.reply_to.map(Value::Uint32)),
            (6, text(&self.destination)),
            (8, Some(signature).filter(|s| !s.is_empty()).map(Value::Signature)),
        ];
        let fields = fields
            .into_iter()
            .filter_map(|(code, value)| Some(Value::Struct(vec![Value::Byte(code), Value::variant(value?)])));
        let mut message = Writer::default();
        message.bytes.extend_from_slice(&[b'l', self.kind.number(), 0, 1]);
        let size = u32::try_from(body.bytes.len()).unwrap_or(u32::MAX);
        message.put(&Value::Uint32(size));
        message.put(&Value::Uint32(self.serial));
        message.put(&Value::Array("(yv)".to_owned(), fields.collect()));
        message.align(8);
        message.bytes.extend_from_slice(&body.bytes);
        message.bytes
    }

    /// How long the message is that begins with these bytes.
    pub(super) fn length(fixed: [u8; FIXED]) -> Result<usize> {
        let number = |at: usize| {
            let bytes = [fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]];
            usize::try_from(u32::from_le_bytes(bytes)).map_err(|_| damaged())
        };
        // Who is on this machine has its byte order.
        if (fixed[0], fixed[3]) != (b'l', 1) {
            return Err(damaged());
        }
        let (body, fields) = (number(4)?, number(12)?);
        let length = fields
            .checked_next_multiple_of(8)
            .and_then(|fields| fields.checked_add(body)?.checked_add(FIXED))
            .filter(|length| *length <= LARGEST);
        length.ok_or_else(damaged)
    }

    /// Reads a whole message; `None` for one of a kind that there was not when this was written.
    pub(in super::super) fn parse(bytes: &[u8]) -> Result<Option<Self>> {
        let header = Reader::new(bytes).all("yyyyuua(yv)")?;
        let [_, Value::Byte(kind), _, _, Value::Uint32(size), Value::Uint32(serial), Value::Array(_, fields)] =
            header.as_slice()
        else {
            return Err(damaged());
        };
        let kind = match kind {
            1 => Kind::Call,
            2 => Kind::Return,
            3 => Kind::Error,
            4 => Kind::Signal,
            _ => return Ok(None),
        };
        let mut message = Self::new(kind, *serial);
        let mut signature = String::new();
        for field in fields {
            let Value::Struct(field) = field else { return Err(damaged()) };
            let [Value::Byte(code), Value::Variant(value)] = field.as_slice() else { return Err(damaged()) };
            let text = value.as_text().map(str::to_owned);
            match (code, value.as_ref()) {
                (1, _) => message.path = text,
                (2, _) => message.interface = text,
                (3, _) => message.member = text,
                (4, _) => message.error = text,
                (5, Value::Uint32(serial)) => message.reply_to = Some(*serial),
                (6, _) => message.destination = text,
                (8, _) => signature = text.ok_or_else(damaged)?,
                _ => {}
            }
        }
        let size = usize::try_from(*size).map_err(|_| damaged())?;
        let start = bytes.len().checked_sub(size).ok_or_else(damaged)?;
        message.body = Reader::new(&bytes[start..]).all(&signature)?;
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `Hello`, as libdbus sends it.
    const HELLO: &[u8] = b"l\x01\0\x01\0\0\0\0\x01\0\0\0m\0\0\0\
        \x01\x01o\0\x15\0\0\0/org/freedesktop/DBus\0\0\0\
        \x02\x01s\0\x14\0\0\0org.freedesktop.DBus\0\0\0\0\
        \x03\x01s\0\x05\0\0\0Hello\0\0\0\
        \x06\x01s\0\x14\0\0\0org.freedesktop.DBus\0\0\0\0";

    #[test]
    fn a_recorded_call_is_what_ours_is() {
        let mut hello = Message::new(Kind::Call, 1);
        hello.path = Some("/org/freedesktop/DBus".to_owned());
        hello.interface = Some("org.freedesktop.DBus".to_owned());
        hello.member = Some("Hello".to_owned());
        hello.destination = Some("org.freedesktop.DBus".to_owned());
        assert_eq!(hello.to_bytes(), HELLO);
        assert_eq!(Message::parse(HELLO).expect("recorded"), Some(hello));
        let fixed = HELLO[..FIXED].try_into().expect("16 bytes");
        assert_eq!(Message::length(fixed).expect("recorded"), HELLO.len());
    }

    #[test]
    fn every_truncation_is_refused() {
        for end in 0..HELLO.len() - 8 {
            assert!(Message::parse(&HELLO[..end]).is_err(), "{end}");
        }
        for (at, byte) in [(0, b'B'), (3, 2), (7, 0x7f), (15, 0xff)] {
            let mut fixed: [u8; FIXED] = HELLO[..FIXED].try_into().expect("16 bytes");
            fixed[at] = byte;
            assert!(Message::length(fixed).is_err(), "{at}");
        }
    }
}
