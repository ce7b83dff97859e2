// SPDX-License-Identifier: Apache-2.0
//! Owns what CRIU and a page server say to each other.
//!
//! ```text
//! command u32 · [4 unused] · pages u32 or u64 · address u64 · whose u64          little endian, 24 or 32 bytes
//!
//! from CRIU                      answer
//! Open    whose: type and id     u8   whether an earlier dump has pages of it
//! Parent  whose: type and id     i32  the same
//! Pages   whose: type and id     none; if they are present, the pages follow
//! Get     whose: a process       Pages, with as many of them as there are, and the same `whose`
//! Close, ForceClose              i32  0 if all is well
//! ```
//! Source: CRIU's criu/page-xfer.c. There is no version on the wire: [`Form::of`] tells it by CRIU's. All that is read may come from
//! anybody. Must not know where pages are kept.

use std::io::{self, Read, Write};

pub use crate::criu::image::PAGE;

use crate::criu::Version;
use crate::{Context, Error, ErrorKind, Result};

const OPEN: u32 = 4;
const PARENT: u32 = 5;
const PAGES: u32 = 6;
const GET: u32 = 7;
const CLOSE: u32 = 0x1023;
const FORCE_CLOSE: u32 = 0x1024;

/// The command is in these bits, flags are above.
const COMMAND_BITS: u32 = 16;
/// The type is in these bits of `whose`, the id is above.
const TYPE_BITS: u32 = 8;
const TASK: u64 = 1;
const SHARED: u64 = 2;

const WIDE: usize = 32;
const NARROW: usize = 24;

/// How long a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// 24 bytes, before CRIU 4.2.
    Narrow,
    /// 32 bytes.
    Wide,
}

impl Form {
    /// What this CRIU speaks.
    pub fn of(version: Version) -> Self {
        if version < Version::new(4, 2, 0) { Self::Narrow } else { Self::Wide }
    }

    fn length(self) -> usize {
        match self {
            Self::Narrow => NARROW,
            Self::Wide => WIDE,
        }
    }
}

/// What has pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Owner {
    /// A process, by its id in its own namespace: `pagemap-ID.img`.
    Task(u32),
    /// Shared memory: `pagemap-shmem-ID.img`.
    Shared(u64),
}

impl Owner {
    fn encode(self) -> u64 {
        match self {
            Self::Task(id) => u64::from(id) << TYPE_BITS | TASK,
            Self::Shared(id) => id << TYPE_BITS | SHARED,
        }
    }

    fn decode(whose: u64) -> Option<Self> {
        let id = whose >> TYPE_BITS;
        match whose & ((1 << TYPE_BITS) - 1) {
            TASK => u32::try_from(id).ok().map(Self::Task),
            SHARED => Some(Self::Shared(id)),
            _ => None,
        }
    }
}

/// Pages that lie one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The first one's address.
    pub address: u64,
    /// How many.
    pub pages: u64,
}

impl Range {
    /// How many bytes they are.
    pub fn bytes(self) -> u64 {
        self.pages.saturating_mul(PAGE)
    }
}

/// Where pages are: bits that stand in CRIU's images as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flags(u16);

impl Flags {
    /// They follow.
    pub const PRESENT: Self = Self(4);
    /// They are in an earlier dump.
    pub const IN_PARENT: Self = Self(1);

    /// Whether the pages follow.
    pub fn present(self) -> bool {
        self.0 & Self::PRESENT.0 != 0
    }

    /// As they stand in an image.
    pub fn bits(self) -> u32 {
        self.0.into()
    }
}

/// One message. What follows it or answers it is not part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// Pages of this one come next.
    Open(Owner),
    /// Whether an earlier dump has pages of this one.
    Parent(Owner),
    /// Pages, or that they are elsewhere.
    Pages {
        /// Whose they are. In an answer to [`Message::Get`], it is `whose` of that one.
        whose: u64,
        /// Which.
        range: Range,
        /// Where they are.
        flags: Flags,
    },
    /// Asks for pages of a process.
    Get {
        /// The process's id in its own namespace.
        whose: u64,
        /// Which.
        range: Range,
    },
    /// The end.
    Close,
    /// The end, of a dump or by one who does not come back.
    ForceClose,
}

impl Message {
    /// Whose pages a dump sends, if that is what this `whose` means.
    pub fn owner(whose: u64) -> Option<Owner> {
        Owner::decode(whose)
    }

    /// Reads the next message; `None` if the other end has closed the connection before one.
    ///
    /// # Errors
    /// `CriuFailed` for what is no message; else as reading.
    pub fn read(from: &mut impl Read, form: Form) -> Result<Option<Self>> {
        let mut buffer = [0; WIDE];
        let buffer = &mut buffer[..form.length()];
        let mut filled = 0;
        while filled < buffer.len() {
            match from.read(&mut buffer[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(malformed("it is cut off")),
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context(|| "read what criu says about pages"),
            }
        }
        Self::decode(buffer, form).map(Some)
    }

    fn decode(bytes: &[u8], form: Form) -> Result<Self> {
        let number = |at: usize| bytes[at..].first_chunk().copied().map_or(0, u64::from_le_bytes);
        let half = |at: usize| bytes[at..].first_chunk().copied().map_or(0, u32::from_le_bytes);
        let command = half(0);
        let (pages, rest) = match form {
            Form::Narrow => (u64::from(half(4)), 8),
            Form::Wide => (number(8), 16),
        };
        let (address, whose) = (number(rest), number(rest + 8));
        let owner = || Owner::decode(whose).ok_or_else(|| malformed("it is about pages of an unknown kind"));
        let range = || Range { address, pages }.checked();
        let flags = Flags((command >> COMMAND_BITS) as u16);
        match command & ((1 << COMMAND_BITS) - 1) {
            OPEN => Ok(Self::Open(owner()?)),
            PARENT => Ok(Self::Parent(owner()?)),
            PAGES => Ok(Self::Pages { whose, range: range()?, flags }),
            GET => Ok(Self::Get { whose, range: range()? }),
            CLOSE => Ok(Self::Close),
            FORCE_CLOSE => Ok(Self::ForceClose),
            _ => Err(malformed("it is an unknown command")),
        }
    }

    /// Writes the message.
    ///
    /// # Errors
    /// `InvalidInput` for more pages than the form has room for; else as writing.
    pub fn write(self, to: &mut impl Write, form: Form) -> Result<()> {
        let none = Range { address: 0, pages: 0 };
        let (command, range, whose) = match self {
            Self::Open(owner) => (OPEN, none, owner.encode()),
            Self::Parent(owner) => (PARENT, none, owner.encode()),
            Self::Pages { whose, range, flags } => (flags.bits() << COMMAND_BITS | PAGES, range, whose),
            Self::Get { whose, range } => (GET, range, whose),
            Self::Close => (CLOSE, none, 0),
            Self::ForceClose => (FORCE_CLOSE, none, 0),
        };
        let mut bytes = Vec::with_capacity(WIDE);
        bytes.extend(command.to_le_bytes());
        match form {
            Form::Narrow => {
                let pages = u32::try_from(range.pages)
                    .context_kind(ErrorKind::InvalidInput, || "more pages than a message has room for")?;
                bytes.extend(pages.to_le_bytes());
            }
            Form::Wide => {
                bytes.extend([0; 4]);
                bytes.extend(range.pages.to_le_bytes());
            }
        }
        bytes.extend(range.address.to_le_bytes());
        bytes.extend(whose.to_le_bytes());
        to.write_all(&bytes).context(|| "tell criu about pages")
    }
}

impl Range {
    /// The range, unless it begins inside of a page or reaches beyond the last one.
    fn checked(self) -> Result<Self> {
        let end = self.pages.checked_mul(PAGE).and_then(|bytes| self.address.checked_add(bytes));
        match end {
            Some(_) if self.address.is_multiple_of(PAGE) => Ok(self),
            _ => Err(malformed("it is about pages that cannot be")),
        }
    }
}

/// What is wrong with a message.
fn malformed(what: &'static str) -> Error {
    Error::new(ErrorKind::CriuFailed, "criu's message about pages is not to be understood")
        .with_source(io::Error::new(io::ErrorKind::InvalidData, what))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(bytes: &[u8], form: Form) -> Result<Option<Message>> {
        Message::read(&mut &bytes[..], form)
    }

    /// As CRIU 4.1.1 and 4.2.1 were seen to send them.
    #[test]
    fn the_bytes_are_criu_s() {
        let range = Range { address: 0x7f00_1234_5000, pages: 3 };
        let pages = Message::Pages { whose: 0x0701, range, flags: Flags::PRESENT };
        let rest = b"\x00\x50\x34\x12\x00\x7f\0\0\x01\x07\0\0\0\0\0\0";
        let narrow = [&b"\x06\0\x04\0\x03\0\0\0"[..], rest].concat();
        let wide = [&b"\x06\0\x04\0\0\0\0\0\x03\0\0\0\0\0\0\0"[..], rest].concat();
        for (form, bytes) in [(Form::Narrow, narrow), (Form::Wide, wide)] {
            let mut written = Vec::new();
            pages.write(&mut written, form).expect("memory");
            assert_eq!(written, bytes);
            assert_eq!(read(&bytes, form).expect("a message"), Some(pages));
        }
        assert_eq!(Message::owner(0x0701), Some(Owner::Task(7)));
        assert_eq!(Message::owner(0x0702), Some(Owner::Shared(7)));
        assert_eq!(Form::of(Version::new(4, 1, 1)), Form::Narrow);
        assert_eq!(Form::of(Version::new(4, 2, 0)), Form::Wide);
    }

    #[test]
    fn what_is_no_message_is_an_error() {
        let message = |command: u32, pages: u64, address: u64, whose: u64| {
            let words = [u64::from(command), pages, address, whose];
            read(&words.map(u64::to_le_bytes).concat(), Form::Wide)
        };
        message(GET, 1, PAGE, 7).expect("a good one");
        for (command, pages, address, whose, why) in [
            (0, 0, 0, 0, "an unknown command"),
            (OPEN, 0, 0, 0x0703, "an unknown kind"),
            (OPEN, 0, 0, 1 << 40 | TASK, "an unknown kind"),
            (PAGES, 1, 5, 1, "cannot be"),
            (PAGES, u64::MAX, 0, 1, "cannot be"),
            (GET, 1, u64::MAX - 4095, 1, "cannot be"),
        ] {
            let error = message(command, pages, address, whose).expect_err(why);
            assert_eq!(error.kind(), ErrorKind::CriuFailed);
            assert!(error.chain().contains(why), "{}", error.chain());
        }
        assert_eq!(read(b"", Form::Wide).expect("an end"), None);
        assert!(read(&[0; WIDE - 1], Form::Wide).expect_err("cut").chain().contains("cut off"));
        let range = Range { address: 0, pages: 1 << 32 };
        Message::Get { whose: 1, range }.write(&mut io::sink(), Form::Narrow).expect_err("no room");
    }

    proptest! {
        #[test]
        fn messages_read_as_written(
            kind in 0..6_u8,
            id in any::<u32>(),
            shared in any::<bool>(),
            pages in any::<u32>(),
            address in 0_u64..1 << 40,
            flags in any::<u16>(),
            wide in any::<bool>(),
        ) {
            let form = if wide { Form::Wide } else { Form::Narrow };
            let owner = if shared { Owner::Shared(id.into()) } else { Owner::Task(id) };
            let range = Range { address: address * PAGE, pages: pages.into() };
            let message = match kind {
                0 => Message::Open(owner),
                1 => Message::Parent(owner),
                2 => Message::Pages { whose: owner.encode(), range, flags: Flags(flags) },
                3 => Message::Get { whose: id.into(), range },
                4 => Message::Close,
                _ => Message::ForceClose,
            };
            let mut bytes = Vec::new();
            message.write(&mut bytes, form).expect("memory");
            prop_assert_eq!(bytes.len(), form.length());
            prop_assert_eq!(read(&bytes, form).expect("a message"), Some(message));
        }

        #[test]
        fn any_bytes_are_a_message_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            for form in [Form::Narrow, Form::Wide] {
                let _ = read(&bytes, form);
            }
        }
    }
}
