// SPDX-License-Identifier: Apache-2.0
//! Values of flags in the spelling of CRIU's command line.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::sizes;
use crate::sys::fd::{inherited, is_writable};

/// An address and a port; of IPv6 in brackets.
pub(super) fn address(text: &str) -> Result<(String, u16), String> {
    let invalid = || format!("`{text}` is not ADDRESS:PORT, such as 192.0.2.1:27000 or [2001:db8::1]:27000");
    let (address, port) = text.rsplit_once(':').ok_or_else(invalid)?;
    let address = match address.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').ok_or_else(invalid)?,
        None if address.contains(':') => return Err(invalid()),
        None => address,
    };
    let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(invalid)?;
    if address.is_empty() { Err(invalid()) } else { Ok((address.to_owned(), port)) }
}

/// A descriptor that this command was started with, open for writing.
pub(super) fn writable(text: &str) -> Result<Arc<OwnedFd>, String> {
    let number: i32 = text.parse().map_err(|_| format!("`{text}` is not the number of a descriptor"))?;
    let fd = inherited(number).map_err(|error| format!("descriptor {number}: {error}"))?;
    match is_writable(fd) {
        Ok(true) => {}
        Ok(false) => return Err(format!("descriptor {number} is not open for writing")),
        Err(error) => return Err(format!("descriptor {number}: {error}")),
    }
    fd.try_clone_to_owned().map(Arc::new).map_err(|error| format!("descriptor {number}: {error}"))
}

pub(super) fn limit(text: &str) -> Result<u32, String> {
    let bytes = sizes::memory(text)?;
    u32::try_from(bytes).map_err(|_| format!("`{text}` is not a size from 0 to 4 GiB less one byte"))
}

/// Takes `fd[7]:socket:[4711]` apart.
pub(super) fn inherited_object(text: &str) -> Result<(String, Arc<OwnedFd>), String> {
    let parts = text.strip_prefix("fd[").and_then(|rest| rest.split_once("]:"));
    let parts =
        parts.and_then(|(number, key)| Some((number.parse().ok()?, key))).filter(|(_, key)| !key.is_empty());
    let (number, key) =
        parts.ok_or_else(|| format!("`{text}` is not fd[N]:KEY, such as fd[7]:socket:[4711]"))?;
    let fd = inherited(number).and_then(|fd| fd.try_clone_to_owned());
    Ok((key.to_owned(), Arc::new(fd.map_err(|error| format!("descriptor {number}: {error}"))?)))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn an_address_has_a_port() {
        assert_eq!(address("192.0.2.1:27000"), Ok(("192.0.2.1".to_owned(), 27000)));
        assert_eq!(address("[2001:db8::1]:1"), Ok(("2001:db8::1".to_owned(), 1)));
        for text in ["", "27000", ":27000", "host:", "host:0", "host:65536", "::1:7", "[::1:7", "[]:7"] {
            let error = address(text).expect_err(text);
            assert!(error.contains("is not ADDRESS:PORT"), "{error}");
        }
    }

    #[test]
    fn a_descriptor_is_open_for_writing() {
        let (read, write) = std::io::pipe().expect("pipe");
        writable(&write.as_raw_fd().to_string()).expect("it is");
        let error = writable(&read.as_raw_fd().to_string()).expect_err("it is not");
        assert_eq!(error, format!("descriptor {} is not open for writing", read.as_raw_fd()));
        assert!(writable("one").expect_err("no number").contains("is not the number of a descriptor"));
        assert!(writable("1000000").expect_err("not open").starts_with("descriptor 1000000: "));
    }

    #[test]
    fn a_limit_fits() {
        assert_eq!(limit("1M"), Ok(1 << 20));
        limit("4G").expect_err("CRIU counts in 32 bits");
        limit("-1").expect_err("there is no unlimited one");
    }

    #[test]
    fn an_inherited_object_has_a_key() {
        let file = File::open("/dev/null").expect("open");
        let text = format!("fd[{}]:socket:[4711]", file.as_raw_fd());
        assert_eq!(inherited_object(&text).expect("good").0, "socket:[4711]");
        for text in ["fd[x]:a", "fd[3]", "3:a", "fd[3]:"] {
            assert!(inherited_object(text).expect_err(text).contains("is not fd[N]:KEY"), "{text}");
        }
    }
}
