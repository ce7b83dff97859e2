// SPDX-License-Identifier: Apache-2.0
//! Namespaces that CRIU takes apart and could not put together again: said before anything is frozen.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::sched::CloneFlags;

use crate::check::{Given, Severity, judge_namespaces, refuse};
use crate::engine::{InitProcess, Namespaces};
use crate::spec::Config;
use crate::{Context, Result};

/// Refuses a container whose namespaces could not be put together again.
///
/// # Errors
/// [`ErrorKind::Undumpable`](crate::ErrorKind::Undumpable), naming the namespaces.
pub(super) fn require_restorable(config: &Config) -> Result<()> {
    let found = judge_namespaces(config);
    for note in found.iter().filter(|finding| finding.severity == Severity::Note) {
        tracing::warn!("{}: {}", note.subject(), note.cause);
    }
    refuse(found, &Given::default())
}

/// The namespaces by path that CRIU works in: what it has in common with the container, it leaves alone.
///
/// # Errors
/// When one of them cannot be opened.
pub(super) fn around_criu(config: &Config, init: InitProcess) -> Result<Vec<(OwnedFd, CloneFlags)>> {
    let namespaces = Namespaces::from_spec(&config.spec);
    let open = |(kind, name, _): (CloneFlags, &str, &Path)| {
        let path = format!("/proc/{}/ns/{name}", init.pid);
        Ok((File::open(&path).context(|| format!("open {path}"))?.into(), kind))
    };
    namespaces.around_criu().into_iter().map(open).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::ErrorKind;

    #[test]
    fn namespaces_that_could_not_be_restored_are_refused() {
        let judge = |namespaces: serde_json::Value| {
            let json = json!({"ociVersion": "1.0.2", "linux": {"namespaces": namespaces}});
            require_restorable(&Config::parse(json.to_string().into_bytes()).expect("it parses"))
        };
        let mount = json!({"type": "mount"});
        let (user, net) = (json!({"type": "user", "path": "/u"}), json!({"type": "network", "path": "/n"}));
        judge(json!([mount, user])).expect("it gets its own");
        judge(json!([mount, net, {"type": "user"}])).expect("its own joins the host's");
        let error = judge(json!([mount, net, user])).expect_err("it could not join");
        assert_eq!(error.kind(), ErrorKind::Undumpable);
        assert!(error.to_string().contains("user namespace /u and net namespace /n"), "{error}");
        let error = judge(json!([{"type": "pid"}])).expect_err("its mounts are the host's");
        assert_eq!(error.kind(), ErrorKind::Undumpable);
    }
}
