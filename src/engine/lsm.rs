// SPDX-License-Identifier: Apache-2.0
//! What the security modules are told of a container's process: the AppArmor profile or the SELinux label that it gets
//! with its program, and the label of the keys that it makes. Decided in the runtime, written by init about itself.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::fcntl::OFlag;
use serde::{Deserialize, Serialize};

use crate::spec::oci;
use crate::sys::procfs::Procfs;
use crate::{Context, Error, ErrorKind, Result, sys};

/// Which security modules this machine has.
#[derive(Debug, Clone, Copy)]
struct Modules {
    apparmor: bool,
    selinux: bool,
}

/// What init writes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LsmPlan {
    apparmor: Option<String>,
    selinux: Option<String>,
}

impl LsmPlan {
    /// What a process asks for.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for a module that this machine does not have, naming the field.
    pub(super) fn new(process: &oci::Process) -> Result<Self> {
        let wanted = Self {
            apparmor: process.apparmor_profile().clone().filter(|name| !name.is_empty()),
            selinux: process.selinux_label().clone().filter(|label| !label.is_empty()),
        };
        if wanted == Self::default() {
            return Ok(wanted);
        }
        let selinux = sys::selinux::is_enabled().context(|| "find out whether SELinux is enabled")?;
        wanted.judged(Modules { apparmor: sys::apparmor::is_enabled(Path::new("/")), selinux })
    }

    /// The words are runc's.
    fn judged(self, modules: Modules) -> Result<Self> {
        let refuse = |field: &str, why: &str, hint: &str| {
            Err(Error::new(ErrorKind::Unsupported, format!("process.{field}: {why}"))
                .with_hint(hint.to_owned()))
        };
        match (&self.apparmor, &self.selinux) {
            (Some(_), _) if !modules.apparmor => refuse(
                "apparmorProfile",
                "apparmor: config provided but apparmor not supported",
                "boot this machine with AppArmor, or remove the field from config.json",
            ),
            (_, Some(_)) if !modules.selinux => refuse(
                "selinuxLabel",
                "selinux label is specified in config, but selinux is disabled or not supported",
                "enable SELinux on this machine, or remove the field from config.json",
            ),
            _ => Ok(self),
        }
    }

    /// In init, while the host's `/proc` is in reach: what it takes to write.
    ///
    /// # Errors
    /// When there is something to write and no procfs to be found.
    pub(super) fn attributes(&self) -> Result<Attributes> {
        if *self == Self::default() {
            return Ok(Attributes(None));
        }
        Procfs::open().map(|procfs| Attributes(Some(procfs))).context(|| "take hold of procfs")
    }

    /// In init, before it makes its session keyring: the label of keys. `None` for the time after it.
    ///
    /// # Errors
    /// The label that the kernel refuses.
    pub(super) fn label_keys(&self, attributes: &impl Attribute, when: KeyLabel) -> Result<()> {
        let Some(label) = &self.selinux else { return Ok(()) };
        let label = if when == KeyLabel::Set { label.as_str() } else { "" };
        write(attributes, "attr/keycreate", label)
            .context(|| format!("set the label of keys {label:?} (process.selinuxLabel)"))
    }

    /// In init: what the program gets.
    ///
    /// # Errors
    /// The profile or label that the kernel refuses.
    pub(super) fn apply(&self, attributes: &impl Attribute) -> Result<()> {
        if let Some(name) = &self.apparmor {
            let command = format!("exec {name}");
            // The second belongs to the first security module of several.
            match write(attributes, "attr/apparmor/exec", &command) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => write(attributes, "attr/exec", &command),
                other => other,
            }
            .context(|| format!("unable to apply apparmor profile {name} (process.apparmorProfile)"))?;
        }
        if let Some(label) = &self.selinux {
            write(attributes, "attr/exec", label)
                .context(|| format!("can't set process label {label} (process.selinuxLabel)"))?;
        }
        Ok(())
    }
}

/// Whether keys that are made from now on get the label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyLabel {
    Set,
    Clear,
}

/// Files of this thread in procfs.
pub(super) trait Attribute {
    /// One for writing, by its path below the thread's directory.
    fn open(&self, path: &str) -> io::Result<OwnedFd>;
}

/// Those of the kernel's procfs; none when there is nothing to write.
#[derive(Debug)]
pub(super) struct Attributes(Option<Procfs>);

impl Attribute for Attributes {
    fn open(&self, path: &str) -> io::Result<OwnedFd> {
        match &self.0 {
            Some(procfs) => procfs.open_own(path, OFlag::O_WRONLY),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

/// In one call, also of nothing at all, which takes a label back.
fn write(attributes: &impl Attribute, path: &str, text: &str) -> io::Result<()> {
    let file = attributes.open(path)?;
    match nix::unistd::write(&file, text.as_bytes())? {
        written if written == text.len() => Ok(()),
        _ => Err(io::ErrorKind::WriteZero.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;

    struct FakeRoot(PathBuf);

    impl Attribute for FakeRoot {
        fn open(&self, path: &str) -> io::Result<OwnedFd> {
            fs::OpenOptions::new().append(true).open(self.0.join(path)).map(OwnedFd::from)
        }
    }

    fn plan(apparmor: Option<&str>, selinux: Option<&str>) -> LsmPlan {
        LsmPlan { apparmor: apparmor.map(str::to_owned), selinux: selinux.map(str::to_owned) }
    }

    fn applied(plan: &LsmPlan, files: &[&str]) -> Vec<String> {
        let dir = tempfile::tempdir().expect("tempdir");
        fs::create_dir_all(dir.path().join("attr/apparmor")).expect("mkdir");
        for file in files {
            fs::write(dir.path().join(file), "").expect("write");
        }
        plan.apply(&FakeRoot(dir.path().to_owned())).expect("applied");
        files.iter().map(|file| fs::read_to_string(dir.path().join(file)).expect("read")).collect()
    }

    #[test]
    fn a_profile_goes_to_apparmors_own_file_where_there_is_one() {
        let profile = plan(Some("web"), None);
        assert_eq!(applied(&profile, &["attr/apparmor/exec", "attr/exec"]), ["exec web", ""]);
        assert_eq!(applied(&profile, &["attr/exec"]), ["exec web"]);
    }

    #[test]
    fn a_label_is_for_the_program_and_for_keys() {
        let label = plan(None, Some("system_u:system_r:container_t:s0:c1,c2"));
        assert_eq!(applied(&label, &["attr/exec"]), ["system_u:system_r:container_t:s0:c1,c2"]);
        let dir = tempfile::tempdir().expect("tempdir");
        fs::create_dir(dir.path().join("attr")).expect("mkdir");
        let file = dir.path().join("attr/keycreate");
        fs::write(&file, "").expect("write");
        let root = FakeRoot(dir.path().to_owned());
        label.label_keys(&root, KeyLabel::Set).expect("set");
        label.label_keys(&root, KeyLabel::Clear).expect("cleared");
        assert_eq!(fs::read_to_string(&file).expect("read"), "system_u:system_r:container_t:s0:c1,c2");
        plan(Some("web"), None).label_keys(&FakeRoot("/nonexistent".into()), KeyLabel::Set).expect("none");
    }

    #[test]
    fn a_module_that_is_not_there_is_told_by_the_field() {
        let none = Modules { apparmor: false, selinux: false };
        let error = plan(Some("web"), None).judged(none).expect_err("no AppArmor");
        assert_eq!(
            error.to_string(),
            "process.apparmorProfile: apparmor: config provided but apparmor not supported"
        );
        let error = plan(None, Some("x")).judged(none).expect_err("no SELinux");
        assert!(error.to_string().starts_with("process.selinuxLabel: selinux label is specified"), "{error}");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        let both = Modules { apparmor: true, selinux: true };
        plan(Some("web"), Some("x")).judged(both).expect("both are there");
        plan(None, None).judged(none).expect("nothing is asked for");
    }

    #[test]
    fn what_the_kernel_refuses_names_the_profile() {
        let error = plan(Some("web"), None).apply(&FakeRoot("/nonexistent".into())).expect_err("no files");
        assert!(error.chain().contains("unable to apply apparmor profile web"), "{}", error.chain());
    }
}
