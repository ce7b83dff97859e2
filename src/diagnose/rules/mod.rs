// SPDX-License-Identifier: Apache-2.0
//! The table of rules: a file for each concern, in the order in which they are tried.

mod cgroups;
mod credentials;
mod files;
mod images;
mod memory;
mod mounts;
mod namespaces;
mod network;
mod processes;
mod sockets;
mod storage;
mod terminals;
mod versions;

use super::Context;
use crate::criu::Job;

/// One cause that is known.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// Its name, which stays the same.
    pub name: &'static str,
    /// In which jobs.
    pub jobs: Jobs,
    /// The lines of CRIU's that tell it, any of them: words of theirs, and `{name}` for what varies.
    pub seen: &'static [&'static str],
    /// A line before that one that must be there too.
    pub after: Option<&'static str>,
    /// What else must be so.
    pub only: If,
    /// Whether the line may also be an echo: then it only counts when it is the first error.
    pub last_resort: bool,
    /// The cause, in one sentence.
    pub cause: &'static str,
    /// What helps.
    pub remedy: &'static str,
}

impl Rule {
    /// What most rules have in common.
    const ANY: Self = Self {
        name: "",
        jobs: Jobs::Both,
        seen: &[],
        after: None,
        only: If::Always,
        last_resort: false,
        cause: "",
        remedy: "",
    };
    const DUMP: Self = Self { jobs: Jobs::Dump, ..Self::ANY };
    const RESTORE: Self = Self { jobs: Jobs::Restore, ..Self::ANY };
}

/// The jobs that a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Jobs {
    /// A checkpoint.
    Dump,
    /// A restore.
    Restore,
    /// Both.
    Both,
}

impl Jobs {
    pub(super) fn include(self, job: Job) -> bool {
        match self {
            Self::Dump => job == Job::Dump,
            Self::Restore => job == Job::Restore,
            Self::Both => true,
        }
    }
}

/// What must be known from the context for a rule to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum If {
    /// Nothing.
    Always,
    /// The container's memory was used up.
    OutOfMemory,
    /// The container has a user namespace.
    UserNamespace,
    /// The flag was given.
    Given(&'static str),
    /// A process has a descriptor of something that begins so.
    Open(&'static str),
}

impl If {
    pub(super) fn holds(self, context: &Context) -> bool {
        match self {
            Self::Always => true,
            Self::OutOfMemory => context.out_of_memory,
            Self::UserNamespace => context.user_namespace,
            Self::Given(flag) => context.flags.contains(&flag),
            Self::Open(target) => context.descriptor(target).is_some(),
        }
    }
}

/// What the rule of this name says that helps; empty if there is no such rule.
pub fn remedy(name: &str) -> &'static str {
    RULES.iter().flat_map(|list| list.iter()).find(|rule| rule.name == name).map_or("", |rule| rule.remedy)
}

/// All rules, by concern.
pub const RULES: &[&[Rule]] = &[
    versions::RULES,
    sockets::RULES,
    files::RULES,
    terminals::RULES,
    mounts::RULES,
    namespaces::RULES,
    network::RULES,
    credentials::RULES,
    cgroups::RULES,
    memory::RULES,
    images::RULES,
    processes::RULES,
    storage::RULES,
];
