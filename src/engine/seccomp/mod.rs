// SPDX-License-Identifier: Apache-2.0
//! Which system calls a container's processes may make: `linux.seccomp` becomes a program for the kernel in the runtime,
//! before the clone, and init only loads it.
//!
//! ```text
//!   linux.seccomp ── compile (libseccomp) ──▶ program ── newer_calls in front ──▶ Filter, in init's plan ──▶ seccomp(2)
//!                                                 and, with SCMP_ACT_NOTIFY:  init's descriptor ── Listener ──▶ agent
//! ```
//!
//! Once it is loaded, init makes few system calls: the profile was written for the program.

mod compile;
mod features;
mod listener;
mod newer_calls;
#[cfg(test)]
mod tests;

use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

pub use features::{SeccompFeatures, seccomp_features};
pub(super) use listener::Listener;

use crate::spec::oci::{LinuxSeccomp, Spec};
use crate::sys::seccomp::{self, Instruction};
use crate::{Context, Error, ErrorKind, Result};

/// A profile in the kernel's form, on its way to init.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Filter {
    program: Vec<Instruction>,
    flags: u32,
}

impl Filter {
    /// That of a configuration, which has been judged.
    ///
    /// # Errors
    /// What libseccomp, or this kernel, cannot do; the message names the field.
    pub(super) fn of(spec: &Spec) -> Result<Option<Self>> {
        let profile = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
        profile.map(Self::compile).transpose()
    }

    fn compile(profile: &LinuxSeccomp) -> Result<Self> {
        let program = compile::program(profile).context(|| "make a program of linux.seccomp")?;
        let flags = compile::flags(profile);
        // The words are runc's: who reads its log looks for them.
        tracing::debug!("seccomp filter flags: {flags}");
        if !seccomp::knows_flags(flags) {
            let flags = profile.flags().iter().flatten().map(ToString::to_string).collect::<Vec<_>>();
            let message =
                format!("this kernel does not know the flags of linux.seccomp.flags: {}", flags.join(", "));
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        Ok(Self { program, flags })
    }

    /// Whether somebody else is asked about system calls.
    pub(super) fn asks_others(&self) -> bool {
        self.flags & seccomp::FLAG_NEW_LISTENER != 0
    }

    /// Has this process, which has one thread, judged from now on. With [`Self::asks_others`] gives the descriptor on
    /// which the questions come.
    ///
    /// # Errors
    /// That of seccomp(2).
    pub(super) fn load(&self) -> Result<Option<OwnedFd>> {
        seccomp::load(&self.program, self.flags)
            .context(|| "unable to init seccomp: seccomp(SECCOMP_SET_MODE_FILTER)")
    }
}
