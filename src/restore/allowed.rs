// SPDX-License-Identifier: Apache-2.0
//! What an archive may have of this host: nothing that the caller has not allowed. Whoever made the archive wrote the
//! configuration in it, too.

use std::os::fd::BorrowedFd;
use std::path::Path;

use serde_json::Value;

use super::{RestoreOptions, volumes};
use crate::engine::{SavedNetwork, service_manager_mount};
use crate::spec::{Config, Grant, HostAccess, Wish, host_access, validate};
use crate::{Context, Error, ErrorKind, Result};

/// So many wishes are named in an error.
const NAMED: usize = 8;

/// Compares what the configuration and the images of an archive want of the host with what was allowed.
///
/// # Errors
/// [`ErrorKind::NotAllowed`] names the fields, and as its hint what would allow them.
pub(super) fn check(config: &[u8], images: BorrowedFd<'_>, options: &RestoreOptions) -> Result<()> {
    judge(config, SavedNetwork::read(images)?.as_ref(), options)
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
    judge(&wishes, None, options)
}

fn judge(config: &[u8], network: Option<&SavedNetwork>, options: &RestoreOptions) -> Result<()> {
    let config = Config::parse(config.to_vec())?;
    let mut wishes = host_access(&config.spec, service_manager_mount(&config.spec));
    let ends = network.into_iter().flat_map(SavedNetwork::host_ends);
    wishes.extend(ends.map(|end| Wish::new(HostAccess::Devices, format!("network.json {end}"))));
    wishes.retain(|wish| !options.allow.contains(&wish.access) && !is_granted(wish, options));
    let too_large = options.grants.too_large(&config.spec);
    let mut named: Vec<_> = wishes.iter().take(NAMED).map(ToString::to_string).collect();
    named.extend((wishes.len() > NAMED).then(|| format!("and {} more", wishes.len() - NAMED)));
    named.extend(too_large.map(|too_large| too_large.to_string()));
    if named.is_empty() {
        return Ok(());
    }
    let message = format!("the archive wants of this host what was not allowed: {}", named.join("; "));
    let hint = match &options.grants.place {
        Some(place) => lines(&wishes, too_large.map(|too_large| too_large.limit), place),
        None => {
            format!("if you trust whoever made the archive with that: --allow {}", kinds(&wishes).join(","))
        }
    };
    Err(Error::new(ErrorKind::NotAllowed, message).with_hint(hint))
}

/// What is bound must be granted where it is, too, and not only where a symbolic link says that it is.
fn is_granted(wish: &Wish, options: &RestoreOptions) -> bool {
    let stays = |grant: &Grant| match grant {
        Grant::Mount(path) => path.canonicalize().is_ok_and(|path| {
            let tops = options.grants.list.iter().filter_map(|grant| match grant {
                Grant::Mount(top) => top.canonicalize().ok(),
                _ => None,
            });
            tops.into_iter().any(|top| path.starts_with(top))
        }),
        _ => true,
    };
    options.grants.cover(wish) && wish.wants.iter().all(stays)
}

fn kinds(wishes: &[Wish]) -> Vec<&'static str> {
    let mut kinds: Vec<_> = wishes.iter().map(|wish| wish.access).collect();
    kinds.sort();
    kinds.dedup();
    kinds.into_iter().map(HostAccess::name).collect()
}

/// The lines of a policy that would allow it.
fn lines(wishes: &[Wish], memory: Option<Option<u64>>, place: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    for wish in wishes.iter().take(NAMED) {
        if wish.wants.is_empty() {
            lines.push(format!("\"allow\": [\"{}\"]", wish.access.name()));
        }
        lines.extend(wish.wants.iter().take(NAMED).map(|grant| {
            let (field, value) = grant.line();
            format!("\"{field}\": [{value:?}]")
        }));
    }
    lines.extend(memory.map(|limit| match limit {
        Some(limit) => format!("\"memory\": {limit}"),
        None => "no \"memory\", or a limit in the configuration".to_owned(),
    }));
    lines.dedup();
    format!("if it may have that, add to {place}: {}", lines.join(", "))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::fd::AsFd;

    use serde_json::json;

    use super::*;
    use crate::spec::template;

    fn checked(config: &Value, network: &str, allowed: &[HostAccess]) -> Result<()> {
        checked_with(
            config,
            network,
            &RestoreOptions { allow: allowed.to_vec(), ..RestoreOptions::default() },
        )
    }

    fn checked_with(config: &Value, network: &str, options: &RestoreOptions) -> Result<()> {
        let images = tempfile::tempdir().expect("a temporary directory");
        fs::write(images.path().join("network.json"), network).expect("write");
        let images = File::open(images.path()).expect("open");
        check(config.to_string().as_bytes(), images.as_fd(), options)
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

    #[test]
    fn what_a_policy_grants_passes_and_the_rest_is_told_with_the_line_that_would() {
        let network = r#"{"schema":1,"content":"engine"}"#;
        let here = tempfile::tempdir().expect("a temporary directory");
        let top = here.path().canonicalize().expect("its own place");
        fs::create_dir_all(top.join("data/web")).expect("make directories");
        std::os::unix::fs::symlink("/etc", top.join("data/elsewhere")).expect("make a link");
        let bind = |source: &Path| {
            let mut config = template(false);
            let mount = json!({"destination": "/d", "source": source, "options": ["rbind"]});
            config["mounts"].as_array_mut().expect("a list").push(mount);
            config
        };
        let mut options = RestoreOptions::default();
        options.grants.list.push(Grant::Mount(top.join("data")));
        options.grants.place = Some("`peers.web` of policy.json".to_owned());
        checked_with(&bind(&top.join("data/web")), network, &options).expect("granted");
        let refused = |config: &Value, line: &str| {
            let error = checked_with(config, network, &options).expect_err("not granted");
            assert_eq!(error.kind(), ErrorKind::NotAllowed);
            let hint = format!("if it may have that, add to `peers.web` of policy.json: {line}");
            assert_eq!(error.hint(), Some(hint.as_str()));
        };
        refused(&bind(Path::new("/etc")), "\"mounts\": [\"/etc\"]");
        let link = top.join("data/elsewhere");
        refused(&bind(&link), &format!("\"mounts\": [{link:?}]"));
        let mut config = template(false);
        config["linux"]["rootfsPropagation"] = json!("shared");
        config["hooks"] = json!({"poststop": [{"path": "/bin/x"}]});
        refused(&config, "\"hooks\": [\"/bin/x\"], \"allow\": [\"mounts\"]");
    }
}
