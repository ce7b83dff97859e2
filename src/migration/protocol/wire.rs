// SPDX-License-Identifier: Apache-2.0
//! How what two hosts say stands on the wire: [`super`] has the table. Lengths are bounded before anything is made of them. Must not know
//! what follows from a message.

use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest as _, Sha256};

use super::{Said, told};
use crate::pages::receive::Keeper;
use crate::{Context, Error, ErrorKind, Result};

/// The longest frame, in bytes.
const LONGEST: usize = 1 << 20;

/// The longest piece of memory or of an archive in one frame, in bytes.
const PIECE: usize = 256 << 10;

/// A frame as it was read.
#[derive(Debug, PartialEq)]
pub enum Frame {
    /// A message.
    Said(Said),
    /// A file of memory begins.
    MemoryBegin(String),
    /// Memory.
    Memory(Vec<u8>),
    /// It is complete.
    MemoryEnd,
    /// Bytes of the archive.
    Archive(Vec<u8>),
    /// It is complete.
    ArchiveEnd,
    /// Pages of a memory.
    Pages(Vec<u8>),
    /// All have come: which process, by CRIU's number, has which memory.
    Memories(Vec<(u32, u32)>),
    /// Bytes of a round of files.
    Files(Vec<u8>),
    /// It is complete: the digest of its bytes, and whether it was the last.
    FilesEnd([u8; 32], bool),
}

const SAID: u8 = 1;
const MEMORY_BEGIN: u8 = 2;
const MEMORY: u8 = 3;
const MEMORY_END: u8 = 4;
const ARCHIVE: u8 = 5;
const ARCHIVE_END: u8 = 6;
const PAGES: u8 = 7;
const MEMORIES: u8 = 8;
const FILES: u8 = 9;
const FILES_END: u8 = 10;

/// The end that is written to; its copies share it.
#[derive(Clone)]
pub struct Sender {
    shared: Arc<Mutex<Shared>>,
    /// The container that memory and archives are of.
    member: usize,
}

struct Shared {
    to: Box<dyn Write + Send>,
    bytes: u64,
    /// The container that what is written is of.
    member: usize,
}

impl Shared {
    fn frame(&mut self, kind: u8, bytes: &[u8]) -> io::Result<()> {
        let length = u32::try_from(bytes.len()).map_err(|_| io::ErrorKind::InvalidInput)?.to_le_bytes();
        let [a, b, c, d] = length;
        self.to.write_all(&[kind, a, b, c, d])?;
        self.to.write_all(bytes)?;
        self.bytes += 5 + bytes.len() as u64;
        Ok(())
    }
}

impl std::fmt::Debug for Sender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sender").finish_non_exhaustive()
    }
}

impl Sender {
    /// Writes to this.
    pub fn new(to: Box<dyn Write + Send>) -> Self {
        Self { shared: Arc::new(Mutex::new(Shared { to, bytes: 0, member: 0 })), member: 0 }
    }

    /// The same end, for memory and archives of the container of this number.
    #[must_use]
    pub fn of_member(&self, member: usize) -> Self {
        Self { shared: self.shared.clone(), member }
    }

    /// Says something.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn say(&self, said: &Said) -> Result<()> {
        let bytes = serde_json::to_vec(said).context(|| "serialise a message")?;
        if bytes.len() > LONGEST {
            let message = format!("a message of {} bytes is longer than {LONGEST}", bytes.len());
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        self.frame(SAID, &bytes).context(|| "tell the other host")
    }

    /// How many bytes were written.
    pub fn bytes(&self) -> u64 {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner).bytes
    }

    /// An archive's bytes; it must be ended with [`Sender::end_archive`].
    pub fn archive(&self) -> Box<dyn Write + Send> {
        Box::new(ArchiveStream(self.clone()))
    }

    /// All of the archive was written.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn end_archive(&self) -> Result<()> {
        self.frame(ARCHIVE_END, &[]).context(|| "send the end of the archive")
    }

    /// Pages of a memory, in a batch.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn pages(&self, batch: &[u8]) -> Result<()> {
        self.frame(PAGES, batch).context(|| "send memory")
    }

    /// All pages were sent, and these processes have these memories.
    ///
    /// # Errors
    /// When the connection is broken, or there are more processes than a frame has room for.
    pub fn memory_is_complete(&self, processes: &[(u32, u32)]) -> Result<()> {
        let bytes: Vec<u8> = processes
            .iter()
            .flat_map(|(pid, space)| [pid.to_le_bytes(), space.to_le_bytes()].concat())
            .collect();
        if bytes.len() > LONGEST {
            let message = format!("memory of {} processes is more than can be told", processes.len());
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        self.frame(MEMORIES, &bytes).context(|| "send the end of the memory")
    }

    /// The bytes of a round of files; it must be ended with [`FilesStream::end`].
    pub fn files(&self) -> FilesStream {
        FilesStream { to: self.clone(), digest: Sha256::new() }
    }

    fn frame(&self, kind: u8, bytes: &[u8]) -> io::Result<()> {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        // A message is of all of them.
        if kind != SAID && shared.member != self.member {
            shared.frame(SAID, &serde_json::to_vec(&Said::Member(self.member))?)?;
            shared.member = self.member;
        }
        shared.frame(kind, bytes)?;
        shared.to.flush()
    }
}

struct ArchiveStream(Sender);

impl Write for ArchiveStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = bytes.get(..PIECE).unwrap_or(bytes);
        self.0.frame(ARCHIVE, piece).map(|()| piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A round of files on its way.
#[derive(Debug)]
pub struct FilesStream {
    to: Sender,
    digest: Sha256,
}

impl FilesStream {
    /// All of it was written.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn end(self, last: bool) -> Result<()> {
        let digest: [u8; 32] = self.digest.finalize().into();
        let bytes = [&digest[..], &[u8::from(last)]].concat();
        self.to.frame(FILES_END, &bytes).context(|| "send the end of a round of files")
    }
}

impl Write for FilesStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = bytes.get(..PIECE).unwrap_or(bytes);
        self.digest.update(piece);
        self.to.frame(FILES, piece).map(|()| piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Sends memory as it comes from CRIU.
#[derive(Debug)]
pub struct MemorySender {
    to: Sender,
    buffer: Vec<u8>,
}

impl MemorySender {
    /// To this host.
    pub fn new(to: Sender) -> Self {
        Self { to, buffer: vec![0; PIECE] }
    }
}

impl Keeper for MemorySender {
    fn begin(&mut self, name: &str) -> Result<()> {
        self.to.frame(MEMORY_BEGIN, name.as_bytes()).context(|| "send memory")
    }

    fn take(&mut self, from: &mut dyn Read, bytes: u64) -> Result<()> {
        let mut left = bytes;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
            let piece = self.buffer.get_mut(..most).unwrap_or_default();
            from.read_exact(piece).context_kind(ErrorKind::CriuFailed, || "read memory from criu")?;
            self.to.frame(MEMORY, piece).context(|| "send memory")?;
            left -= most as u64;
        }
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        self.to.frame(MEMORY_END, &[]).context(|| "send memory")
    }
}

/// The end that is read from.
pub struct Receiver {
    from: Box<dyn Read + Send>,
    bytes: u64,
}

impl std::fmt::Debug for Receiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receiver").finish_non_exhaustive()
    }
}

impl Receiver {
    /// Reads from this.
    pub fn new(from: Box<dyn Read + Send>) -> Self {
        Self { from, bytes: 0 }
    }

    /// How many bytes were read.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The next frame; `None` when the other side has closed the connection after a whole one.
    ///
    /// # Errors
    /// When the connection is broken, or what comes is no frame.
    pub fn frame(&mut self) -> Result<Option<Frame>> {
        let mut kind = [0];
        loop {
            match self.from.read(&mut kind) {
                Ok(0) => return Ok(None),
                Ok(_) => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e).context(|| "hear the other host"),
            }
        }
        let mut length = [0; 4];
        self.from.read_exact(&mut length).context(|| "hear the other host")?;
        let length = u32::from_le_bytes(length) as usize;
        if length > LONGEST {
            return Err(malformed(format!("a frame of {length} bytes")));
        }
        let mut bytes = vec![0; length];
        self.from.read_exact(&mut bytes).context(|| "hear the other host")?;
        self.bytes += 5 + length as u64;
        frame(kind, bytes).map(Some)
    }

    /// The next message, where nothing else may come.
    ///
    /// # Errors
    /// As [`Receiver::frame`]; the other side has closed the connection; what it says of why it cannot go on.
    pub fn said(&mut self) -> Result<Said> {
        match self.frame()? {
            Some(Frame::Said(Said::Failed(blocker))) => Err(told(&blocker)),
            Some(Frame::Said(said)) => Ok(said),
            Some(_) => Err(malformed("memory or an archive out of turn")),
            None => Err(Error::new(ErrorKind::System, "the other host has closed the connection")),
        }
    }
}

fn frame([kind]: [u8; 1], bytes: Vec<u8>) -> Result<Frame> {
    let nothing = |bytes: &[u8], frame| match bytes {
        [] => Ok(frame),
        _ => Err(malformed("bytes where there are none")),
    };
    match kind {
        SAID => {
            serde_json::from_slice(&bytes).map(Frame::Said).map_err(|e| malformed("a message").with_source(e))
        }
        MEMORY_BEGIN => String::from_utf8(bytes)
            .ok()
            .filter(|name| is_of_memory(name))
            .map(Frame::MemoryBegin)
            .ok_or_else(|| malformed("a file that is not of memory")),
        MEMORY => Ok(Frame::Memory(bytes)),
        MEMORY_END => nothing(&bytes, Frame::MemoryEnd),
        ARCHIVE => Ok(Frame::Archive(bytes)),
        ARCHIVE_END => nothing(&bytes, Frame::ArchiveEnd),
        PAGES => Ok(Frame::Pages(bytes)),
        MEMORIES => memories(&bytes).map(Frame::Memories).ok_or_else(|| malformed("a list of memories")),
        FILES => Ok(Frame::Files(bytes)),
        FILES_END => match bytes.split_last_chunk::<1>() {
            Some((digest, [last @ (0 | 1)])) if digest.len() == 32 => {
                let digest = digest.try_into().map_err(|e| malformed("a digest").with_source(e))?;
                Ok(Frame::FilesEnd(digest, *last == 1))
            }
            _ => Err(malformed("the end of a round of files")),
        },
        _ => Err(malformed(format!("a frame of kind {kind}"))),
    }
}

fn memories(bytes: &[u8]) -> Option<Vec<(u32, u32)>> {
    let (pairs, []) = bytes.as_chunks::<8>() else { return None };
    let number = |bytes: &[u8]| bytes.try_into().map(u32::from_le_bytes).ok();
    pairs.iter().map(|pair| Some((number(&pair[..4])?, number(&pair[4..])?))).collect()
}

/// `pages-1.img`, and nothing that leads elsewhere.
fn is_of_memory(name: &str) -> bool {
    let number = name.strip_prefix("pages-").and_then(|rest| rest.strip_suffix(".img"));
    number.is_some_and(|n| (1..=9).contains(&n.len()) && n.bytes().all(|byte| byte.is_ascii_digit()))
}

fn malformed(what: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::InvalidInput, format!("the other host sends what is not to be understood: {what}"))
        .with_hint("is a `migrate receive` at the other end, and does nothing else write to the connection?")
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::super::{Blocker, Hello, WITH_FILES, WITH_PAGES, none_in_the_way};
    use super::*;

    /// What is written can be read at the other end.
    #[derive(Clone, Default)]
    struct Pipe(Arc<Mutex<Vec<u8>>>);

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("one thread").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn receiver(bytes: Vec<u8>) -> Receiver {
        Receiver::new(Box::new(Cursor::new(bytes)))
    }

    #[test]
    fn what_is_sent_arrives_in_order() {
        let pipe = Pipe::default();
        let sender = Sender::new(Box::new(pipe.clone()));
        sender.say(&Said::Hello(Hello::own())).expect("memory");
        let mut memory = MemorySender::new(sender.clone());
        memory.begin("pages-1.img").expect("memory");
        memory.take(&mut io::repeat(7), PIECE as u64 + 1).expect("memory");
        memory.end().expect("memory");
        sender.archive().write_all(b"tar").expect("memory");
        sender.end_archive().expect("memory");
        sender.pages(b"a batch").expect("memory");
        sender.memory_is_complete(&[(1, 7), (2, 9)]).expect("memory");
        let other = sender.of_member(2);
        other.pages(b"its own").expect("memory");
        other.say(&Said::Begin).expect("memory");
        sender.pages(b"more").expect("memory");
        let mut files = sender.files();
        files.write_all(b"a round").expect("memory");
        files.end(true).expect("memory");
        let bytes = pipe.0.lock().expect("one thread").clone();
        assert_eq!(sender.bytes(), bytes.len() as u64);
        let mut receiver = receiver(bytes);
        let Said::Hello(hello) = receiver.said().expect("a hello") else { panic!("it was a hello") };
        assert_eq!(hello.common().expect("its own"), WITH_FILES);
        let older = Hello { speaks: vec![2, 1], ..hello.clone() };
        assert_eq!(older.common().expect("the second"), WITH_PAGES);
        let older = Hello { speaks: vec![1], ..hello };
        assert_eq!(older.common().expect("the first"), 1);
        let mut next = || receiver.frame().expect("a frame");
        assert_eq!(next(), Some(Frame::MemoryBegin("pages-1.img".to_owned())));
        assert_eq!(next(), Some(Frame::Memory(vec![7; PIECE])));
        assert_eq!(next(), Some(Frame::Memory(vec![7])));
        assert_eq!(next(), Some(Frame::MemoryEnd));
        assert_eq!(next(), Some(Frame::Archive(b"tar".to_vec())));
        assert_eq!(next(), Some(Frame::ArchiveEnd));
        assert_eq!(next(), Some(Frame::Pages(b"a batch".to_vec())));
        assert_eq!(next(), Some(Frame::Memories(vec![(1, 7), (2, 9)])));
        assert_eq!(next(), Some(Frame::Said(Said::Member(2))));
        assert_eq!(next(), Some(Frame::Pages(b"its own".to_vec())));
        assert_eq!(next(), Some(Frame::Said(Said::Begin)));
        assert_eq!(next(), Some(Frame::Said(Said::Member(0))));
        assert_eq!(next(), Some(Frame::Pages(b"more".to_vec())));
        assert_eq!(next(), Some(Frame::Files(b"a round".to_vec())));
        assert_eq!(next(), Some(Frame::FilesEnd(Sha256::digest(b"a round").into(), true)));
        assert_eq!(next(), None);
    }

    #[test]
    fn what_is_no_frame_is_refused_before_room_is_made_for_it() {
        for bytes in [
            &b"\x01\xff\xff\xff\xff"[..],
            b"\x01\x02\0\0\0{}",
            b"\x01\x03\0\0\0{",
            b"\x02\x0b\0\0\0../../../..",
            b"\x02\x0c\0\0\0pagemap-1.im",
            b"\x02\x0a\0\0\0pages-.img",
            b"\x04\x01\0\0\0x",
            b"\x0b\0\0\0\0",
            b"\x0a\x01\0\0\0\x01",
            b"\x0a\x21\0\0\x0012345678901234567890123456789012\x02",
            b"\x03\x05\0\0\0abc",
            b"\x08\x07\0\0\0abcdefg",
        ] {
            receiver(bytes.to_vec()).frame().expect_err("no frame");
        }
    }

    #[test]
    fn a_stranger_s_versions_and_words_are_told_without_their_escapes() {
        let stranger = Hello { speaks: vec![7], program: "\x1b[2J".to_owned() };
        let error = stranger.common().expect_err("none in common");
        assert!(!error.to_string().contains('\x1b'), "{error}");
        let blocker = Blocker { what: "no\x1b[2J".to_owned(), remedy: Some("a\nb".to_owned()) };
        let error = none_in_the_way(&[blocker]).expect_err("one");
        assert!(!error.to_string().contains('\x1b') && error.hint() == Some("a b"), "{error}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_frames_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut receiver = receiver(bytes);
            while let Ok(Some(_)) = receiver.frame() {}
        }
    }
}
