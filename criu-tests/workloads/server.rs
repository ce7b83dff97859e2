// SPDX-License-Identifier: Apache-2.0
//! `server`: fills `--memory` bytes, one page of four with what cannot be compressed and the others with lines of text, and answers
//! at the Unix socket `--socket` whoever sends the number of a page, eight bytes with the low ones first, with that page.

use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};

use crate::lifecycle::{Checked, During as _};
use crate::options::Options;

const PAGE: usize = 4096;

pub(crate) fn run(options: &Options) -> Checked {
    let pages = options.number("memory", 1 << 20)?.div_ceil(PAGE as u64);
    let memory: Vec<u8> = (0..pages).flat_map(page).collect();
    let socket = options.value("socket").ok_or_else(|| "--socket PATH is missing".to_owned())?;
    let listener = UnixListener::bind(socket).during("listen")?;
    for client in listener.incoming() {
        // A client that goes away is not this one's trouble.
        let _ = client.and_then(|client| answer(client, &memory));
    }
    Ok(())
}

fn answer(mut client: UnixStream, memory: &[u8]) -> std::io::Result<()> {
    let mut number = [0; 8];
    client.read_exact(&mut number)?;
    let start = usize::try_from(u64::from_le_bytes(number)).unwrap_or(usize::MAX).saturating_mul(PAGE);
    client.write_all(memory.get(start..start.saturating_add(PAGE)).unwrap_or_default())
}

/// The content of a page, each its own.
fn page(number: u64) -> Vec<u8> {
    let mut content = Vec::with_capacity(PAGE + 64);
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    while content.len() < PAGE {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        if number.is_multiple_of(4) {
            content.extend(state.to_le_bytes());
        } else {
            content.extend(
                format!("{number:08} GET /index.html {} 200 {}\n", content.len(), state % 100_000).bytes(),
            );
        }
    }
    content.truncate(PAGE);
    content
}
