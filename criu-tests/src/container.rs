// SPDX-License-Identifier: Apache-2.0
//! A container on a host, and what its workload reports.

use std::fs;

use serde_json::Value;

use crate::bundle::Bundle;
use crate::host::Host;
use crate::status::Status;
use crate::wait::{PATIENCE, wait_until};

/// Ticks that a workload makes before a test believes that it goes on.
const ENOUGH: u64 = 10;

/// A container with a workload in it.
#[derive(Debug, Clone)]
pub struct Container<'h> {
    host: &'h Host,
    id: String,
    rootfs: String,
}

impl<'h> Container<'h> {
    pub(crate) fn new(host: &'h Host, id: &str, rootfs: &str) -> Self {
        Self { host, id: id.to_owned(), rootfs: rootfs.to_owned() }
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its root filesystem, seen from the host.
    pub fn rootfs(&self) -> &str {
        &self.rootfs
    }

    /// The workload's present report, if there is one.
    pub fn status(&self) -> Option<Status> {
        Status::read(&format!("{}{}", self.rootfs, Bundle::STATUS))
    }

    /// Waits for the first report.
    ///
    /// # Panics
    /// When there is none in time, or it tells a fault.
    #[track_caller]
    pub fn reports(&self) -> Status {
        let enough = || self.status().filter(|s| s.counter() >= ENOUGH).ok_or_else(|| self.status());
        let status = wait_until(PATIENCE, "the workload reports", enough);
        status.assert_ok();
        status
    }

    /// Restores it from a directory of images, in the background.
    ///
    /// # Panics
    /// When that fails.
    #[track_caller]
    pub fn restore(&self, images: &str, bundle: &Bundle) {
        self.host.migrate_detached(&[
            "restore",
            "-d",
            "--image-path",
            images,
            "-b",
            &bundle.path(),
            &self.id,
        ]);
    }

    /// Waits until the workload has gone on from `before`: the same process, some ticks and, where it holds memory, one
    /// whole check of that memory later.
    ///
    /// # Panics
    /// When it does not, or has found a fault.
    #[track_caller]
    pub fn goes_on(&self, before: &Status) -> Status {
        const PASSES: &str = "memory_passes";
        let passed = |s: &Status| !before.has(PASSES) || s.number(PASSES) >= before.number(PASSES) + 2;
        let far = |s: &Status| s.counter() >= before.counter() + ENOUGH && passed(s);
        let settled = |s: &Status| far(s) || s.field("ok") != "yes";
        let status = wait_until(PATIENCE, "the workload goes on", || {
            self.status().filter(settled).ok_or_else(|| (before, self.status()))
        });
        status.assert_continues(before);
        status
    }

    /// What `migrate state` says.
    #[track_caller]
    pub fn state(&self) -> Value {
        self.host.state(&self.id)
    }

    /// Its status as `migrate state` tells it.
    #[track_caller]
    pub fn state_status(&self) -> String {
        self.state()["status"].as_str().unwrap_or_default().to_owned()
    }

    /// Checkpoints it with these further arguments.
    ///
    /// # Panics
    /// When that fails.
    #[track_caller]
    pub fn checkpoint(&self, args: &[&str]) {
        self.host.migrate(&[&["checkpoint"], args, &[&self.id]].concat()).succeeded();
    }

    /// Runs a command of `migrate` that must fail, as [`Output::failed`](crate::Output::failed) tells, and asserts that
    /// the container runs on as if nothing had been. Gives the command's standard error.
    ///
    /// # Panics
    /// When any of that is not so.
    #[track_caller]
    pub fn runs_on_beside(&self, args: &[&str], code: i32, fragments: &[&str]) -> String {
        let before = self.reports();
        let said = self.host.migrate(args).failed(code, fragments);
        assert_eq!(self.state_status(), "running");
        self.goes_on(&before);
        said
    }

    /// Sends its first process a signal, by name or number.
    ///
    /// # Panics
    /// When that fails.
    #[track_caller]
    pub fn kill(&self, signal: &str) {
        self.host.migrate(&["kill", &self.id, signal]).succeeded();
    }

    /// Stops its first process by a signal, and waits until it stands still. `CONT` lets it go on.
    ///
    /// # Panics
    /// When it does not stop.
    #[track_caller]
    pub fn stand_still(&self) {
        self.kill("STOP");
        let status = self.host.outside(&format!("/proc/{}/status", self.state()["pid"]));
        wait_until(PATIENCE, "the first process stands still", || {
            let text = fs::read_to_string(&status).map_err(|e| e.to_string())?;
            if text.contains("\nState:\tT") { Ok(()) } else { Err(text) }
        });
    }

    /// Waits until its first process has ended.
    ///
    /// # Panics
    /// When it does not end.
    #[track_caller]
    pub fn stops(&self) {
        wait_until(PATIENCE, "the container stops", || match self.state_status().as_str() {
            "stopped" => Ok(()),
            other => Err(other.to_owned()),
        });
    }

    /// Ends the workload in its own way and deletes the container.
    ///
    /// # Panics
    /// When either fails.
    #[track_caller]
    pub fn end(self) {
        self.kill("TERM");
        self.stops();
        self.host.migrate(&["delete", &self.id]).succeeded();
    }
}
