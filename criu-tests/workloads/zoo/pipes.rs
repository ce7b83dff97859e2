// SPDX-License-Identifier: Apache-2.0
//! Pipes in all states that a pipe can be in.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::pipe2;

use super::held::{Absences, content, flags_of, same_bytes};
use super::{Child, Made, made};
use crate::lifecycle::{Checked, During as _, expect_eq};

super::exhibits![
    pipe_with_data,
    pipe_that_is_full,
    pipe_of_another_size,
    pipe_of_packets,
    pipe_without_writers,
    pipe_without_readers,
    pipe_between_processes,
];

fn pipe(flags: OFlag) -> Result<(File, File), String> {
    let (reader, writer): (OwnedFd, OwnedFd) = pipe2(flags | OFlag::O_CLOEXEC).during("pipe2")?;
    Ok((reader.into(), writer.into()))
}

fn size_of(pipe: &impl AsFd) -> Result<i32, String> {
    fcntl(pipe, FcntlArg::F_GETPIPE_SZ).during("F_GETPIPE_SZ")
}

/// Bytes that nobody has read yet.
fn pipe_with_data() -> Made {
    let (mut reader, mut writer) = pipe(OFlag::empty())?;
    let held = content(6000);
    writer.write_all(&held).during("write")?;
    made(move || {
        take(&mut reader, &held)?;
        writer.write_all(&held).during("write")?;
        expect_eq("size", size_of(&reader)?, 65536)
    })
}

fn take(reader: &mut File, expected: &[u8]) -> Checked {
    let mut bytes = vec![0; expected.len()];
    reader.read_exact(&mut bytes).during("read")?;
    same_bytes(&bytes, expected)
}

/// Not one byte more goes in.
fn pipe_that_is_full() -> Made {
    let (mut reader, mut writer) = pipe(OFlag::O_NONBLOCK)?;
    let held = content(65536);
    writer.write_all(&held).during("write")?;
    made(move || {
        expect_eq("O_NONBLOCK", flags_of(&writer)? & libc::O_NONBLOCK, libc::O_NONBLOCK)?;
        expect_eq("one byte more", nix::unistd::write(&writer, b"x"), Err(Errno::EAGAIN))?;
        take(&mut reader, &held)?;
        expect_eq("one byte less", nix::unistd::read(&reader, &mut [0]), Err(Errno::EAGAIN))?;
        writer.write_all(&held).during("write")
    })
}

/// More room than a pipe has from birth, and used.
fn pipe_of_another_size() -> Made {
    const SIZE: usize = 256 << 10;
    let (mut reader, mut writer) = pipe(OFlag::O_NONBLOCK)?;
    fcntl(&writer, FcntlArg::F_SETPIPE_SZ(SIZE.cast_signed() as i32)).during("F_SETPIPE_SZ")?;
    let held = content(200_000);
    writer.write_all(&held).during("write")?;
    made(move || {
        expect_eq("size", size_of(&reader)?, SIZE as i32)?;
        take(&mut reader, &held)?;
        writer.write_all(&held).during("write")
    })
}

/// `O_DIRECT`: each write is a packet, which is read as one.
fn pipe_of_packets() -> Made {
    let (mut reader, mut writer) = pipe(OFlag::O_DIRECT)?;
    let packets = [content(10), content(1000), content(1)];
    let write = move |writer: &mut File| {
        packets.iter().try_for_each(|packet| writer.write_all(packet)).during("write")
    };
    write(&mut writer)?;
    made(move || {
        expect_eq("O_DIRECT", flags_of(&writer)? & libc::O_DIRECT, libc::O_DIRECT)?;
        for length in [10, 1000, 1] {
            let mut bytes = [0; 4096];
            let got = reader.read(&mut bytes).during("read")?;
            same_bytes(&bytes[..got], &content(length))?;
        }
        write(&mut writer)
    })
}

/// The last bytes, and then the end. One is read whenever the process comes back.
fn pipe_without_writers() -> Made {
    let mut ends = Vec::new();
    for _ in 0..8 {
        let (reader, mut writer) = pipe(OFlag::empty())?;
        writer.write_all(b"last words").during("write")?;
        ends.push(reader);
    }
    let mut absences = Absences::default();
    made(move || {
        for reader in &ends {
            let mut polled = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
            poll(&mut polled, PollTimeout::ZERO).during("poll")?;
            expect_eq("state", polled[0].revents(), Some(PollFlags::POLLIN | PollFlags::POLLHUP))?;
        }
        if !absences.is_back()? {
            return Ok(());
        }
        let mut text = String::new();
        let mut reader = ends.pop().ok_or("the process was away too often")?;
        reader.read_to_string(&mut text).during("read")?;
        expect_eq("last words", text.as_str(), "last words")
    })
}

/// Writing into it is an error.
fn pipe_without_readers() -> Made {
    let (_, writer) = pipe(OFlag::empty())?;
    made(move || expect_eq("write", nix::unistd::write(&writer, b"x"), Err(Errno::EPIPE)))
}

/// Two processes write, one reads.
fn pipe_between_processes() -> Made {
    let (mut reader, mut writer) = pipe(OFlag::empty())?;
    let mut theirs = writer.try_clone().during("dup")?;
    let mut child = Child::start(move || {
        Ok(move |_: &str| theirs.write_all(b"child").during("write").map(|()| String::new()))
    })?;
    child.check("write")?;
    made(move || {
        child.check("write")?;
        writer.write_all(b"other").during("write")?;
        take(&mut reader, b"childchild")?;
        take(&mut reader, b"other")?;
        child.check("write")
    })
}
