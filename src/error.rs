// SPDX-License-Identifier: Apache-2.0
//! The one error type of the library: opaque, with a [`ErrorKind`] to match on, a source chain to read and,
//! where a remedy is known, a hint for the person who reads it.
//!
//! Layer 0: every module uses it, it uses none. Messages are lower case, without a full stop, and say what was
//! attempted and on what; the reason is the source's to tell, so a message never repeats its source's text.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::borrow::Cow;
use std::fmt;
use std::io;

/// What went wrong, for a caller who decides by it. The text is for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub enum ErrorKind {
    /// An argument of the call is unusable: an id with a slash, a flag's value, an option pair that excludes itself.
    InvalidInput,
    /// `config.json` is missing, is not JSON, or holds a value that the runtime specification forbids; the
    /// message names the field.
    InvalidConfig,
    /// The configuration is valid but asks for something that this version does not do; the message names the field.
    Unsupported,
    /// No container, file or directory of that name.
    NotFound,
    /// A container of that id exists already.
    AlreadyExists,
    /// The operation does not go with the container's present status.
    WrongStatus,
    /// The archive is empty, truncated, damaged, foreign, or breaks a limit.
    InvalidArchive,
    /// The archive is good, but wants of this host what the caller did not allow, or is not signed as the caller demands.
    NotAllowed,
    /// CRIU is not installed, or too old for the request or for the running kernel.
    CriuUnusable,
    /// CRIU ran and said no.
    CriuFailed,
    /// The container holds what CRIU cannot carry, or carries only with a flag that was not given: found before anything
    /// was stopped.
    Undumpable,
    /// A hook of the configuration's failed or ran past its time.
    HookFailed,
    /// A registry cannot be reached, cannot be trusted, or refuses.
    Registry,
    /// The disk is full, the quota is used up, or the target is read-only.
    Storage,
    /// The caller lacks a permission or capability.
    PermissionDenied,
    /// A system call or a file operation failed for another reason.
    System,
}

/// An error of this library.
#[derive(Debug)]
pub struct Error(Box<Repr>);

#[derive(Debug)]
struct Repr {
    kind: ErrorKind,
    message: Cow<'static, str>,
    hint: Option<Cow<'static, str>>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
    cleanup: Vec<Error>,
    backtrace: Backtrace,
}

/// `Result` with this library's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error without a deeper cause. Where it begins is kept if the environment asks for backtraces.
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Repr {
            kind,
            message: message.into(),
            hint: None,
            source: None,
            cleanup: Vec::new(),
            backtrace: Backtrace::capture(),
        }))
    }

    /// The same error with the cause beneath it.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// The same error with a remedy: a sentence that tells what to do.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// The same error, with what went wrong while cleaning up after it. The cause stays the cause.
    #[must_use]
    pub fn with_cleanup(mut self, failed: impl IntoIterator<Item = Error>) -> Self {
        self.0.cleanup.extend(failed);
        self
    }

    /// What went wrong, to match on.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The remedy nearest to the top of the chain, if any of it carries one.
    pub fn hint(&self) -> Option<&str> {
        self.0
            .hint
            .as_deref()
            .or_else(|| self.0.source.as_deref().and_then(|s| inner(s)).and_then(Error::hint))
    }

    /// Where the deepest error of this type in the chain began, if `RUST_BACKTRACE` or `RUST_LIB_BACKTRACE` was set to
    /// something other than 0 at the time.
    pub fn backtrace(&self) -> Option<&Backtrace> {
        let deeper = self.0.source.as_deref().and_then(|s| s.downcast_ref::<Error>());
        deeper
            .and_then(Error::backtrace)
            .or_else(|| Some(&self.0.backtrace).filter(|found| found.status() == BacktraceStatus::Captured))
    }

    /// What failed during the clean-up that followed this error.
    pub fn cleanup_failures(&self) -> &[Error] {
        &self.0.cleanup
    }

    /// Whether an operating-system error with this number is anywhere in the chain.
    pub fn is_errno(&self, errno: i32) -> bool {
        self.errno() == Some(errno)
    }

    /// The number of the operating-system error at the bottom of the chain.
    pub fn errno(&self) -> Option<i32> {
        let mut next: Option<&(dyn std::error::Error + 'static)> = Some(self);
        let mut found = None;
        while let Some(error) = next {
            if let Some(io) = error.downcast_ref::<io::Error>() {
                found = io.raw_os_error().or(found);
            } else if let Some(errno) = error.downcast_ref::<nix::errno::Errno>() {
                found = Some(*errno as i32);
            }
            next = error.source();
        }
        found
    }

    /// The whole chain on one line, causes after colons, as the command line prints it. The operating system's
    /// errors are in the lower case that Go writes them in: clients look for `no such file or directory`.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut next = std::error::Error::source(self);
        while let Some(error) = next {
            text.push_str(": ");
            text.push_str(&text_of(error));
            next = error.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|s| s as &(dyn std::error::Error + 'static))
    }
}

/// Says what was attempted, on the way up.
pub trait Context<T> {
    /// Wraps the error: `message` tells what was attempted, the error becomes its source. The kind is that of an
    /// inner [`Error`], else it follows from the operating system's error number.
    ///
    /// # Errors
    /// The wrapped error.
    fn context<M: Into<Cow<'static, str>>>(self, message: impl FnOnce() -> M) -> Result<T>;

    /// [`Context::context`] with the kind given.
    ///
    /// # Errors
    /// The wrapped error.
    fn context_kind<M: Into<Cow<'static, str>>>(
        self,
        kind: ErrorKind,
        message: impl FnOnce() -> M,
    ) -> Result<T>;
}

impl<T, E> Context<T> for std::result::Result<T, E>
where
    E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
{
    fn context<M: Into<Cow<'static, str>>>(self, message: impl FnOnce() -> M) -> Result<T> {
        self.map_err(|e| {
            let source = e.into();
            Error::new(kind_of(source.as_ref()), message()).with_source(source)
        })
    }

    fn context_kind<M: Into<Cow<'static, str>>>(
        self,
        kind: ErrorKind,
        message: impl FnOnce() -> M,
    ) -> Result<T> {
        self.map_err(|e| Error::new(kind, message()).with_source(e))
    }
}

/// An error of this type, as it is or on its way through a reader or writer.
fn inner<'e>(source: &'e (dyn std::error::Error + 'static)) -> Option<&'e Error> {
    let carried = || source.downcast_ref::<io::Error>()?.get_ref()?.downcast_ref::<Error>();
    source.downcast_ref::<Error>().or_else(carried)
}

/// The text of one link of the chain.
fn text_of(error: &(dyn std::error::Error + 'static)) -> String {
    let number = match error.downcast_ref::<io::Error>() {
        Some(error) => error.raw_os_error(),
        None => error.downcast_ref::<nix::errno::Errno>().map(|errno| *errno as i32),
    };
    let Some(number) = number else { return error.to_string() };
    // The C library's words, which are Go's but for the first letter.
    let text = io::Error::from_raw_os_error(number).to_string();
    let text = text.split_once(" (os error").map_or(text.as_str(), |(words, _)| words);
    let mut chars = text.chars();
    match (chars.next(), chars.next()) {
        // "RFS specific error" stays.
        (Some(first), Some(second)) if !second.is_uppercase() => {
            first.to_lowercase().chain(text.chars().skip(1)).collect()
        }
        _ => text.to_owned(),
    }
}

fn kind_of(source: &(dyn std::error::Error + 'static)) -> ErrorKind {
    if let Some(inner) = inner(source) {
        return inner.kind();
    }
    let errno = if let Some(io) = source.downcast_ref::<io::Error>() {
        io.raw_os_error()
    } else {
        source.downcast_ref::<nix::errno::Errno>().map(|e| *e as i32)
    };
    match errno {
        Some(libc::ENOSPC | libc::EDQUOT | libc::EROFS) => ErrorKind::Storage,
        Some(libc::EPERM | libc::EACCES) => ErrorKind::PermissionDenied,
        _ => ErrorKind::System,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_reads_from_what_was_attempted_to_why_it_failed() {
        let inner: std::result::Result<(), _> = Err(io::Error::from_raw_os_error(libc::ENOSPC));
        let error = inner
            .context(|| "write pages-1.img")
            .context(|| "export container web")
            .expect_err("an error was given");
        assert_eq!(error.kind(), ErrorKind::Storage);
        assert!(error.is_errno(libc::ENOSPC));
        assert_eq!(error.chain(), "export container web: write pages-1.img: no space left on device");
    }

    #[test]
    fn the_operating_systems_errors_read_as_go_writes_them() {
        for (errno, text) in [
            (libc::ENOENT, "no such file or directory"),
            (libc::EPERM, "operation not permitted"),
            (libc::ENOTDIR, "not a directory"),
            (libc::EACCES, "permission denied"),
            (libc::ERANGE, "numerical result out of range"),
        ] {
            let io = Error::new(ErrorKind::System, "x").with_source(io::Error::from_raw_os_error(errno));
            assert_eq!(io.chain(), format!("x: {text}"));
            let nix = Error::new(ErrorKind::System, "x").with_source(nix::errno::Errno::from_raw(errno));
            assert_eq!(nix.chain(), format!("x: {text}"));
        }
    }

    #[test]
    fn the_nearest_hint_wins() {
        let error = Error::new(ErrorKind::CriuFailed, "dump")
            .with_source(Error::new(ErrorKind::CriuFailed, "inner").with_hint("pass --tcp-established"));
        assert_eq!(error.hint(), Some("pass --tcp-established"));
        assert_eq!(error.with_hint("outer").hint(), Some("outer"));
    }
}
