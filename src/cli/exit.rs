// SPDX-License-Identifier: Apache-2.0
//! Exit codes: one table, printed by `--help` and in README.

use super::commands::Command;
use crate::{Error, ErrorKind};

/// It worked.
pub(super) const SUCCESS: u8 = 0;
/// It did not; also bad flags, unknown containers, wrong states, invalid configurations (runc's one code).
pub(super) const FAILURE: u8 = 1;
/// The archive is empty, truncated, damaged, foreign, or of another version.
pub(super) const ARCHIVE: u8 = 3;
/// The archive wants of the host what was not allowed, or is not signed as was demanded.
pub(super) const NOT_ALLOWED: u8 = 7;
/// There is no CRIU, or it is too old for the kernel or the request.
pub(super) const CRIU_UNUSABLE: u8 = 4;
/// CRIU ran and could not dump or restore, or it is known beforehand that it could not dump.
pub(super) const CRIU_FAILED: u8 = 5;
/// The disk is full or read-only.
pub(super) const STORAGE: u8 = 6;
/// A registry could not be reached, or refused.
pub(super) const REGISTRY: u8 = 8;
/// `check`: a checkpoint needs the flags that it names.
pub(super) const READY_WITH_FLAGS: u8 = 10;
/// `check`: a checkpoint is not possible.
pub(super) const NOT_POSSIBLE: u8 = 11;
/// `exec` itself failed, not the program that it was to run (runc's).
pub(super) const EXEC: u8 = 255;

pub(super) fn code_of(error: &Error, command: &Command) -> u8 {
    if matches!(command, Command::Exec(_)) {
        return EXEC;
    }
    match error.kind() {
        ErrorKind::InvalidArchive => ARCHIVE,
        ErrorKind::NotAllowed => NOT_ALLOWED,
        ErrorKind::CriuUnusable => CRIU_UNUSABLE,
        ErrorKind::CriuFailed | ErrorKind::Undumpable => CRIU_FAILED,
        ErrorKind::Storage => STORAGE,
        ErrorKind::Registry => REGISTRY,
        _ => FAILURE,
    }
}
