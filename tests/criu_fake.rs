// SPDX-License-Identifier: Apache-2.0
//! The CRIU client against programs that are not CRIU, or a CRIU that misbehaves: shell scripts that speak the
//! protocol's bytes on descriptor 3. They need neither root nor CRIU.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use migrate::criu::{Criu, CriuClient, DumpRequest, Silent, SpawnOptions};
use migrate::{Error, ErrorKind, Result};

/// Takes one packet from the client.
const RECEIVE: &str = "dd bs=65536 count=1 <&3 >/dev/null 2>&1";

/// `criu_resp{type: VERSION, success: true, version{major, minor}}`
fn answer_version(major: u32, minor: u32) -> String {
    format!(r"printf '\010\012\020\001\122\004\010\{major:03o}\020\{minor:03o}' >&3")
}

/// `criu_resp{type: DUMP, success: false, cr_errno, cr_errmsg}`
fn answer_failure(errno: u32, message: &str) -> String {
    let text: String = message.bytes().map(|b| format!(r"\{b:03o}")).collect();
    format!(r"printf '\010\001\020\000\070\{errno:03o}\112\{:03o}{text}' >&3", message.len())
}

fn fake(dir: &Path, lines: &[&str]) -> Criu {
    let path = dir.join("criu");
    std::fs::write(&path, format!("#!/bin/sh\n{}\n", lines.join("\n"))).expect("write the script");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("make it executable");
    Criu::find(Some(&path)).expect("it is executable")
}

fn spawn(lines: &[&str]) -> Result<CriuClient> {
    let dir = tempfile::tempdir().expect("temporary directory");
    CriuClient::spawn(&fake(dir.path(), lines), SpawnOptions::default())
}

/// The error of a dump of process 7 by a CRIU that does this after its version.
fn dump_failure(lines: &[&str]) -> Error {
    let images = tempfile::tempdir().expect("temporary directory");
    let dir = File::open(images.path()).expect("open it");
    let version = answer_version(99, 0);
    let lines: Vec<&str> = [RECEIVE, &version, RECEIVE].into_iter().chain(lines.iter().copied()).collect();
    let client = spawn(&lines).expect("a version that is new enough");
    client.dump(&DumpRequest::new(7, dir.as_fd()), &mut Silent).expect_err("the script fails")
}

#[test]
fn a_program_that_is_not_criu_is_unusable() {
    let table: &[(&[&str], &str)] = &[
        (&["echo 'error while loading shared libraries: libnet.so.1' >&2", "exit 127"], "libnet.so.1"),
        (&["exit 3"], "exit status 3"),
        (&["kill -9 $$"], "SIGKILL"),
        (&[RECEIVE, "echo garbage >&3"], "decode a message"),
    ];
    for (script, reason) in table {
        let error = spawn(script).expect_err("not a criu");
        assert_eq!(error.kind(), ErrorKind::CriuUnusable);
        assert!(error.chain().contains("is not a criu that migrate can use"), "{}", error.chain());
        assert!(error.chain().contains(reason), "{}", error.chain());
        assert!(error.hint().is_some());
    }
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = fake(dir.path(), &[]);
    std::fs::write(path.path(), "not a program").expect("write");
    let error = CriuClient::spawn(&path, SpawnOptions::default()).expect_err("not a program");
    assert_eq!(error.kind(), ErrorKind::CriuUnusable);
    assert!(error.is_errno(nix::errno::Errno::ENOEXEC as i32), "{}", error.chain());
}

#[test]
fn a_criu_that_is_too_old_is_unusable() {
    let error = spawn(&[RECEIVE, &answer_version(3, 15), RECEIVE]).expect_err("too old");
    assert_eq!(error.kind(), ErrorKind::CriuUnusable);
    assert_eq!(error.chain(), "criu 3.15 is too old: migrate needs 3.16 or newer");
    assert!(error.hint().expect("a remedy").contains("scripts/setup"));
}

#[test]
fn a_criu_that_dies_is_named_with_its_end() {
    let table = [
        ("kill -9 $$", "criu could not dump process 7: criu was killed by SIGKILL"),
        ("exit 5", "criu could not dump process 7: criu ended without an answer (exit status 5)"),
        (
            "echo 'BUG at x.c' >&2; exit 1",
            "criu could not dump process 7: criu ended without an answer (exit status 1): BUG at x.c",
        ),
    ];
    for (script, expected) in table {
        let error = dump_failure(&[script]);
        assert_eq!(error.kind(), ErrorKind::CriuFailed);
        assert_eq!(error.chain(), expected);
    }
}

#[test]
fn an_answer_without_a_log_is_quoted_unless_it_is_noise() {
    let message = "Error (criu/x.c:1): unix: External socket is used. Consider using --ext-unix-sk option.";
    let error = dump_failure(&[&answer_failure(0, message)]);
    assert_eq!(
        error.chain(),
        "criu could not dump process 7: unix: External socket is used. Consider using --ext-unix-sk option."
    );
    let explained = migrate::diagnose::explained(error, migrate::diagnose::Context::default);
    assert!(explained.hint().expect("a remedy").starts_with("pass --ext-unix-sk"));

    let noise = "rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted";
    let error = dump_failure(&[&answer_failure(3, noise)]);
    assert_eq!(error.chain(), "criu could not dump process 7: no such process");
    let error = dump_failure(&[&answer_failure(0, noise)]);
    assert_eq!(error.chain(), "criu could not dump process 7: criu gave no reason");
}

#[test]
fn a_client_that_is_dropped_ends_and_reaps_its_criu() {
    let client = spawn(&[RECEIVE, &answer_version(99, 0), "cat <&3 >/dev/null"]).expect("a version");
    let pid = nix::unistd::Pid::from_raw(client.pid());
    drop(client);
    let gone = nix::sys::wait::waitpid(pid, Some(nix::sys::wait::WaitPidFlag::WNOHANG));
    assert_eq!(gone, Err(nix::errno::Errno::ECHILD));
}
