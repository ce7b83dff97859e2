// SPDX-License-Identifier: Apache-2.0
//! Namespaces that CRIU takes apart and could not put together again: said before anything is frozen.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::sched::CloneFlags;

use crate::engine::{InitProcess, Namespaces};
use crate::spec::Config;
use crate::{Context, Error, ErrorKind, Result};

/// Refuses a container that shares another's user namespace and, in it, namespaces that a restore would have to join.
///
/// CRIU restores the user namespace as one of the container's own, which has no rights over what the other one owns.
///
/// # Errors
/// [`ErrorKind::Unsupported`], naming the namespaces.
pub(super) fn check(config: &Config) -> Result<()> {
    let namespaces = Namespaces::from_spec(&config.spec);
    let Some(user) = namespaces.path(CloneFlags::CLONE_NEWUSER) else { return Ok(()) };
    let external = namespaces.external();
    let Some((name, _, path)) = external.first() else {
        tracing::warn!(
            path = %user.display(),
            "the container shares this user namespace with others: a restored one gets its own, with the same ids"
        );
        return Ok(());
    };
    Err(Error::new(
        ErrorKind::Unsupported,
        format!(
            "the container has joined the user namespace {} and the {name} namespace {}: it could not be restored, \
             since criu gives it a new user namespace, which has no rights over that one",
            user.display(),
            path.display()
        ),
    )
    .with_hint("give the container a user namespace of its own, or let it share no network and pid namespace"))
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

/// Refuses a container without a mount namespace: CRIU takes the whole mount table of a process, which is the host's.
///
/// # Errors
/// [`ErrorKind::Unsupported`].
pub(super) fn require_own_mounts(config: &Config) -> Result<()> {
    if Namespaces::from_spec(&config.spec).types().contains(&"mnt") {
        return Ok(());
    }
    let message = "a container without a mount namespace cannot be checkpointed: its mounts are the host's";
    Err(Error::new(ErrorKind::Unsupported, message)
        .with_hint("add {\"type\": \"mount\"} to linux.namespaces"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_shared_user_namespace_and_one_that_it_owns_are_refused_together() {
        let judge = |namespaces: serde_json::Value| {
            let json = json!({"ociVersion": "1.0.2", "linux": {"namespaces": namespaces}});
            check(&Config::parse(json.to_string().into_bytes()).expect("it parses"))
        };
        let (user, net) = (json!({"type": "user", "path": "/u"}), json!({"type": "network", "path": "/n"}));
        judge(json!([user])).expect("it gets its own");
        judge(json!([net, {"type": "user"}])).expect("its own joins the host's");
        let error = judge(json!([net, user])).expect_err("it could not join");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("the user namespace /u and the net namespace /n"), "{error}");
    }

    #[test]
    fn a_container_has_mounts_of_its_own() {
        let judge = |namespaces: serde_json::Value| {
            let json = json!({"ociVersion": "1.0.2", "linux": {"namespaces": namespaces}});
            require_own_mounts(&Config::parse(json.to_string().into_bytes()).expect("it parses"))
        };
        judge(json!([{"type": "mount"}])).expect("they are its own");
        let error = judge(json!([{"type": "pid"}])).expect_err("they are the host's");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }
}
