// SPDX-License-Identifier: Apache-2.0
//! A security module's profile or mount context that replaces the dumped one: CRIU would find out late that this host
//! has no such module.

use std::path::Path;

use crate::{Context, Error, ErrorKind, Result, sys};

/// Judges `--lsm-profile` and `--lsm-mount-context`.
///
/// # Errors
/// [`ErrorKind::InvalidInput`] for what is no profile; [`ErrorKind::Unsupported`] without the module.
pub(in crate::restore) fn check_lsm(profile: Option<&str>, mount_context: Option<&str>) -> Result<()> {
    let selinux = || sys::selinux::is_enabled().context(|| "find out whether SELinux is enabled");
    let missing = |module: &str, flag: &str| {
        let message = format!("{flag} is for {module}, which is not enabled on this host");
        Err(Error::new(ErrorKind::Unsupported, message))
    };
    let (module, enabled) = match profile.map(|profile| profile.split_once(':').unwrap_or((profile, ""))) {
        None => ("", true),
        Some(("apparmor", name)) if !name.is_empty() => {
            ("AppArmor", sys::apparmor::is_enabled(Path::new("/")))
        }
        Some(("selinux", label)) if !label.is_empty() => ("SELinux", selinux()?),
        Some(_) => {
            let message = format!("--lsm-profile {} is no profile", profile.unwrap_or_default());
            return Err(Error::new(ErrorKind::InvalidInput, message)
                .with_hint("it must be apparmor:NAME or selinux:LABEL"));
        }
    };
    if !enabled {
        return missing(module, "--lsm-profile");
    }
    if mount_context.is_some() && !selinux()? {
        return missing("SELinux", "--lsm-mount-context");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_names_its_module() {
        check_lsm(None, None).expect("nothing is asked for");
        for profile in ["name", "apparmor:", "smack:x", ":x"] {
            let error = check_lsm(Some(profile), None).expect_err(profile);
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert_eq!(error.hint(), Some("it must be apparmor:NAME or selinux:LABEL"));
        }
    }
}
