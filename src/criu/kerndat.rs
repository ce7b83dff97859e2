// SPDX-License-Identifier: Apache-2.0
//! What CRIU has found out about the running kernel, kept from one CRIU to the next where CRIU itself does not.
//!
//! CRIU probes the kernel when it starts to work and keeps the result as `/run/criu.kdat`, but only if `/run` is a
//! tmpfs: the facts must not outlive the kernel. It reads the file whatever it lies on (criu/kerndat.c,
//! `kerndat_try_load_cache`, `kerndat_save_cache`). So, where `/run` is not a tmpfs, we let CRIU probe once on a tmpfs
//! that only it sees, keep the file under a name that stands for this boot, this kernel and this CRIU, and bind it
//! where CRIU reads it. All mounts are in a private namespace. Only root can write what is kept.
//!
//! Where CRIU keeps it, another CRIU probes first, too, if there is nothing yet: one that restores is in the container's cgroup, which may
//! not let it open the devices that it asks the kernel about, and would keep for all others that the kernel cannot do what it can.
//!
//! Must not know what the facts are.

use std::fs::{self, File, Permissions};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat, renameat};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::Mode;
use nix::sys::statfs::{TMPFS_MAGIC, statfs};

use super::{Criu, Version};
use crate::sys::fd::proc_path;
use crate::sys::namespace::{PrivateMounts, in_private_mount_namespace};
use crate::{Context, Error, ErrorKind, Result, sys};

/// Where CRIU has its file.
const RUN: &str = "/run";
const FILE: &str = "/run/criu.kdat";

/// Where we keep it: a directory beside it, in which only root can make names.
const KEPT: &str = "/run/migrate-criu";

/// More than this is not CRIU's file: that has less than 1 KiB.
const LARGEST: u64 = 64 << 10;

/// Makes what is known of the kernel known to a CRIU that shares these mounts; `probe` has another CRIU find it out, started
/// from the thread that it is called on.
pub(super) fn reuse(
    criu: &Criu,
    version: Version,
    _mounts: &PrivateMounts,
    probe: impl FnOnce() -> Result<()> + Send,
) -> Result<()> {
    if statfs(RUN).context(|| format!("statfs({RUN})"))?.filesystem_type() == TMPFS_MAGIC {
        return if Path::new(FILE).exists() { Ok(()) } else { probe() };
    }
    let directory = Kept::open(Path::new(KEPT))?;
    let boot = sys::proc::boot_id().context(|| "look which boot this is")?;
    let name = name(&boot, criu, version)?;
    let facts = match directory.find(&name)? {
        Some(facts) => facts,
        None => {
            directory.keep(&name, &probed(probe)?, &boot)?;
            let kept = directory.find(&name)?;
            kept.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("{KEPT}/{name} went away")))?
        }
    };
    // To other CRIUs an empty file says as much as none.
    File::options()
        .read(true)
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(FILE)
        .context(|| format!("make {FILE}"))?;
    mount(Some(&proc_path(facts.as_fd())), FILE, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .context(|| format!("bind {KEPT}/{name} on {FILE}"))
}

/// Has CRIU probe the kernel where `/run` is a tmpfs, which nobody else sees, and returns what it keeps there.
fn probed(probe: impl FnOnce() -> Result<()> + Send) -> Result<Vec<u8>> {
    in_private_mount_namespace(|_| {
        mount(Some("tmpfs"), RUN, Some("tmpfs"), MsFlags::empty(), Some("mode=0755,size=1m"))
            .context(|| format!("mount a tmpfs on {RUN}"))?;
        probe()?;
        let mut facts = Vec::new();
        let read = File::open(FILE).and_then(|file| file.take(LARGEST).read_to_end(&mut facts));
        read.context(|| format!("read {FILE}"))?;
        Ok(facts)
    })
    .context(|| "make a private mount namespace for criu's probing")?
}

/// A name for what this CRIU knows of this kernel until the next boot.
fn name(boot: &str, criu: &Criu, version: Version) -> Result<String> {
    let kernel = sys::proc::kernel_release().context(|| "uname()")?;
    let path = criu.path();
    let program = fs::metadata(path).context(|| format!("stat({})", path.display()))?;
    let mut hasher = DefaultHasher::new();
    (kernel, path, version.to_string()).hash(&mut hasher);
    (program.dev(), program.ino(), program.size()).hash(&mut hasher);
    (program.mtime(), program.mtime_nsec(), program.ctime(), program.ctime_nsec()).hash(&mut hasher);
    Ok(format!("{boot}.{:016x}", hasher.finish()))
}

/// The directory of what is kept.
struct Kept(OwnedFd);

impl Kept {
    /// Opens the directory, made if it is missing.
    ///
    /// # Errors
    /// `PermissionDenied` if others than its owner, who must be us, can write to it.
    fn open(path: &Path) -> Result<Self> {
        let attempted = || format!("make {}", path.display());
        match fs::DirBuilder::new().mode(0o700).create(path) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(e).context(attempted),
            _ => {}
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let directory = File::from(open(path, flags, Mode::empty()).context(attempted)?);
        require_ours(&directory, path)?;
        Ok(Self(directory.into()))
    }

    /// The file of this name, if there is one.
    fn find(&self, name: &str) -> Result<Option<File>> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = match openat(&self.0, name, flags, Mode::empty()) {
            Err(Errno::ENOENT) => return Ok(None),
            other => File::from(other.context(|| format!("open {name}"))?),
        };
        require_ours(&file, Path::new(name))?;
        Ok(Some(file))
    }

    /// Keeps these bytes under a name, which begins with the boot. What was kept of other boots goes.
    fn keep(&self, name: &str, facts: &[u8], boot: &str) -> Result<()> {
        let here = proc_path(self.0.as_fd());
        for found in fs::read_dir(&here).context(|| "list what is kept")? {
            let found = found.context(|| "list what is kept")?;
            if found.file_name().as_encoded_bytes().starts_with(boot.as_bytes()) {
                continue;
            }
            match fs::remove_file(found.path()) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(e).context(|| format!("remove {}", found.path().display()));
                }
                _ => {}
            }
        }
        let partial = format!("{name}.{}", std::process::id());
        let mut file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(here.join(&partial))
            .context(|| format!("create {partial}"))?;
        file.write_all(facts).context(|| format!("write {partial}"))?;
        file.set_permissions(Permissions::from_mode(0o400)).context(|| format!("chmod {partial}"))?;
        renameat(&self.0, partial.as_str(), &self.0, name).context(|| format!("rename {partial} to {name}"))
    }
}

/// Refuses what somebody else could have written.
fn require_ours(file: &File, path: &Path) -> Result<()> {
    let found = file.metadata().context(|| format!("stat({})", path.display()))?;
    if found.uid() == nix::unistd::geteuid().as_raw() && found.mode() & 0o022 == 0 {
        return Ok(());
    }
    let message = format!("{} could have been written by others", path.display());
    Err(Error::new(ErrorKind::PermissionDenied, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_boots_files_are_kept() {
        let temporary = tempfile::tempdir().expect("a directory");
        let kept = Kept::open(&temporary.path().join("kept")).expect("made");
        assert!(kept.find("1.a").expect("nothing yet").is_none());
        kept.keep("1.a", b"facts of a", "1").expect("kept");
        kept.keep("2.b", b"facts of b", "2").expect("kept");
        kept.keep("2.c", b"facts of c", "2").expect("kept");
        assert!(kept.find("1.a").expect("no error").is_none());
        let found = kept.find("2.b").expect("no error").expect("it is there");
        assert_eq!(std::io::read_to_string(found).expect("readable"), "facts of b");
        let again = Kept::open(&temporary.path().join("kept")).expect("it exists");
        assert!(again.find("2.c").expect("no error").is_some());
    }

    #[test]
    fn what_others_could_write_is_refused() {
        let temporary = tempfile::tempdir().expect("a directory");
        let path = temporary.path().join("kept");
        let kept = Kept::open(&path).expect("made");
        kept.keep("a", b"facts", "a").expect("kept");
        fs::set_permissions(path.join("a"), Permissions::from_mode(0o620)).expect("chmod");
        assert_eq!(kept.find("a").expect_err("writable").kind(), ErrorKind::PermissionDenied);
        std::os::unix::fs::symlink("/etc/passwd", path.join("link")).expect("symlink");
        assert!(kept.find("link").expect_err("a link").is_errno(libc::ELOOP));
        fs::set_permissions(&path, Permissions::from_mode(0o770)).expect("chmod");
        assert_eq!(Kept::open(&path).map(|_| ()).expect_err("writable").kind(), ErrorKind::PermissionDenied);
    }

    #[test]
    fn the_name_stands_for_this_criu() {
        let mut programs = ["/bin/sh", "/bin/true"].map(|path| Criu::for_test(Path::new(path)));
        let name_of = |criu: &Criu, version| name("boot", criu, version).expect("a program");
        let version = Version::new(4, 2, 1);
        assert_eq!(name_of(&programs[0], version), name_of(&programs[0], version));
        assert_ne!(name_of(&programs[0], version), name_of(&programs[0], Version::new(4, 2, 2)));
        programs.reverse();
        assert_ne!(name_of(&programs[0], version), name_of(&programs[1], version));
    }
}
