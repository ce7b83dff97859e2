// SPDX-License-Identifier: Apache-2.0
//! What CRIU tells while it works, each as one method. Knows pids and descriptors; must not know what is done with
//! them.
//!
//! ```text
//! dump:     pre_dump · network_lock* · query_external · [status_ready] · post_dump · network_unlock*
//! restore:  pre_restore · setup_namespaces(pid)° · post_setup_namespaces° · orphan_pts_master(fd)… ·
//!           post_restore(pid) · network_unlock* · pre_resume · post_resume
//! ```
//! `*` only if the tree has a network namespace of its own, `°` only if it has any namespace of its own.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use crate::{Error, ErrorKind, Result};

/// The caller's part in a dump or a restore. CRIU waits for the return of each method. An `Err` makes it stop and
/// undo; it is then the error of the whole operation. Where CRIU does not listen to the answer, there is no `Result`.
pub trait Notify {
    /// Before a dump touches anything.
    ///
    /// # Errors
    /// Any: the dump ends, the tasks run on.
    fn pre_dump(&mut self) -> Result<()> {
        Ok(())
    }

    /// The tasks are stopped; the network namespace of their own is about to be locked.
    ///
    /// # Errors
    /// Any: the dump ends, the tasks run on.
    fn network_lock(&mut self) -> Result<()> {
        Ok(())
    }

    /// The network is about to be unlocked: after a dump that leaves the tasks running or failed, or in a restore.
    fn network_unlock(&mut self) {}

    /// Names further external objects (`file[…]`, `tty[…]`, `unix[…]`), now that the tasks are stopped.
    ///
    /// # Errors
    /// Any: the dump ends, the tasks run on.
    fn query_external(&mut self) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    /// The page server of a lazy dump accepts connections.
    ///
    /// # Errors
    /// Any: the dump ends.
    fn status_ready(&mut self) -> Result<()> {
        Ok(())
    }

    /// The images are complete, the tasks still stopped: the last chance to keep them alive.
    ///
    /// # Errors
    /// Any: the dump fails, the tasks run on.
    fn post_dump(&mut self) -> Result<()> {
        Ok(())
    }

    /// An image streamer is about to be used.
    ///
    /// # Errors
    /// Any: the operation ends.
    fn pre_stream(&mut self) -> Result<()> {
        Ok(())
    }

    /// Before a restore makes anything.
    ///
    /// # Errors
    /// Any: the restore ends.
    fn pre_restore(&mut self) -> Result<()> {
        Ok(())
    }

    /// The first process exists, in new and still empty namespaces; `pid` is its id here. Not called for a tree
    /// without namespaces of its own.
    ///
    /// # Errors
    /// Any: the restore ends and CRIU kills what it made.
    fn setup_namespaces(&mut self, _pid: i32) -> Result<()> {
        Ok(())
    }

    /// The contents of the namespaces are restored.
    ///
    /// # Errors
    /// Any: the restore ends and CRIU kills what it made.
    fn post_setup_namespaces(&mut self) -> Result<()> {
        Ok(())
    }

    /// The master of a terminal whose other end lives in the restored tree; may come more than once.
    ///
    /// # Errors
    /// Any: the restore ends and CRIU kills what it made.
    fn orphan_pts_master(&mut self, _master: OwnedFd) -> Result<()> {
        Ok(())
    }

    /// All processes are there, none runs yet; `pid` is the first one's id here. The last chance to refuse.
    ///
    /// # Errors
    /// Any: the restore ends and CRIU kills what it made.
    fn post_restore(&mut self, _pid: i32) -> Result<()> {
        Ok(())
    }

    /// After [`Notify::post_restore`], before CRIU hears the answer over this connection. Whoever has a copy of it keeps CRIU waiting
    /// for the answer to the next notification, also when this process has died.
    ///
    /// # Errors
    /// Any: the restore ends and CRIU kills what it made.
    fn before_release(&mut self, _connection: BorrowedFd<'_>) -> Result<()> {
        Ok(())
    }

    /// The processes are about to run; this cannot be stopped any more.
    fn pre_resume(&mut self) {}

    /// The processes run.
    fn post_resume(&mut self) {}

    /// How long CRIU may be silent until [`Notify::silence`] is called; `None`: however long it likes.
    fn patience(&self) -> Option<Duration> {
        None
    }

    /// CRIU has said nothing for `how_long`, and [`Notify::patience`] is asked again afterwards.
    fn silence(&mut self, _how_long: Duration) {}
}

/// A caller that lets CRIU do.
#[derive(Debug, Default, Clone, Copy)]
pub struct Silent;

impl Notify for Silent {}

/// What a notification brought.
#[derive(Debug)]
pub(super) struct Event<'a> {
    pub(super) script: &'a str,
    pub(super) pid: Option<i32>,
    pub(super) fds: Vec<OwnedFd>,
}

/// Calls the method that the event is for; the answer is the list of external objects to add. A script of a newer
/// CRIU is acknowledged, as CRIU demands of its clients.
pub(super) fn dispatch(event: Event<'_>, notify: &mut dyn Notify) -> Result<Vec<String>> {
    let Event { script, pid, fds } = event;
    let with_pid = || pid.ok_or_else(|| malformed(script, "a process id"));
    match script {
        "pre-dump" => notify.pre_dump()?,
        "network-lock" => notify.network_lock()?,
        "network-unlock" => notify.network_unlock(),
        "query-ext-files" => return notify.query_external(),
        "status-ready" => notify.status_ready()?,
        "post-dump" => notify.post_dump()?,
        "pre-stream" => notify.pre_stream()?,
        "pre-restore" => notify.pre_restore()?,
        "setup-namespaces" => notify.setup_namespaces(with_pid()?)?,
        "post-setup-namespaces" => notify.post_setup_namespaces()?,
        "orphan-pts-master" => {
            let master = fds.into_iter().next().ok_or_else(|| malformed(script, "a file descriptor"))?;
            notify.orphan_pts_master(master)?;
        }
        "post-restore" => notify.post_restore(with_pid()?)?,
        "pre-resume" => notify.pre_resume(),
        "post-resume" => notify.post_resume(),
        _ => tracing::debug!(script, "unknown notification of criu acknowledged"),
    }
    Ok(Vec::new())
}

fn malformed(script: &str, missing: &str) -> Error {
    Error::new(ErrorKind::CriuFailed, format!("criu sent the notification {script} without {missing}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Record(Vec<String>);

    impl Record {
        fn add(&mut self, what: &str) -> Result<()> {
            self.0.push(what.to_owned());
            Ok(())
        }
    }

    impl Notify for Record {
        fn pre_dump(&mut self) -> Result<()> {
            self.add("pre-dump")
        }
        fn network_lock(&mut self) -> Result<()> {
            self.add("network-lock")
        }
        fn network_unlock(&mut self) {
            self.0.push("network-unlock".to_owned());
        }
        fn query_external(&mut self) -> Result<Vec<String>> {
            self.add("query-ext-files")?;
            Ok(vec!["file[1:2]".to_owned()])
        }
        fn status_ready(&mut self) -> Result<()> {
            self.add("status-ready")
        }
        fn post_dump(&mut self) -> Result<()> {
            self.add("post-dump")
        }
        fn pre_stream(&mut self) -> Result<()> {
            self.add("pre-stream")
        }
        fn pre_restore(&mut self) -> Result<()> {
            self.add("pre-restore")
        }
        fn setup_namespaces(&mut self, pid: i32) -> Result<()> {
            self.add(&format!("setup-namespaces {pid}"))
        }
        fn post_setup_namespaces(&mut self) -> Result<()> {
            self.add("post-setup-namespaces")
        }
        fn orphan_pts_master(&mut self, _master: OwnedFd) -> Result<()> {
            self.add("orphan-pts-master")
        }
        fn post_restore(&mut self, pid: i32) -> Result<()> {
            self.add(&format!("post-restore {pid}"))
        }
        fn pre_resume(&mut self) {
            self.0.push("pre-resume".to_owned());
        }
        fn post_resume(&mut self) {
            self.0.push("post-resume".to_owned());
        }
    }

    #[test]
    fn every_script_has_its_method() {
        let scripts = [
            "pre-dump",
            "network-lock",
            "network-unlock",
            "query-ext-files",
            "status-ready",
            "post-dump",
            "pre-stream",
            "pre-restore",
            "setup-namespaces",
            "post-setup-namespaces",
            "orphan-pts-master",
            "post-restore",
            "pre-resume",
            "post-resume",
            "of-the-future",
        ];
        let mut record = Record::default();
        for script in scripts {
            let pid = matches!(script, "setup-namespaces" | "post-restore").then_some(7);
            let fds = vec![OwnedFd::from(tempfile::tempfile().expect("temporary file"))];
            let externals = dispatch(Event { script, pid, fds }, &mut record).expect(script);
            assert_eq!(externals.is_empty(), script != "query-ext-files");
        }
        let expected: Vec<String> = scripts
            .iter()
            .filter(|s| **s != "of-the-future")
            .map(|s| {
                if s.ends_with("namespaces") && !s.starts_with("post") || *s == "post-restore" {
                    format!("{s} 7")
                } else {
                    (*s).to_owned()
                }
            })
            .collect();
        assert_eq!(record.0, expected);
    }

    #[test]
    fn a_notification_without_its_payload_is_refused() {
        for script in ["setup-namespaces", "post-restore", "orphan-pts-master"] {
            let event = Event { script, pid: None, fds: Vec::new() };
            let error = dispatch(event, &mut Silent).expect_err(script);
            assert!(error.to_string().contains(script), "{error}");
        }
    }
}
