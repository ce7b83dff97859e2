// SPDX-License-Identifier: Apache-2.0
//! Session keyrings (keyctl(2), session-keyring(7)). Must not know whose they are.

use std::ffi::{CStr, c_long};
use std::io;
use std::ptr;

/// A keyring's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keyring(i32);

/// `KEY_SPEC_SESSION_KEYRING`.
const SESSION_KEYRING: i32 = -3;

const JOIN_SESSION_KEYRING: c_long = 1;
const SETPERM: c_long = 5;
const DESCRIBE: c_long = 6;

/// A description is a name with five fields before it; no name is longer than a page.
const LONGEST: usize = 4096 + 64;

/// Makes a keyring the session keyring of this process: the one of this name, if the process may search it, else a new one.
///
/// # Errors
/// `ENOSYS` and, under some sandboxes, `EPERM` without keyrings; `EDQUOT` when the user has as many keys as he may have.
pub fn join_session(name: &CStr) -> io::Result<Keyring> {
    // SAFETY: the kernel reads the name up to its NUL.
    let id = unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, name.as_ptr()) };
    match i32::try_from(id) {
        // It is the present one already.
        Ok(0) => Ok(Keyring(SESSION_KEYRING)),
        Ok(id) if id > 0 => Ok(Keyring(id)),
        _ => Err(io::Error::last_os_error()),
    }
}

impl Keyring {
    /// Gives more permissions (keyctl_setperm(3)), on top of those that it has.
    ///
    /// # Errors
    /// `EACCES` without the permission to change attributes.
    pub fn add_permissions(self, bits: u32) -> io::Result<()> {
        let permissions = self.permissions()? | bits;
        // SAFETY: plain numbers.
        let done = unsafe { libc::syscall(libc::SYS_keyctl, SETPERM, self.0, permissions) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    fn permissions(self) -> io::Result<u32> {
        let mut buffer = vec![0u8; LONGEST];
        // SAFETY: the kernel writes at most as many bytes as the buffer has.
        let length = unsafe {
            libc::syscall(
                libc::SYS_keyctl,
                DESCRIBE,
                self.0,
                buffer.as_mut_ptr(),
                buffer.len(),
                ptr::null::<u8>(),
            )
        };
        let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
        buffer.truncate(length);
        parse_permissions(&buffer).ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))
    }
}

/// `type;uid;gid;permissions;description`, the permissions in hexadecimal.
fn parse_permissions(description: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(description.split(|byte| *byte == b';').nth(3)?).ok()?;
    u32::from_str_radix(text, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_are_the_fourth_field() {
        assert_eq!(parse_permissions(b"keyring;0;0;3f1b0000;_ses.x;y\0"), Some(0x3f1b_0000));
        for bad in [&b""[..], b"keyring;0;0", b"keyring;0;0;xyz;n"] {
            assert_eq!(parse_permissions(bad), None);
        }
    }

    #[test]
    fn a_named_keyring_is_joined_by_its_name() {
        // Of the joining thread alone.
        let work = || {
            let join = || join_session(c"_ses.migrate-unit-test");
            let ring = join()?;
            ring.add_permissions(0x80000)?;
            let again = std::thread::spawn(join).join().expect("the thread ends")?;
            Ok::<_, io::Error>((ring.permissions()?, again == Keyring(SESSION_KEYRING), join()? == again))
        };
        match std::thread::spawn(work).join().expect("the thread ends") {
            Ok((permissions, inherited, same)) => {
                assert!(permissions & 0x80000 != 0 && inherited && same, "{permissions:x}");
            }
            Err(e) => assert_eq!(e.raw_os_error(), Some(libc::ENOSYS), "{e}"),
        }
    }
}
