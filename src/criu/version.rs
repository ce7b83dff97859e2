// SPDX-License-Identifier: Apache-2.0
//! CRIU's version, and which version the running kernel and we ourselves need. Pure.

use std::fmt;

use crate::{Error, ErrorKind, Result};

/// A version of CRIU as its `VERSION` answer tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// The first number.
    pub major: u32,
    /// The second number.
    pub minor: u32,
    /// The third number, 0 where there is none.
    pub sublevel: u32,
}

/// The oldest CRIU that migrate works with.
///
/// 3.15 brought the `status-ready` notification and pid namespaces by path, 3.16 the nftables network lock and
/// `lsm_mount_context`; with these, every request of this crate has its field. Before 3.17 CRIU did not ignore
/// `SIGPIPE` as a worker: it is started with that signal blocked, so that it fails in order when its caller dies.
pub const MINIMUM: Version = Version::new(3, 16, 0);

/// Kernels from .0 on need CRIU .1 for every dump, because of .2.
const NEEDED_BY_KERNEL: &[(Kernel, Version, &str)] = &[(
    Kernel { major: 6, minor: 13 },
    Version::new(4, 1, 0),
    "older ones do not know the layout of its vDSO",
)];

/// The same for containers with TCP or UDP sockets.
const NEEDED_FOR_INET: &[(Kernel, Version, &str)] = &[(
    Kernel { major: 6, minor: 18 },
    Version::new(4, 2, 0),
    "older ones ask it for a socket option (SO_PASSSEC) that network sockets no longer have",
)];

impl Version {
    /// The version of that name.
    pub const fn new(major: u32, minor: u32, sublevel: u32) -> Self {
        Self { major, minor, sublevel }
    }

    /// The version that an answer means: a build from git lies after its last release, so it counts as the next
    /// minor version, as CRIU's own tools count it.
    pub(super) fn from_answer(major: i32, minor: i32, sublevel: Option<i32>, gitid: Option<&str>) -> Self {
        let number = |n: i32| u32::try_from(n).unwrap_or(0);
        let release = Self::new(number(major), number(minor), number(sublevel.unwrap_or(0)));
        match gitid {
            Some(id) if !id.is_empty() => Self::new(release.major, release.minor.saturating_add(1), 0),
            _ => release,
        }
    }

    /// Reads what `criu --version` prints ("Version: 3.17.1"); `None` if it says no version.
    pub(super) fn from_text(text: &str) -> Option<Self> {
        Self::parse(text.lines().find_map(|line| line.strip_prefix("Version:"))?)
    }

    /// Reads a version as it prints itself ("4.2.1"); `None` if it has no two numbers.
    pub fn parse(number: &str) -> Option<Self> {
        let mut parts = number.trim().split('.').map(|part| {
            let digits = part.find(|c: char| !c.is_ascii_digit()).map_or(part, |end| &part[..end]);
            digits.parse::<u32>().ok()
        });
        let (major, minor) = (parts.next()??, parts.next()??);
        Some(Self::new(major, minor, parts.next().flatten().unwrap_or(0)))
    }

    /// The version as one number: 40201 for 4.2.1.
    pub fn as_number(self) -> u32 {
        self.major
            .saturating_mul(10_000)
            .saturating_add(self.minor.saturating_mul(100))
            .saturating_add(self.sublevel)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)?;
        if self.sublevel != 0 {
            write!(f, ".{}", self.sublevel)?;
        }
        Ok(())
    }
}

/// The two numbers of a kernel's release that decide about compatibility.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kernel {
    /// The first number.
    pub major: u32,
    /// The second number.
    pub minor: u32,
}

impl Kernel {
    /// Reads a release as `uname -r` prints it ("6.18.44-cloud-amd64"); `None` if it does not begin with a number.
    pub fn parse(release: &str) -> Option<Self> {
        let mut parts = release.trim().split('.').map(|part| {
            let digits = part.find(|c: char| !c.is_ascii_digit()).map_or(part, |end| &part[..end]);
            digits.parse::<u32>().ok()
        });
        let major = parts.next()??;
        let minor = parts.next().flatten().unwrap_or(0);
        Some(Self { major, minor })
    }

    /// The running kernel (uname(2)); `None` if it does not say a number.
    pub fn running() -> Option<Self> {
        let name = nix::sys::utsname::uname().ok()?;
        Self::parse(&name.release().to_string_lossy())
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Whether this CRIU can work for us on this kernel at all. A kernel that is unknown is not held against it.
///
/// # Errors
/// `CriuUnusable`: too old for migrate, or for the kernel.
pub fn check(version: Version, kernel: Option<Kernel>) -> Result<()> {
    if version < MINIMUM {
        return Err(too_old(format!("criu {version} is too old: migrate needs {MINIMUM} or newer")));
    }
    against(NEEDED_BY_KERNEL, version, kernel, "")
}

/// Whether this CRIU can, on this kernel, dump a container that has TCP or UDP sockets ([`check`] passed before).
///
/// # Errors
/// `CriuUnusable`: too old for network sockets on this kernel.
pub fn check_inet_sockets(version: Version, kernel: Option<Kernel>) -> Result<()> {
    against(NEEDED_FOR_INET, version, kernel, " for a container with network sockets")
}

fn against(
    table: &[(Kernel, Version, &str)],
    version: Version,
    kernel: Option<Kernel>,
    purpose: &str,
) -> Result<()> {
    let Some(kernel) = kernel else { return Ok(()) };
    for &(from, needed, because) in table {
        if kernel >= from && version < needed {
            return Err(too_old(format!(
                "criu {version} is too old{purpose}: linux {kernel} needs criu {needed} or newer, {because}"
            )));
        }
    }
    Ok(())
}

fn too_old(message: String) -> Error {
    Error::new(ErrorKind::CriuUnusable, message)
        .with_hint("run scripts/setup, or pass --criu with a newer one")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_criu_prints() {
        let table = [
            ("Version: 3.17.1\n", Some((3, 17, 1))),
            ("Version: 4.2\nGitID: v4.2-3-gabc\n", Some((4, 2, 0))),
            ("noise\nVersion: 2.12.1-rc1\n", Some((2, 12, 1))),
            ("Version: 4\n", None),
            ("Version: x.1\n", None),
            ("3.17\n", None),
            ("", None),
        ];
        for (text, expected) in table {
            let found = Version::from_text(text).map(|v| (v.major, v.minor, v.sublevel));
            assert_eq!(found, expected, "{text:?}");
        }
    }

    #[test]
    fn releases_are_read_however_they_are_decorated() {
        let table = [
            ("6.18.44-fc-v669", Some((6, 18))),
            ("6.1.0-18-amd64", Some((6, 1))),
            ("5.15.167.4-microsoft-standard-WSL2", Some((5, 15))),
            ("6.13-rc1", Some((6, 13))),
            ("7", Some((7, 0))),
            ("6.x", Some((6, 0))),
            (" 4.19.0\n", Some((4, 19))),
            ("", None),
            ("linux", None),
            ("99999999999.1", None),
        ];
        for (release, expected) in table {
            let found = Kernel::parse(release).map(|k| (k.major, k.minor));
            assert_eq!(found, expected, "{release}");
        }
    }

    #[test]
    fn versions_compare_and_print() {
        assert_eq!(Version::from_answer(4, 2, Some(1), None).as_number(), 40_201);
        assert_eq!(Version::from_answer(4, 2, Some(1), None).to_string(), "4.2.1");
        assert_eq!(Version::from_answer(4, 2, None, None).to_string(), "4.2");
        assert_eq!(Version::from_answer(4, 1, Some(1), Some("v4.1-12-gabc")), Version::new(4, 2, 0));
        assert_eq!(Version::from_answer(4, 1, Some(1), Some("")), Version::new(4, 1, 1));
        assert_eq!(Version::from_answer(-1, i32::MAX, Some(-5), Some("x")).minor, 2_147_483_648);
        assert!(Version::new(4, 10, 0) > Version::new(4, 9, 9));
    }

    #[test]
    fn pairs_of_criu_and_kernel() {
        let table = [
            ((3, 15, 0), "5.10.0", Err("criu 3.15 is too old: migrate needs 3.16 or newer")),
            ((3, 16, 1), "5.15.0-91-generic", Ok(())),
            ((3, 17, 1), "6.1.0-18-amd64", Ok(())),
            (
                (3, 17, 1),
                "6.18.44",
                Err(
                    "criu 3.17.1 is too old: linux 6.18 needs criu 4.1 or newer, older ones do not know the \
                     layout of its vDSO",
                ),
            ),
            ((4, 0, 0), "6.12.5", Ok(())),
            ((4, 1, 0), "6.13.0", Ok(())),
            ((4, 1, 1), "6.18.0", Ok(())),
            ((4, 2, 1), "7.1.0", Ok(())),
            ((4, 0, 0), "who knows", Ok(())),
        ];
        for ((major, minor, sublevel), release, expected) in table {
            let found = check(Version::new(major, minor, sublevel), Kernel::parse(release));
            if let Err(error) = &found {
                assert_eq!(error.kind(), ErrorKind::CriuUnusable);
                assert!(error.hint().is_some());
            }
            assert_eq!(found.map_err(|e| e.chain()), expected.map_err(str::to_owned), "{release}");
        }
    }

    #[test]
    fn network_sockets_need_more_on_new_kernels() {
        let refused =
            check_inet_sockets(Version::new(4, 1, 1), Kernel::parse("6.18.1")).expect_err("4.1.1 cannot");
        assert!(refused.to_string().contains("network sockets"), "{refused}");
        assert!(check_inet_sockets(Version::new(4, 2, 0), Kernel::parse("6.18.1")).is_ok());
        assert!(check_inet_sockets(Version::new(3, 17, 1), Kernel::parse("6.1.0")).is_ok());
    }
}
