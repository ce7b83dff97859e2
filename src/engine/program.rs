// SPDX-License-Identifier: Apache-2.0
//! The last things before a container's program runs, seen from inside the container: its directory, its stdio, its
//! environment, and where its file is. Everything here is looked up in the container's own root.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::{AccessFlags, faccessat};

use super::process::ProcessPlan;
use crate::{Context, Error, ErrorKind, Result, sys};

/// A file larger than this is no passwd(5) that anybody needs read for a home directory.
const PASSWD_LIMIT: u64 = 4 << 20;

/// Goes to the working directory.
///
/// Returns whether it is there: one that only the process's user may enter is for a second attempt, as that.
pub(super) fn enter_directory(cwd: &Path) -> Result<bool> {
    match std::env::set_current_dir(cwd) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Ok(false),
        other => {
            other.context(|| cannot_enter(cwd))?;
            verify_directory(cwd)?;
            Ok(true)
        }
    }
}

/// The second attempt, as the process's user.
pub(super) fn retry_directory(cwd: &Path) -> Result<()> {
    std::env::set_current_dir(cwd).context(|| cannot_enter(cwd))?;
    verify_directory(cwd)
}

/// The words are runc's.
fn cannot_enter(cwd: &Path) -> String {
    format!("chdir to cwd ({cwd:?}) set in config.json failed")
}

/// A working directory outside the container's root would be a way out of it (CVE-2024-21626).
fn verify_directory(cwd: &Path) -> Result<()> {
    match std::env::current_dir() {
        Ok(now) if now.is_absolute() => Ok(()),
        _ => Err(Error::new(
            ErrorKind::PermissionDenied,
            format!("process.cwd {} leads outside of the container's root", cwd.display()),
        )),
    }
}

/// Gives stdio to the process's user, so that it can reopen `/dev/stdout`. `/dev/null` is everybody's already, and
/// what refuses a new owner (another user's terminal, a read-only file) works as it is.
pub(super) fn own_stdio(uid: u32) -> Result<()> {
    for number in 0..3 {
        let fd = sys::fd::stdio(number);
        let status = nix::sys::stat::fstat(fd).context(|| format!("fstat({number})"))?;
        let null = nix::sys::stat::makedev(1, 3);
        if status.st_uid == uid || (status.st_mode & libc::S_IFMT == libc::S_IFCHR && status.st_rdev == null)
        {
            continue;
        }
        match nix::unistd::fchown(fd, Some(nix::unistd::Uid::from_raw(uid)), None) {
            Ok(()) => {}
            Err(Errno::EPERM | Errno::EINVAL | Errno::EROFS) => {}
            Err(e) => return Err(e).context(|| format!("fchown({number}, {uid})")),
        }
    }
    Ok(())
}

/// The process's environment, with `HOME` from the container's `/etc/passwd` where the configuration gives none.
pub(super) fn environment(process: &ProcessPlan) -> Vec<(String, String)> {
    let mut environment = process.env.clone();
    if environment.iter().any(|(name, value)| name == "HOME" && !value.is_empty()) {
        return environment;
    }
    environment.retain(|(name, _)| name != "HOME");
    let home = read_passwd(Path::new("/etc/passwd"))
        .and_then(|text| home_of(&text, process.uid))
        .unwrap_or_else(|| "/".to_owned());
    environment.push(("HOME".to_owned(), home));
    environment
}

fn read_passwd(path: &Path) -> Option<String> {
    // The image may have put anything there: a fifo would make us wait for ever.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;
    let file = fs::OpenOptions::new().read(true).custom_flags(flags).open(path).ok()?;
    if !file.metadata().is_ok_and(|m| m.is_file() && m.size() <= PASSWD_LIMIT) {
        return None;
    }
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, PASSWD_LIMIT), &mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// The sixth field of the first line for the user (passwd(5)).
fn home_of(passwd: &str, uid: u32) -> Option<String> {
    passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let matches = fields.get(2)?.parse::<u32>().ok()? == uid;
        let home = *fields.get(5)?;
        (matches && !home.is_empty()).then(|| home.to_owned())
    })
}

/// Finds the program as a shell would: a name with a slash is a path, any other is looked for along `PATH`.
///
/// # Errors
/// [`ErrorKind::NotFound`] and [`ErrorKind::PermissionDenied`], in the words that engines recognise.
pub(super) fn find(name: &str, environment: &[(String, String)]) -> Result<PathBuf> {
    if name.contains('/') {
        return executable(Path::new(name)).map(|()| name.into()).map_err(|e| {
            let error = Error::new(kind(&e), format!("exec: {name:?}"));
            match e.kind() {
                io::ErrorKind::NotFound => {
                    Error::new(kind(&e), format!("exec: {name:?}: stat {name}: no such file or directory"))
                }
                io::ErrorKind::PermissionDenied => {
                    Error::new(kind(&e), format!("exec: {name:?}: permission denied"))
                }
                _ => error.with_source(e),
            }
        });
    }
    let path = environment.iter().find(|(n, _)| n == "PATH").map_or("", |(_, value)| value.as_str());
    let mut denied = false;
    // No name is no program, although every directory is there under it.
    for directory in path.split(':').filter(|_| !name.is_empty()) {
        let candidate = Path::new(if directory.is_empty() { "." } else { directory }).join(name);
        match executable(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(e) => denied |= e.kind() == io::ErrorKind::PermissionDenied,
        }
    }
    Err(if denied {
        Error::new(ErrorKind::PermissionDenied, format!("exec: {name:?}: permission denied"))
    } else {
        Error::new(ErrorKind::NotFound, format!("exec: {name:?}: executable file not found in $PATH"))
    })
}

/// Why the kernel does not execute a program that was found, in the words that engines recognise.
pub(super) fn cannot_execute(path: &Path, error: &io::Error) -> Error {
    let mut why = Errno::from_raw(error.raw_os_error().unwrap_or_default()).desc().to_owned();
    if let Some(first) = why.get_mut(..1) {
        first.make_ascii_lowercase();
    }
    Error::new(kind(error), format!("exec {}: {why}", path.display()))
}

fn executable(path: &Path) -> io::Result<()> {
    let status = fs::metadata(path)?;
    let file = status.file_type();
    if file.is_dir() || file.is_socket() || file.is_fifo() || status.permissions().mode() & 0o111 == 0 {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    // With the effective ids and capabilities, as execve will ask: the program may belong to another user and
    // CAP_DAC_OVERRIDE let this one run it. A filter from before faccessat2(2) refuses the question: ask execve then.
    match faccessat(AT_FDCWD, path, AccessFlags::X_OK, AtFlags::AT_EACCESS) {
        Ok(()) | Err(Errno::ENOSYS | Errno::EPERM) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

fn kind(error: &io::Error) -> ErrorKind {
    match error.kind() {
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
        _ => ErrorKind::System,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_home_directory_is_that_of_the_first_matching_line() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbroken\ndaemon:x:1:1::/usr/sbin:\nother:x:1:1::/no:\n";
        assert_eq!(home_of(passwd, 1).as_deref(), Some("/usr/sbin"));
        assert_eq!(home_of(passwd, 0).as_deref(), Some("/root"));
        assert_eq!(home_of(passwd, 7), None);
    }

    #[test]
    fn a_passwd_that_is_a_fifo_is_none() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("passwd");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("mkfifo");
        assert_eq!(read_passwd(&path), None);
        fs::remove_file(&path).expect("remove");
        fs::write(&path, "x").expect("write");
        assert_eq!(read_passwd(&path).as_deref(), Some("x"));
    }

    #[test]
    fn programs_are_found_along_the_path() {
        let environment = [("PATH".to_owned(), "/nowhere:/bin".to_owned())];
        assert_eq!(find("sh", &environment).expect("there is a shell"), Path::new("/bin/sh"));
        assert_eq!(find("/bin/sh", &[]).expect("there is a shell"), Path::new("/bin/sh"));
    }

    #[test]
    fn a_program_that_cannot_run_is_reported_in_the_words_that_engines_match() {
        let environment = [("PATH".to_owned(), "/bin".to_owned())];
        let text = |name: &str| find(name, &environment).expect_err(name).chain();
        assert_eq!(text("nosuch"), "exec: \"nosuch\": executable file not found in $PATH");
        assert_eq!(text(""), "exec: \"\": executable file not found in $PATH");
        assert_eq!(text("/nosuch"), "exec: \"/nosuch\": stat /nosuch: no such file or directory");
        assert_eq!(text("/etc/passwd"), "exec: \"/etc/passwd\": permission denied");
        assert_eq!(text("/etc"), "exec: \"/etc\": permission denied");
        let error = io::Error::from_raw_os_error(libc::ENOENT);
        let error = cannot_execute(Path::new("/run.sh"), &error);
        assert_eq!(error.chain(), "exec /run.sh: no such file or directory");
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }
}
