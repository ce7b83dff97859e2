// SPDX-License-Identifier: Apache-2.0
//! The hosts that are trusted, by name and fingerprint, one a line, as people write it:
//!
//! ```text
//! # in the next room
//! web2.example sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
//! ```
//! A host that connects is the first one here with its key; a host that is connected to is the one of the name that was written.

use std::fs::File;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use super::identity::Fingerprint;
use super::{read, replace};
use crate::{Context, Error, ErrorKind, Result};

const FILE: &str = "peers";

/// The most hosts.
const MOST: usize = 4096;

/// The longest name, in bytes: of a host in the DNS.
const LONGEST: usize = 253;

/// A host that is trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its name or address.
    pub name: String,
    /// What it is known by.
    pub fingerprint: Fingerprint,
}

/// All of them.
#[derive(Debug, Clone, Default)]
pub struct Peers {
    path: PathBuf,
    text: String,
    list: Vec<Peer>,
}

impl Peers {
    /// Those of an agent's directory; none if nothing was written down.
    ///
    /// # Errors
    /// The file cannot be read or understood, or others may write to it.
    pub fn load(directory: &Path) -> Result<Self> {
        let path = directory.join(FILE);
        let bytes = read(&path, 0o022)?.unwrap_or_default();
        let unusable = |why: String| {
            let message = format!("{} is not to be understood: {why}", path.display());
            Error::new(ErrorKind::InvalidInput, message)
                .with_hint("a line is a name, a space and a fingerprint")
        };
        let text = String::from_utf8(bytes).map_err(|_| unusable("it is no UTF-8".to_owned()))?;
        let list = parse(&text).map_err(unusable)?;
        Ok(Self { path, text, list })
    }

    /// All of them, in the order of the file.
    pub fn list(&self) -> &[Peer] {
        &self.list
    }

    /// The one with this key.
    pub fn with_key(&self, fingerprint: Fingerprint) -> Option<&Peer> {
        self.list.iter().find(|peer| peer.fingerprint == fingerprint)
    }

    /// The one of this name.
    pub fn named(&self, name: &str) -> Option<&Peer> {
        self.list.iter().find(|peer| peer.name == name)
    }

    /// Trusts a host from now on. It is nothing new if that is so already.
    ///
    /// # Errors
    /// `AlreadyExists` if another key is trusted under this name, which stays; the name is none; the file cannot be written.
    pub fn trust(directory: &Path, name: &str, fingerprint: Fingerprint) -> Result<()> {
        check(name).map_err(|why| Error::new(ErrorKind::InvalidInput, why))?;
        Self::change(directory, |peers| match peers.named(name) {
            Some(known) if known.fingerprint == fingerprint => Ok(None),
            Some(known) => {
                let message = format!("{name} is trusted with another key: {}", known.fingerprint);
                Err(Error::new(ErrorKind::AlreadyExists, message).with_hint(format!(
                    "if its key was made anew, `migrate agent forget {name}` first; if not, somebody else answers there"
                )))
            }
            None if peers.list.len() >= MOST => {
                Err(Error::new(ErrorKind::Unsupported, format!("{MOST} hosts are trusted already")))
            }
            None => {
                let end = if peers.text.is_empty() || peers.text.ends_with('\n') { "" } else { "\n" };
                Ok(Some(format!("{}{end}{name} {fingerprint}\n", peers.text)))
            }
        })
    }

    /// Trusts the host of this name no more.
    ///
    /// # Errors
    /// `NotFound` if it is not trusted; the file cannot be written.
    pub fn forget(directory: &Path, name: &str) -> Result<()> {
        Self::change(directory, |peers| {
            if peers.named(name).is_none() {
                return Err(Error::new(ErrorKind::NotFound, format!("{name:?} is not trusted"))
                    .with_hint("`migrate agent peers` lists who is"));
            }
            let stays = |line: &&str| line.split_whitespace().next() != Some(name);
            Ok(Some(peers.text.split_inclusive('\n').filter(stays).collect()))
        })
    }

    /// One who changes the file at a time.
    fn change(directory: &Path, how: impl FnOnce(&Self) -> Result<Option<String>>) -> Result<()> {
        let attempt = || format!("open the agent's directory {}", directory.display());
        let locked = File::open(directory).context(attempt).map_err(|error| match error.kind() {
            ErrorKind::NotFound => error.with_hint("`migrate agent init` makes it"),
            _ => error,
        })?;
        let _locked = Flock::lock(locked, FlockArg::LockExclusive).map_err(|(_, e)| e).context(attempt)?;
        let peers = Self::load(directory)?;
        match how(&peers)? {
            Some(text) => replace(&peers.path, text.as_bytes()),
            None => Ok(()),
        }
    }
}

/// Whether this can be a host's name or address.
pub(super) fn check(name: &str) -> std::result::Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-:%".contains(c);
    if name.is_empty() || name.len() > LONGEST || name.starts_with('-') || !name.chars().all(plain) {
        let shown: String = name.chars().take(80).collect();
        return Err(format!("{shown:?} is no name of a host"));
    }
    Ok(())
}

fn parse(text: &str) -> std::result::Result<Vec<Peer>, String> {
    let mut list: Vec<Peer> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let of_line = |why: String| format!("line {}: {why}", number + 1);
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        let Some(name) = words.next() else { continue };
        check(name).map_err(of_line)?;
        let (Some(fingerprint), None) = (words.next(), words.next()) else {
            return Err(of_line("it is not two words".to_owned()));
        };
        let fingerprint = fingerprint.parse().map_err(|error: Error| of_line(error.to_string()))?;
        if list.iter().any(|peer| peer.name == name) {
            return Err(of_line(format!("{name} is there twice")));
        }
        if list.len() >= MOST {
            return Err(of_line(format!("there are more than {MOST}")));
        }
        list.push(Peer { name: name.to_owned(), fingerprint });
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use proptest::prelude::*;

    use super::*;

    fn key(n: u8) -> Fingerprint {
        Fingerprint::of(&[n])
    }

    #[test]
    fn hosts_are_trusted_and_forgotten_and_what_people_wrote_stays() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let at = directory.path();
        assert!(Peers::load(at).expect("none yet").list().is_empty());
        fs::write(at.join(FILE), format!("# mine\n\n a {} # the first", key(1))).expect("write");
        fs::set_permissions(at.join(FILE), fs::Permissions::from_mode(0o644)).expect("chmod");
        Peers::trust(at, "b.example", key(2)).expect("a second");
        Peers::trust(at, "b.example", key(2)).expect("the same");
        let error = Peers::trust(at, "b.example", key(3)).expect_err("another key");
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        assert!(error.to_string().contains(&key(2).to_string()), "{error}");
        let peers = Peers::load(at).expect("two");
        assert_eq!(peers.with_key(key(1)).map(|peer| peer.name.as_str()), Some("a"));
        assert_eq!(peers.named("b.example").map(|peer| peer.fingerprint), Some(key(2)));
        assert_eq!(peers.with_key(key(3)), None);
        Peers::forget(at, "a").expect("the first");
        assert_eq!(Peers::forget(at, "a").expect_err("it is gone").kind(), ErrorKind::NotFound);
        let text = fs::read_to_string(at.join(FILE)).expect("read");
        assert_eq!(text, format!("# mine\n\nb.example {}\n", key(2)));
        fs::set_permissions(at.join(FILE), fs::Permissions::from_mode(0o666)).expect("chmod");
        assert_eq!(Peers::load(at).expect_err("anybody's").kind(), ErrorKind::PermissionDenied);
    }

    #[test]
    fn a_line_that_is_none_is_named() {
        let good = format!("a {}\n", key(1));
        for (line, why) in [
            ("b\n", "line 2: it is not two words"),
            ("b c d\n", "line 2: it is not two words"),
            ("b sha256:00\n", "line 2: \"sha256:00\" is no fingerprint"),
            ("-b sha256:00\n", "line 2: \"-b\" is no name of a host"),
            ("b\u{1b} x\n", "line 2: \"b\\u{1b}\" is no name of a host"),
            (&good, "line 2: a is there twice"),
        ] {
            assert_eq!(parse(&format!("{good}{line}")), Err(why.to_owned()));
        }
        let many: String = (0..=MOST).map(|n| format!("h{n} {}\n", key(1))).collect();
        parse(&many).expect_err("too many");
    }

    proptest! {
        #[test]
        fn any_text_is_peers_or_an_error(text in "([a-z#: ]|sha256:|\n|\\PC){0,200}") {
            drop(parse(&text));
        }
    }
}
