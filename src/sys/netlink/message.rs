// SPDX-License-Identifier: Apache-2.0
//! Messages of netlink(7): a header, a structure of fixed size that depends on the type, and attributes, which nest. All
//! in the processor's own byte order and aligned to four bytes.

use std::io;

const HEADER: usize = 16;
const ATTRIBUTE_HEADER: usize = 4;

const REQUEST: u16 = 0x1;
/// The kernel says when it is done.
pub(super) const ACKNOWLEDGE: u16 = 0x4;
/// All there are, not one.
pub(super) const DUMP: u16 = 0x300;
/// Makes what is not there yet, and nothing else.
pub(super) const CREATE: u16 = 0x600;
/// Makes what is not there yet, and leaves what is.
pub(super) const CREATE_OR_KEEP: u16 = 0x400;
/// Makes it, in place of what is there.
pub(super) const CREATE_OR_REPLACE: u16 = 0x500;
const DUMP_INTERRUPTED: u16 = 0x10;

const ERROR: u16 = 2;
const DONE: u16 = 3;

const NESTED: u16 = 0x8000;
/// Two bits of an attribute's type say what it holds.
const TYPE: u16 = 0x3fff;

/// A request that is being written.
#[derive(Debug, Clone)]
pub(super) struct Request(Vec<u8>);

impl Request {
    /// A request of this type with its structure of fixed size.
    pub(super) fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(REQUEST | flags).to_ne_bytes());
        bytes.extend_from_slice(fixed);
        align(&mut bytes);
        Self(bytes)
    }

    pub(super) fn attribute(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let length = (ATTRIBUTE_HEADER + value.len()) as u16;
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        align(&mut self.0);
        self
    }

    pub(super) fn number(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    /// Text with the zero byte that the kernel expects at its end.
    pub(super) fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        let bytes: Vec<u8> = value.bytes().chain([0]).collect();
        self.attribute(kind, &bytes)
    }

    /// An attribute that begins with a structure and goes on with what `inner` writes.
    pub(super) fn nested(&mut self, kind: u16, fixed: &[u8], inner: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.0.len();
        self.attribute(kind, fixed);
        inner(self);
        let length = (self.0.len() - start) as u16;
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self
    }

    /// [`Request::nested`], marked as such: newer parts of the kernel insist on it, older ones do not know it.
    pub(super) fn marked(&mut self, kind: u16, inner: impl FnOnce(&mut Self)) -> &mut Self {
        self.nested(kind | NESTED, &[], inner)
    }

    pub(super) fn add_flags(&mut self, flags: u16) {
        let flags = flags_of(&self.0) | flags;
        self.0[6..8].copy_from_slice(&flags.to_ne_bytes());
    }

    pub(super) fn is_listing(&self) -> bool {
        flags_of(&self.0) & DUMP == DUMP
    }

    /// The bytes to send.
    pub(super) fn finish(self, sequence: u32) -> Vec<u8> {
        let mut bytes = self.0;
        let length = bytes.len() as u32;
        bytes[..4].copy_from_slice(&length.to_ne_bytes());
        bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        bytes
    }
}

/// Whether this request has asked for an acknowledgement.
pub(super) fn is_acknowledged(request: &[u8]) -> bool {
    flags_of(request) & ACKNOWLEDGE != 0
}

fn flags_of(bytes: &[u8]) -> u16 {
    u16::from_ne_bytes([bytes[6], bytes[7]])
}

fn align(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// A message of the kernel's.
#[derive(Debug)]
pub(super) struct Message<'a> {
    pub(super) kind: u16,
    flags: u16,
    pub(super) sequence: u32,
    /// What follows the header.
    pub(super) body: &'a [u8],
}

impl Message<'_> {
    /// How the request ended, if this message tells.
    pub(super) fn outcome(&self) -> Option<io::Result<()>> {
        match (self.kind, u32_at(self.body, 0)) {
            // The number of a listing that ended well may be missing.
            (DONE, None) | (ERROR | DONE, Some(0)) => Some(Ok(())),
            (ERROR | DONE, Some(number)) => {
                Some(Err(io::Error::from_raw_os_error((number as i32).wrapping_neg())))
            }
            (ERROR, None) => Some(Err(malformed())),
            _ => None,
        }
    }

    pub(super) fn was_interrupted(&self) -> bool {
        self.flags & DUMP_INTERRUPTED != 0
    }
}

/// The messages of one packet.
pub(super) fn messages(mut packet: &[u8]) -> impl Iterator<Item = io::Result<Message<'_>>> {
    std::iter::from_fn(move || {
        if packet.is_empty() {
            return None;
        }
        let length = u32_at(packet, 0).and_then(|length| usize::try_from(length).ok()).unwrap_or(0);
        if length < HEADER || length > packet.len() {
            packet = &[];
            return Some(Err(malformed()));
        }
        let (message, rest) = packet.split_at(length);
        packet = rest.get(length.next_multiple_of(4) - length..).unwrap_or_default();
        Some(Ok(Message {
            kind: u16::from_ne_bytes([message[4], message[5]]),
            flags: flags_of(message),
            sequence: u32_at(message, 8).unwrap_or_default(),
            body: &message[HEADER..],
        }))
    })
}

fn malformed() -> io::Error {
    io::Error::from_raw_os_error(libc::EBADMSG)
}

/// The attributes behind a structure of `fixed` bytes: type and value. It ends where there is no sense in what follows.
pub(super) fn attributes(body: &[u8], fixed: usize) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = body.get(fixed.next_multiple_of(4)..).unwrap_or_default();
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(rest, 0)?);
        let kind = u16_at(rest, 2)?;
        let value = rest.get(ATTRIBUTE_HEADER..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind & TYPE, value))
    })
}

pub(super) fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    bytes.get(offset..offset.checked_add(2)?)?.try_into().ok().map(u16::from_ne_bytes)
}

pub(super) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes.get(offset..offset.checked_add(4)?)?.try_into().ok().map(u32::from_ne_bytes)
}

pub(super) fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    bytes.get(offset..offset.checked_add(8)?)?.try_into().ok().map(u64::from_ne_bytes)
}

/// Text up to its zero byte.
pub(super) fn text_of(value: &[u8]) -> String {
    let end = value.iter().position(|b| *b == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut request = Request::new(16, CREATE, &[7; 16]);
        request.text(3, "eth0").number(4, 1500);
        request.marked(18, |r| {
            r.text(1, "veth").nested(2, &[], |r| {
                r.nested(1, &[0; 16], |r| {
                    r.attribute(9, &[1, 2, 3]);
                });
            });
        });
        let bytes = request.finish(9);
        let all: Vec<_> = messages(&bytes).collect::<io::Result<_>>().expect("well formed");
        let [message] = &all[..] else { panic!("{} messages", all.len()) };
        assert_eq!((message.kind, message.sequence, &message.body[..16]), (16, 9, &[7; 16][..]));
        let read: Vec<_> = attributes(message.body, 16).collect();
        assert_eq!(read[0], (3, &b"eth0\0"[..]));
        assert_eq!((read[1].0, u32_at(read[1].1, 0)), (4, Some(1500)));
        let info: Vec<_> = attributes(read[2].1, 0).collect();
        let data: Vec<_> = attributes(info[1].1, 0).collect();
        assert_eq!((info[0], data[0].0), ((1, &b"veth\0"[..]), 1));
        assert_eq!(attributes(data[0].1, 16).next(), Some((9, &[1, 2, 3][..])));
    }

    #[test]
    fn an_answer_tells_its_outcome() {
        let message = |kind, body: &'static [u8]| Message { kind, flags: 0, sequence: 1, body };
        assert!(matches!(message(ERROR, &[0; 4]).outcome(), Some(Ok(()))));
        assert!(matches!(message(DONE, &[]).outcome(), Some(Ok(()))));
        assert!(message(16, &[0; 4]).outcome().is_none());
        let refused = Message { kind: ERROR, flags: 0, sequence: 1, body: &(-17_i32).to_ne_bytes() };
        let error = refused.outcome().expect("it is one").expect_err("refused");
        assert_eq!(error.raw_os_error(), Some(libc::EEXIST));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_fall_over(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for message in messages(&bytes).flatten() {
                let _ = message.outcome();
                let _ = attributes(message.body, 16).count();
            }
            let _ = attributes(&bytes, 0).count();
        }
    }
}
