// SPDX-License-Identifier: Apache-2.0
//! The session keyring of a container: one of its own instead of the caller's, whose keys are none of its business. All
//! processes of the container share it by its name.

use std::ffi::CString;

use serde::{Deserialize, Serialize};

use super::ContainerId;
use crate::{Context, Result, sys};

/// `KEY_USR_SEARCH`: the keyring's user may find it by its name.
const USER_SEARCHES: u32 = 0x80000;
/// `KEY_OTH_SEARCH`: everybody who sees its name may, which is everybody in its user namespace.
const OTHERS_SEARCH: u32 = 0x8;

/// The keyring that init joins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KeyringPlan {
    name: String,
    /// What whoever makes it allows, besides what is usual.
    permissions: Option<u32>,
}

impl KeyringPlan {
    /// For a container's first process, which makes it.
    pub(super) fn of_first(id: &ContainerId, has_user_namespace: bool) -> Self {
        let permissions = if has_user_namespace { USER_SEARCHES | OTHERS_SEARCH } else { USER_SEARCHES };
        Self { permissions: Some(permissions), ..Self::of_further(id) }
    }

    /// For a further process, which finds it.
    pub(super) fn of_further(id: &ContainerId) -> Self {
        Self { name: format!("_ses.{id}"), permissions: None }
    }

    /// In init: leaves the caller's keyring for it.
    ///
    /// # Errors
    /// That of keyctl(2). A kernel without keyrings has nothing to leave.
    pub(super) fn join(&self) -> Result<()> {
        let name = CString::new(self.name.as_str()).context(|| "make a C string of the keyring's name")?;
        let ring = match sys::keyring::join_session(&name) {
            Ok(ring) => ring,
            Err(e) if e.raw_os_error() == Some(libc::ENOSYS) => {
                tracing::warn!(error = %e, "no session keyring: this kernel has none");
                return Ok(());
            }
            Err(e) if e.raw_os_error() == Some(libc::EDQUOT) => {
                return Err(e).context(|| format!("unable to join session keyring {}", self.name)).map_err(
                    |error: crate::Error| {
                        error.with_hint(
                            "the user has as many keys as kernel.keys.maxkeys allows (sysctl, /proc/key-users): raise \
                             that, or pass --no-new-keyring",
                        )
                    },
                );
            }
            Err(e) => return Err(e).context(|| format!("unable to join session keyring {}", self.name)),
        };
        match self.permissions {
            Some(bits) => ring
                .add_permissions(bits)
                .context(|| format!("unable to mod keyring permissions of {}", self.name)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_find_it_depends_on_the_user_namespace() {
        let id: ContainerId = "web".parse().expect("an id");
        assert_eq!(KeyringPlan::of_first(&id, false).permissions, Some(0x80000));
        assert_eq!(KeyringPlan::of_first(&id, true).permissions, Some(0x80008));
        let further = KeyringPlan::of_further(&id);
        assert_eq!((further.name.as_str(), further.permissions), ("_ses.web", None));
    }
}
