// SPDX-License-Identifier: Apache-2.0
//! Hooks: programs of the configuration's that run at fixed moments of a container's life.
//!
//! | kind | run by | when | status in its state |
//! | --- | --- | --- | --- |
//! | prestart, createRuntime | the runtime, in the bundle | root file system and cgroup prepared, not pivoted | creating |
//! | createContainer | init, in the root file system | right after those | creating |
//! | startContainer | init, as the container's user | `start` was called, before the program | created |
//! | poststart | the runtime, in the bundle | the program runs | running |
//! | poststop | the runtime | nothing of the container is left | stopped |
//!
//! A hook reads the container's state as JSON on stdin and inherits no other descriptor. Must not know when it is time:
//! `init`, `builder` and `container` do.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::State;
use crate::spec::OCI_VERSION;
use crate::spec::oci::{self, Spec};
use crate::sys::command::{Ending, Outcome, ShortCommand, run};
use crate::{Context, Error, ErrorKind, Result, sys};

/// A moment for hooks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HookKind {
    Prestart,
    CreateRuntime,
    CreateContainer,
    StartContainer,
    Poststart,
    Poststop,
}

impl HookKind {
    /// All kinds, in the order in which a container's life meets them.
    pub(super) const ALL: [Self; 6] = [
        Self::Prestart,
        Self::CreateRuntime,
        Self::CreateContainer,
        Self::StartContainer,
        Self::Poststart,
        Self::Poststop,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Prestart => "prestart",
            Self::CreateRuntime => "createRuntime",
            Self::CreateContainer => "createContainer",
            Self::StartContainer => "startContainer",
            Self::Poststart => "poststart",
            Self::Poststop => "poststop",
        }
    }
}

/// One hook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct HookPlan {
    path: PathBuf,
    args: Vec<String>,
    env: Option<Vec<String>>,
    timeout: Option<u64>,
}

/// The hooks of one kind, in their order.
pub(super) fn of_kind(spec: &Spec, kind: HookKind) -> Vec<HookPlan> {
    let Some(hooks) = spec.hooks() else { return Vec::new() };
    #[allow(deprecated)] // a configuration may still carry it
    let list = match kind {
        HookKind::Prestart => hooks.prestart(),
        HookKind::CreateRuntime => hooks.create_runtime(),
        HookKind::CreateContainer => hooks.create_container(),
        HookKind::StartContainer => hooks.start_container(),
        HookKind::Poststart => hooks.poststart(),
        HookKind::Poststop => hooks.poststop(),
    };
    list.iter().flatten().map(HookPlan::of).collect()
}

impl HookPlan {
    fn of(hook: &oci::Hook) -> Self {
        Self {
            path: hook.path().clone(),
            args: hook.args().clone().unwrap_or_default(),
            env: hook.env().clone(),
            timeout: hook.timeout().and_then(|seconds| u64::try_from(seconds).ok()),
        }
    }
}

/// The container's state as a hook reads it (runtime specification, "State").
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct HookState {
    oci_version: String,
    id: String,
    status: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<i32>,
    bundle: PathBuf,
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    annotations: std::collections::BTreeMap<String, String>,
}

impl HookState {
    /// What is written down of a container, with its status and its first process as whoever runs the hook sees it.
    pub(super) fn new(state: &State, status: &str, pid: Option<i32>) -> Self {
        Self {
            oci_version: OCI_VERSION.to_owned(),
            id: state.id.clone(),
            status: status.to_owned(),
            pid,
            bundle: state.bundle.clone(),
            annotations: state.annotations.clone(),
        }
    }
}

/// What init needs to know of the hooks that it runs and waits for.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct InitHooks {
    /// Whether the runtime has hooks to run before the root file system is entered.
    pub runtime: bool,
    create_container: Vec<HookPlan>,
    start_container: Vec<HookPlan>,
    state: Option<HookState>,
}

impl InitHooks {
    /// The hooks of a configuration.
    pub(super) fn new(spec: &Spec, state: &State) -> Self {
        Self {
            runtime: [HookKind::Prestart, HookKind::CreateRuntime]
                .iter()
                .any(|kind| !of_kind(spec, *kind).is_empty()),
            create_container: of_kind(spec, HookKind::CreateContainer),
            start_container: of_kind(spec, HookKind::StartContainer),
            state: Some(HookState::new(state, "creating", None)),
        }
    }

    fn state(&self, status: &str) -> Option<HookState> {
        let pid = Some(nix::unistd::Pid::this().as_raw());
        self.state.clone().map(|state| HookState { status: status.to_owned(), pid, ..state })
    }

    /// Whether there are any for [`InitHooks::create_container`].
    pub(super) fn has_create_container(&self) -> bool {
        !self.create_container.is_empty()
    }

    /// Whether there are any for [`InitHooks::start_container`].
    pub(super) fn has_start_container(&self) -> bool {
        !self.start_container.is_empty()
    }

    /// In init, in the container's namespaces and still among the host's files, in the present directory.
    ///
    /// # Errors
    /// The first hook that failed.
    pub(super) fn create_container(&self) -> Result<()> {
        let Some(state) = self.state("creating") else { return Ok(()) };
        let place = Place { directory: None, environment: Environment::Only(&[]) };
        run_all(HookKind::CreateContainer, &self.create_container, &state, &place)
    }

    /// In init, right before the program, whose environment is theirs where they have none.
    ///
    /// # Errors
    /// The first hook that failed.
    pub(super) fn start_container(&self, environment: &[(String, String)]) -> Result<()> {
        let Some(state) = self.state("created") else { return Ok(()) };
        let place = Place { directory: None, environment: Environment::Only(environment) };
        run_all(HookKind::StartContainer, &self.start_container, &state, &place)
    }
}

/// Runs the hooks of a kind that is the runtime's, in the bundle if that is still there.
///
/// # Errors
/// [`ErrorKind::HookFailed`] with the first one that failed; those after it are not run.
pub(super) fn run_in_runtime(kind: HookKind, spec: &Spec, state: &HookState) -> Result<()> {
    let directory = Some(state.bundle.as_path()).filter(|bundle| bundle.is_dir());
    let place = Place { directory, environment: Environment::Callers };
    run_all(kind, &of_kind(spec, kind), state, &place)
}

/// Runs the hooks that follow the end of a container, all of them, however many fail.
///
/// # Errors
/// [`ErrorKind::HookFailed`] with the first one that failed, and with it the others.
pub(super) fn run_poststop(spec: &Spec, state: &State) -> Result<()> {
    let state = HookState::new(state, "stopped", None);
    let directory = Some(state.bundle.as_path()).filter(|bundle| bundle.is_dir());
    let place = Place { directory, environment: Environment::Callers };
    let hooks = of_kind(spec, HookKind::Poststop);
    let run = |(i, hook)| run_one(HookKind::Poststop, i, hook, &state, &place).err();
    let mut failed = hooks.iter().enumerate().filter_map(run);
    match failed.next() {
        None => Ok(()),
        Some(first) => Err(first.with_cleanup(failed)),
    }
}

/// Where hooks run.
struct Place<'a> {
    directory: Option<&'a Path>,
    environment: Environment<'a>,
}

/// The environment of hooks that have none of their own.
enum Environment<'a> {
    Callers,
    Only(&'a [(String, String)]),
}

fn run_all(kind: HookKind, hooks: &[HookPlan], state: &HookState, place: &Place<'_>) -> Result<()> {
    hooks.iter().enumerate().try_for_each(|(i, hook)| run_one(kind, i, hook, state, place))
}

fn run_one(
    kind: HookKind,
    number: usize,
    hook: &HookPlan,
    state: &HookState,
    place: &Place<'_>,
) -> Result<()> {
    let describe = || {
        // Newer clients look for the first half, older ones for the words of the second.
        let path = hook.path.display();
        format!("error running {} hook #{number}: error running hook {path}", kind.name())
    };
    let input = serde_json::to_vec(state).context(|| "serialise the container's state")?;
    let outcome = run(&ShortCommand {
        path: hook.path.clone(),
        args: hook.args.iter().map(OsString::from).collect(),
        environment: environment(hook, &place.environment),
        directory: place.directory.map(Path::to_owned),
        input: &input,
        timeout: hook.timeout.map(Duration::from_secs),
    })
    .map_err(|e| Error::new(ErrorKind::HookFailed, describe()).with_source(e))?;
    match complaint(hook, &outcome) {
        None => Ok(()),
        Some(why) => Err(Error::new(ErrorKind::HookFailed, format!("{}: {why}", describe()))),
    }
}

fn environment(hook: &HookPlan, default: &Environment<'_>) -> Option<Vec<(OsString, OsString)>> {
    let pair = |(name, value): (&str, &str)| (name.into(), value.into());
    match (&hook.env, default) {
        (Some(own), _) => Some(own.iter().filter_map(|entry| entry.split_once('=')).map(pair).collect()),
        (None, Environment::Callers) => None,
        (None, Environment::Only(pairs)) => {
            Some(pairs.iter().map(|(name, value)| pair((name, value))).collect())
        }
    }
}

/// What an engine that shows the error to its user needs to see: how it ended and all that it said.
fn complaint(hook: &HookPlan, outcome: &Outcome) -> Option<String> {
    let how = match outcome.ending {
        Ending::Exit(0) => return None,
        Ending::Exit(code) => format!("exit status {code}"),
        Ending::Signal(number) => format!("signal: {}", sys::process::signal_meaning(number)),
        Ending::TimedOut => {
            format!("hook ran past specified timeout of {:.1}s", hook.timeout.unwrap_or_default() as f64)
        }
    };
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    Some(format!("{how}, stdout: {}, stderr: {}", said(&outcome.stdout), said(&outcome.stderr)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn hook(script: &str) -> HookPlan {
        HookPlan {
            path: "/bin/sh".into(),
            args: vec!["sh".into(), "-c".into(), script.into()],
            env: None,
            timeout: None,
        }
    }

    fn state() -> HookState {
        HookState {
            oci_version: OCI_VERSION.into(),
            id: "web".into(),
            status: "creating".into(),
            pid: Some(7),
            bundle: "/b".into(),
            annotations: [("k".to_owned(), "v".to_owned())].into(),
        }
    }

    fn run_these(hooks: &[HookPlan]) -> Result<()> {
        let place = Place { directory: None, environment: Environment::Only(&[]) };
        run_all(HookKind::CreateRuntime, hooks, &state(), &place)
    }

    #[test]
    fn the_failed_hook_is_named_with_its_number_its_code_and_its_words() {
        let error = run_these(&[hook("true"), hook("echo out; echo err >&2; exit 3")]).expect_err("it fails");
        assert_eq!(error.kind(), ErrorKind::HookFailed);
        assert_eq!(
            error.chain(),
            "error running createRuntime hook #1: error running hook /bin/sh: exit status 3, stdout: out, stderr: err"
        );
        let missing = HookPlan { path: "/nonexistent".into(), ..hook("") };
        let error = run_these(&[missing]).expect_err("there is none");
        assert!(error.chain().starts_with(
            "error running createRuntime hook #0: error running hook /nonexistent: no such file"
        ));
        let slow = HookPlan { timeout: Some(1), ..hook("while :; do :; done") };
        let error = run_these(&[slow]).expect_err("its time is up");
        assert!(error.to_string().contains("hook ran past specified timeout of 1.0s"), "{error}");
    }

    #[test]
    fn the_state_is_on_stdin() {
        let dir = tempfile::tempdir().expect("tempdir");
        let file = dir.path().join("state");
        let plan = HookPlan { env: Some(vec![format!("F={}", file.display())]), ..hook("/bin/cat > $F") };
        run_these(&[plan]).expect("it runs");
        let text = std::fs::read(&file).expect("it was written");
        let value: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
        assert_eq!(
            value,
            json!({"ociVersion": OCI_VERSION, "id": "web", "status": "creating", "pid": 7, "bundle": "/b",
                   "annotations": {"k": "v"}})
        );
    }

    #[test]
    fn a_hooks_own_environment_replaces_the_other() {
        let plan = HookPlan { env: Some(vec!["A=1=2".into()]), ..hook("") };
        let default = [("B".to_owned(), "3".to_owned())];
        let pairs = |plan: &HookPlan| environment(plan, &Environment::Only(&default));
        assert_eq!(pairs(&plan), Some(vec![("A".into(), "1=2".into())]));
        assert_eq!(pairs(&hook("")), Some(vec![("B".into(), "3".into())]));
        assert_eq!(environment(&hook(""), &Environment::Callers), None);
    }
}
