// SPDX-License-Identifier: Apache-2.0
//! Owns the end of the socket that takes the memory of a dump: what is where goes into tables among the images, the pages to
//! whoever keeps them.
//!
//! ```text
//! criu ─▶ Open · Pages … · Open · Pages … · ForceClose ─▶ receive ─┬─▶ pagemap-ID.img in the directory of images
//!                                                                  └─▶ Keeper: pages-1.img, pages-2.img, …
//! ```
//! Tables and numbers are those that `criu page-server` would have written. Must not know where pages are kept.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::wire::{Flags, Form, Message, Owner, Range};
use crate::criu::image::PageTableWriter;
use crate::{Context, Error, ErrorKind, Result};

/// How much of what CRIU says is read at once; pages are not read through this.
const AHEAD: usize = 64 << 10;

/// Who keeps the pages: one image of them after the other.
pub trait Keeper {
    /// The pages of this image come next.
    ///
    /// # Errors
    /// When it cannot be begun.
    fn begin(&mut self, name: &str) -> Result<()>;

    /// Takes so many bytes.
    ///
    /// # Errors
    /// When they cannot be read or kept.
    fn take(&mut self, from: &mut dyn Read, bytes: u64) -> Result<()>;

    /// It has no more.
    ///
    /// # Errors
    /// When it cannot be completed.
    fn end(&mut self) -> Result<()>;
}

/// A table in the making, and whose it is.
struct Open {
    owner: Owner,
    table: PageTableWriter<BufWriter<File>>,
}

/// Takes the memory of one dump, until CRIU says that this is all. Returns how many bytes of pages there were.
///
/// # Errors
/// `CriuFailed` if CRIU says what it must not, or closes the connection before the end; those of `keeper`; `Storage` if a table
/// cannot be written. The connection is of no use any more then, and CRIU's dump fails when it is closed.
pub fn receive(
    socket: &UnixStream,
    form: Form,
    images: BorrowedFd<'_>,
    keeper: &mut dyn Keeper,
) -> Result<u64> {
    let mut from = BufReader::with_capacity(AHEAD, socket);
    let mut to = socket;
    let mut open: Option<Open> = None;
    let (mut files, mut bytes) = (0, 0);
    while let Some(message) = Message::read(&mut from, form)? {
        match message {
            Message::Open(owner) => {
                close(open.take(), keeper)?;
                files += 1;
                let table = create(images, &table_name(owner))
                    .and_then(|file| PageTableWriter::new(BufWriter::new(file), files, form == Form::Wide))?;
                open = Some(Open { owner, table });
                keeper.begin(&format!("pages-{files}.img"))?;
                // There are no pages of an earlier dump.
                answer(&mut to, &[0])?;
            }
            Message::Parent(_) => answer(&mut to, &0_i32.to_le_bytes())?,
            Message::Pages { whose, range, flags } => {
                let open = open.as_mut().filter(|open| Message::owner(whose) == Some(open.owner));
                let open = open.ok_or_else(|| unexpected("pages of something that it has not begun"))?;
                take(&mut open.table, range, flags, &mut from, keeper)?;
                bytes += if flags.present() { range.bytes() } else { 0 };
            }
            Message::Get { .. } => return Err(unexpected("a request for pages")),
            Message::Close | Message::ForceClose => {
                close(open.take(), keeper)?;
                answer(&mut to, &0_i32.to_le_bytes())?;
                return Ok(bytes);
            }
        }
    }
    Err(unexpected("nothing any more before it has sent all memory"))
}

fn take(
    table: &mut PageTableWriter<BufWriter<File>>,
    range: Range,
    flags: Flags,
    from: &mut impl Read,
    keeper: &mut dyn Keeper,
) -> Result<()> {
    table.run(range.address, range.pages, flags.bits())?;
    if flags.present() { keeper.take(from, range.bytes()) } else { Ok(()) }
}

fn close(open: Option<Open>, keeper: &mut dyn Keeper) -> Result<()> {
    let Some(open) = open else { return Ok(()) };
    open.table.finish()?;
    keeper.end()
}

fn answer(to: &mut impl Write, bytes: &[u8]) -> Result<()> {
    to.write_all(bytes).context(|| "answer criu about pages")
}

fn table_name(owner: Owner) -> String {
    match owner {
        Owner::Task(id) => format!("pagemap-{id}.img"),
        Owner::Shared(id) => format!("pagemap-shmem-{id}.img"),
    }
}

/// A new image; one that is there already would have been sent twice.
fn create(images: BorrowedFd<'_>, name: &str) -> Result<File> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let file = openat(images, name, flags, Mode::from_bits_truncate(0o600));
    file.map_err(io::Error::from).map(File::from).context(|| format!("make image {name}"))
}

fn unexpected(what: &'static str) -> Error {
    Error::new(ErrorKind::CriuFailed, format!("criu has sent {what}"))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsFd as _;
    use std::thread;

    use super::super::wire::PAGE;
    use super::*;
    use crate::criu::image::{Kept, page_table};

    /// Keeps them in memory, as long as there is room.
    #[derive(Default)]
    struct InMemory {
        images: Vec<(String, Vec<u8>)>,
        room: u64,
        ended: usize,
    }

    impl Keeper for InMemory {
        fn begin(&mut self, name: &str) -> Result<()> {
            self.images.push((name.to_owned(), Vec::new()));
            Ok(())
        }

        fn take(&mut self, from: &mut dyn Read, bytes: u64) -> Result<()> {
            self.room = self.room.checked_sub(bytes).ok_or_else(|| Error::new(ErrorKind::Storage, "full"))?;
            let (_, image) = self.images.last_mut().expect("one was begun");
            let read = from.take(bytes).read_to_end(image).context(|| "read pages")?;
            assert_eq!(read as u64, bytes);
            Ok(())
        }

        fn end(&mut self) -> Result<()> {
            self.ended += 1;
            Ok(())
        }
    }

    /// What CRIU is to send: a message, pages after it, and how long the answer is.
    type Said = (Message, Vec<u8>, usize);

    fn pages(owner: u64, address: u64, count: u64, flags: Flags) -> Said {
        let range = Range { address, pages: count };
        let data = vec![(address >> 12) as u8; if flags.present() { range.bytes() as usize } else { 0 }];
        (Message::Pages { whose: owner, range, flags }, data, 0)
    }

    fn conversation(said: Vec<Said>, form: Form, room: u64) -> (Result<u64>, InMemory, tempfile::TempDir) {
        let dir = tempfile::tempdir().expect("tempdir");
        let images = File::open(dir.path()).expect("open");
        let (mut criu, us) = UnixStream::pair().expect("a pair");
        let mut keeper = InMemory { room, ..InMemory::default() };
        let received = thread::scope(|scope| {
            scope.spawn(move || {
                for (message, data, answer) in said {
                    let mut sent = Vec::new();
                    message.write(&mut sent, form).expect("memory");
                    sent.extend(data);
                    // The other end may have had enough.
                    if criu.write_all(&sent).is_err() {
                        return;
                    }
                    let mut bytes = vec![1; answer];
                    if criu.read_exact(&mut bytes).is_ok() {
                        assert!(bytes.iter().all(|byte| *byte == 0), "{message:?}: {bytes:?}");
                    }
                }
            });
            let received = receive(&us, form, images.as_fd(), &mut keeper);
            drop(us);
            received
        });
        (received, keeper, dir)
    }

    #[test]
    fn tables_and_pages_are_those_of_a_page_server() {
        for form in [Form::Narrow, Form::Wide] {
            let said = vec![
                (Message::Parent(Owner::Task(1)), Vec::new(), 4),
                (Message::Open(Owner::Shared(9)), Vec::new(), 1),
                pages(0x0902, 0, 2, Flags::PRESENT),
                (Message::Open(Owner::Task(1)), Vec::new(), 1),
                pages(0x0101, 0x1000, 1, Flags::PRESENT),
                pages(0x0101, 0x5000, 3, Flags::IN_PARENT),
                pages(0x0101, 0x9000, 40, Flags::PRESENT),
                (Message::ForceClose, Vec::new(), 4),
            ];
            let (received, keeper, dir) = conversation(said, form, 1 << 30);
            assert_eq!(received.expect("all of it"), 43 * PAGE);
            assert_eq!(keeper.ended, 2);
            let names: Vec<_> = keeper.images.iter().map(|(name, bytes)| (&name[..], bytes.len())).collect();
            assert_eq!(names, [("pages-1.img", 2 * 4096), ("pages-2.img", 41 * 4096)]);
            let second = &keeper.images[1].1;
            assert!(second[..4096].iter().all(|b| *b == 1) && second[4096..].iter().all(|b| *b == 9));
            let table = page_table(&fs::read(dir.path().join("pagemap-1.img")).expect("a table"));
            let table = table.expect("a good one");
            let runs: Vec<_> = table.runs.iter().map(|run| (run.address, run.pages, run.kept)).collect();
            let expected = [(0x1000, 1, Kept::Here), (0x5000, 3, Kept::InParent), (0x9000, 40, Kept::Here)];
            assert_eq!((table.file, &runs[..]), (2, &expected[..]));
            let shared = fs::read(dir.path().join("pagemap-shmem-9.img")).expect("a table");
            // As CRIU 4.1.1 and 4.2.1 write it.
            let entry: &[u8] = match form {
                Form::Narrow => b"\x06\0\0\0\x08\0\x10\x02\x20\x04",
                Form::Wide => b"\x08\0\0\0\x08\0\x10\0\x20\x04\x28\x02",
            };
            assert_eq!(shared, [b"\x19\x43\x56\x54\x25\x40\x08\x56\x02\0\0\0\x08\x01", entry].concat());
        }
    }

    #[test]
    fn what_must_not_be_said_is_an_error() {
        let open = || (Message::Open(Owner::Task(1)), Vec::new(), 1);
        let none = Range { address: 0, pages: 0 };
        let cases: [(Vec<Said>, u64, ErrorKind, &str); 6] = [
            (vec![], 0, ErrorKind::CriuFailed, "before it has sent all memory"),
            (vec![open()], 0, ErrorKind::CriuFailed, "before it has sent all memory"),
            (vec![pages(0x0101, 0, 1, Flags::PRESENT)], 9999, ErrorKind::CriuFailed, "not begun"),
            (vec![open(), pages(0x0201, 0, 1, Flags::PRESENT)], 9999, ErrorKind::CriuFailed, "not begun"),
            (vec![open(), open()], 9999, ErrorKind::System, "pagemap-1.img"),
            (vec![open(), pages(0x0101, 0, 3, Flags::PRESENT)], 8192, ErrorKind::Storage, "full"),
        ];
        for (said, room, kind, text) in cases {
            let (received, _, _dir) = conversation(said, Form::Wide, room);
            let error = received.expect_err(text);
            assert_eq!(error.kind(), kind, "{}", error.chain());
            assert!(error.chain().contains(text), "{}", error.chain());
        }
        let asks = vec![(Message::Get { whose: 1, range: none }, Vec::new(), 0)];
        let (received, ..) = conversation(asks, Form::Wide, 0);
        assert!(received.expect_err("it asks").to_string().contains("a request"));
    }
}
