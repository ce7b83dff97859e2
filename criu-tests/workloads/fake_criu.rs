// SPDX-License-Identifier: Apache-2.0
//! `fake-criu`: answers on descriptor 3 as `criu swrk 3` does, with whatever version it is told to have, and refuses
//! everything else. The few protobuf bytes are written by hand, from the numbers in CRIU's rpc.proto.
//!
//! `--version-number 31700` is 3.17.0. What follows `--` are the arguments that CRIU was called with.

use std::io::Write as _;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::sys::socket::{MsgFlags, recv, send};

use crate::lifecycle::{Checked, During as _};
use crate::options::Options;

const VERSION: u64 = 10;

pub(crate) fn run(options: &Options) -> Checked {
    let number = options.number("version-number", 31700)?;
    let [major, minor, sublevel] = [number / 10_000, number / 100 % 100, number % 100];
    if !std::env::args().any(|arg| arg == "swrk") {
        return writeln!(std::io::stdout(), "Version: {major}.{minor}.{sublevel}").during("write to stdout");
    }
    let socket: OwnedFd = crate::sys::inherited(3).during("descriptor 3")?;
    let mut request = vec![0; 64 << 10];
    loop {
        let size = recv(socket.as_raw_fd(), &mut request, MsgFlags::empty()).during("recv")?;
        if size == 0 {
            return Ok(());
        }
        let kind = request_type(&request[..size]).ok_or("not a CRIU request")?;
        let answer = if kind == VERSION { version(major, minor, sublevel) } else { refusal(kind) };
        send(socket.as_raw_fd(), &answer, MsgFlags::MSG_NOSIGNAL).during("send")?;
    }
}

/// The value of field 1 of `criu_req`, which writers put first.
fn request_type(request: &[u8]) -> Option<u64> {
    match request {
        [tag, kind, ..] if *tag == tag_of(1, 0) && *kind < 0x80 => Some(u64::from(*kind)),
        _ => None,
    }
}

fn version(major: u64, minor: u64, sublevel: u64) -> Vec<u8> {
    let mut version = Vec::new();
    for (field, value) in [(1, major), (2, minor), (4, sublevel)] {
        put(&mut version, field, value);
    }
    let mut answer = response(VERSION, true);
    put_bytes(&mut answer, 10, &version);
    answer
}

fn refusal(kind: u64) -> Vec<u8> {
    let mut answer = response(kind, false);
    put_bytes(&mut answer, 9, b"Error (fake): refused\n");
    answer
}

/// The beginning of `criu_resp`: type and success.
fn response(kind: u64, success: bool) -> Vec<u8> {
    let mut answer = Vec::new();
    put(&mut answer, 1, kind);
    put(&mut answer, 2, u64::from(success));
    answer
}

fn tag_of(field: u8, wire_type: u8) -> u8 {
    field << 3 | wire_type
}

/// A varint field; the values here fit into one byte.
fn put(message: &mut Vec<u8>, field: u8, value: u64) {
    message.extend([tag_of(field, 0), (value & 0x7f) as u8]);
}

fn put_bytes(message: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    message.extend([tag_of(field, 2), (bytes.len() & 0x7f) as u8]);
    message.extend(bytes);
}
