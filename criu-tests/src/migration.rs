// SPDX-License-Identifier: Apache-2.0
//! A migration as a test sees it: who receives, and what each host has written down.

use std::fs;
use std::os::unix::net::UnixStream;

use nix::sys::signal::Signal;

use crate::command::Running;
use crate::host::Host;
use crate::wait::{PATIENCE, wait_until};

/// A receiver that listens on a host.
#[derive(Debug)]
pub struct Receiver<'h> {
    host: &'h Host,
    /// What runs, until somebody takes it.
    pub running: Option<Running>,
    /// Where it listens, as a destination of `migrate to`.
    pub at: String,
}

impl<'h> Receiver<'h> {
    /// Starts it with these further arguments, and waits until it listens.
    ///
    /// # Panics
    /// When it ends instead.
    #[track_caller]
    pub fn on(host: &'h Host, args: &[&str]) -> Self {
        let path = host.path("receive.sock");
        let _ = fs::remove_file(&path);
        let at = format!("unix:{path}");
        let running =
            host.migrate_command(&[&["receive", "--listen", &at], args].concat()).without_stdio().start();
        wait_until(PATIENCE, "somebody listens", || match UnixStream::connect(&path) {
            Ok(_) => Ok(()),
            Err(e) if running.has_ended() => panic!("the receiver has ended: {e}"),
            Err(e) => Err(e.to_string()),
        });
        Self { host, running: Some(running), at }
    }
}

impl Drop for Receiver<'_> {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.signal(Signal::SIGKILL);
            running.wait();
            self.host.signal_served(Signal::SIGKILL);
        }
    }
}

/// The only migration that a host's state root has, if it has one.
///
/// # Panics
/// When it has several.
#[track_caller]
pub fn migration(host: &Host) -> Option<String> {
    let mut names: Vec<_> = fs::read_dir(host.path("state/.migrations"))
        .into_iter()
        .flatten()
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("hexadecimal digits"))
        .collect();
    assert!(names.len() < 2, "{names:?}");
    names.pop()
}

/// Waits until a host has written this down of its migration.
///
/// # Panics
/// When it does not.
#[track_caller]
pub fn recorded(host: &Host, what: &str) {
    wait_until(PATIENCE, what, || {
        let journal = migration(host).map(|id| host.path(&format!("state/.migrations/{id}/journal")));
        let bytes = journal.and_then(|path| fs::read(path).ok()).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        if text.contains(&format!("\"{what}\"")) { Ok(()) } else { Err(text.into_owned()) }
    });
}
