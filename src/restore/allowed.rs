// SPDX-License-Identifier: Apache-2.0
//! What an archive may have of this host: nothing that the caller has not allowed. Whoever made the archive wrote the
//! configuration in it, too.

use std::os::fd::BorrowedFd;
use std::path::Path;

use serde_json::Value;

use super::{RestoreOptions, volumes};
use crate::engine::{SavedNetwork, service_manager_mount};
use crate::spec::{Config, HostAccess, Wish, host_access, validate};
use crate::{Context, Error, ErrorKind, Result};

/// So many wishes are named in an error.
const NAMED: usize = 8;

/// Compares what the configuration and the images of an archive want of the host with what was allowed.
///
/// # Errors
/// [`ErrorKind::NotAllowed`] names the fields, and as its hint what would allow them.
pub(super) fn check(config: &[u8], images: BorrowedFd<'_>, allowed: &[HostAccess]) -> Result<()> {
    judge(config, SavedNetwork::read(images)?.as_ref(), allowed)
}

/// [`check`] of a container whose images are still to come.
///
/// # Errors
/// As [`check`], and for a configuration that would be refused anyway.
pub fn allows(config: &Value, options: &RestoreOptions) -> Result<()> {
    let mut config = config.clone();
    let answered = volumes::answer(&mut config, &[], options, Path::new("/"))?;
    let wishes = serde_json::to_vec(&answered.rest(&config)).context(|| "serialise the configuration")?;
    validate(&Config::parse(wishes.clone())?.spec)?;
    judge(&wishes, None, &options.allow)
}

fn judge(config: &[u8], network: Option<&SavedNetwork>, allowed: &[HostAccess]) -> Result<()> {
    let config = Config::parse(config.to_vec())?;
    let mut wishes = host_access(&config.spec, service_manager_mount(&config.spec));
    let ends = network.into_iter().flat_map(SavedNetwork::host_ends);
    wishes.extend(ends.map(|end| Wish::new(HostAccess::Devices, format!("network.json {end}"))));
    wishes.retain(|wish| !allowed.contains(&wish.access));
    if wishes.is_empty() { Ok(()) } else { Err(refusal(&wishes)) }
}

fn refusal(wishes: &[Wish]) -> Error {
    let mut kinds: Vec<_> = wishes.iter().map(|wish| wish.access).collect();
    kinds.sort();
    kinds.dedup();
    let kinds: Vec<_> = kinds.into_iter().map(HostAccess::name).collect();
    let mut named: Vec<_> = wishes.iter().take(NAMED).map(ToString::to_string).collect();
    if wishes.len() > NAMED {
        named.push(format!("and {} more", wishes.len() - NAMED));
    }
    let message = format!("the archive wants of this host what was not allowed: {}", named.join("; "));
    Error::new(ErrorKind::NotAllowed, message)
        .with_hint(format!("if you trust whoever made the archive with that: --allow {}", kinds.join(",")))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::fd::AsFd;

    use serde_json::json;

    use super::*;
    use crate::spec::template;

    fn checked(config: &Value, network: &str, allowed: &[HostAccess]) -> Result<()> {
        let images = tempfile::tempdir().expect("a temporary directory");
        fs::write(images.path().join("network.json"), network).expect("write");
        let images = File::open(images.path()).expect("open");
        check(config.to_string().as_bytes(), images.as_fd(), allowed)
    }

    #[test]
    fn only_what_was_allowed_passes() {
        let none = r#"{"schema":1,"content":"engine"}"#;
        let pair = r#"{"schema":1,"content":"engine","networks":[
            {"type":"loopback"},{"type":"veth","name":"eth0","bridge":"br0"}]}"#;
        let mut config = template(false);
        checked(&config, none, &[]).expect("it wants nothing");
        config["hooks"] = json!({"poststop": [{"path": "/bin/true"}]});
        let error = checked(&config, pair, &[]).expect_err("it wants two things");
        assert_eq!(error.kind(), ErrorKind::NotAllowed);
        assert_eq!(
            error.to_string(),
            "the archive wants of this host what was not allowed: hooks.poststop[0] runs \"/bin/true\"; \
             network.json connects \"eth0\" with the host's bridge \"br0\""
        );
        assert!(error.hint().is_some_and(|hint| hint.ends_with("--allow devices,hooks")));
        let error = checked(&config, pair, &[HostAccess::Devices]).expect_err("hooks are left");
        assert!(error.hint().is_some_and(|hint| hint.ends_with("--allow hooks")));
        checked(&config, pair, &HostAccess::ALL).expect("everything is allowed");
    }

    #[test]
    fn a_long_list_is_cut() {
        let mut config = template(false);
        config["hooks"] = json!({"poststop": vec![json!({"path": "/bin/true"}); 20]});
        let error = checked(&config, r#"{"schema":1,"content":"engine"}"#, &[]).expect_err("hooks");
        assert!(error.to_string().ends_with("; and 12 more"), "{error}");
    }
}
