// SPDX-License-Identifier: Apache-2.0
//! `notify`: tells the address in `NOTIFY_SOCKET` that it is busy, waits for the file `--when`, tells that it is ready, and
//! waits for its end: SIGTERM. With `--last-words` it waits for neither.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

use crate::lifecycle::{Checked, During as _};
use crate::options::Options;
use crate::sys;

pub(crate) fn run(options: &Options) -> Checked {
    sys::block(&[libc::SIGTERM]).during("block signals")?;
    let address = std::env::var("NOTIFY_SOCKET").during("NOTIFY_SOCKET")?;
    let socket = UnixDatagram::unbound().during("socket")?;
    socket.connect(&address).during(&address)?;
    socket.send(b"STATUS=busy").during("send")?;
    let last_words = options.has("last-words");
    let when = options.value("when").or(last_words.then_some("/")).ok_or("--when FILE is missing")?;
    while !Path::new(when).exists() {
        std::thread::sleep(Duration::from_millis(3));
    }
    socket.send(b"STATUS=done\nREADY=1\n").during("send")?;
    while !last_words && sys::take(&[libc::SIGTERM], Duration::from_secs(1)).during("sigtimedwait")?.is_none()
    {
    }
    Ok(())
}
