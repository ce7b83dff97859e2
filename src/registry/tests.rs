// SPDX-License-Identifier: Apache-2.0
//! Push and pull against a registry in this process that does what it is told to, wrong things among them.

mod hostile;
mod layouts;
mod proxies;
mod server;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::*;
use server::{Faults, Server};

/// A file that is no tar, of a size that needs several reads.
fn checkpoint(directory: &Path) -> (PathBuf, Vec<u8>) {
    let path = directory.join("web.checkpoint");
    let bytes: Vec<u8> = (0..300_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    fs::write(&path, &bytes).expect("write");
    (path, bytes)
}

fn options(directory: &Path) -> RegistryOptions {
    let auth_file = directory.join("auth.json");
    if !auth_file.exists() {
        fs::write(&auth_file, "{}").expect("write");
    }
    RegistryOptions {
        tls_verify: false,
        auth_file: Some(auth_file),
        timeout: Duration::from_secs(20),
        ..RegistryOptions::default()
    }
}

fn with_password(directory: &Path) -> RegistryOptions {
    let credentials = Credentials::parse("user:secret").expect("credentials");
    RegistryOptions { credentials: Some(credentials), ..options(directory) }
}

/// Counts what is told.
#[derive(Default)]
struct Counted(u64, u64);

impl Progress for Counted {
    fn total(&mut self, bytes: u64) {
        self.0 = bytes;
    }
    fn advance(&mut self, bytes: u64) {
        self.1 += bytes;
    }
}

#[test]
fn what_was_pushed_is_pulled() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (path, bytes) = checkpoint(directory.path());
    let server = Server::start(Faults::default());
    let reference = server.reference("team/web:1");
    let mut counted = Counted::default();
    let pushed = push(&path, &reference, &options(directory.path()), &mut counted).expect("pushed");
    assert_eq!((pushed.bytes, counted.0, counted.1), (1_200_000, 2_400_000, 2_400_000));
    let seen = server.seen();
    assert_eq!(seen.iter().filter(|line| line.starts_with("PATCH")).count(), 2, "{seen:#?}");

    let target = directory.path().join("again");
    let mut counted = Counted::default();
    let pulled = pull(&reference, Some(&target), &options(directory.path()), &mut counted).expect("pulled");
    assert_eq!((pulled.bytes, counted.0, counted.1), (1_200_000, 1_200_000, 1_200_000));
    assert_eq!(fs::read(&target).expect("read"), bytes);
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&fs::metadata(&target).expect("stat")) & 0o777, 0o600);

    let by_digest: Reference = server.reference(&format!("team/web@{}", pushed.digest));
    let mut file = fetch(&by_digest, &options(directory.path()), &mut ()).expect("fetched");
    let mut fetched = Vec::new();
    std::io::Read::read_to_end(&mut file, &mut fetched).expect("read");
    assert_eq!(fetched, bytes);
    assert_eq!(left_over(directory.path()), [""; 0]);
}

#[test]
fn blobs_that_are_there_are_not_sent_again() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (path, _) = checkpoint(directory.path());
    let server = Server::start(Faults::default());
    for tag in ["a", "b"] {
        push(&path, &server.reference(&format!("web:{tag}")), &options(directory.path()), &mut ())
            .expect("pushed");
    }
    assert_eq!(
        server.seen().iter().filter(|line| line.starts_with("POST")).count(),
        2,
        "one each for layer and config"
    );
}

#[test]
fn a_broken_upload_goes_on_where_the_registry_is() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (path, bytes) = checkpoint(directory.path());
    let server = Server::start(Faults { cut_uploads: vec![500_000, 300_000, 0], ..Faults::default() });
    let reference = server.reference("web:1");
    push(&path, &reference, &options(directory.path()), &mut ()).expect("pushed in the end");
    let layer = Digest::of(&bytes).to_string();
    assert_eq!(server.blob(&layer).expect("it is there"), bytes);
    let ranges: Vec<String> = server.seen().into_iter().filter(|line| line.starts_with("PATCH")).collect();
    assert_eq!(
        ranges[..4],
        ["PATCH 0-1199999", "PATCH 500000-1199999", "PATCH 800000-1199999", "PATCH 800000-1199999"]
    );
}

#[test]
fn an_upload_can_be_made_of_small_parts() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (path, bytes) = checkpoint(directory.path());
    let server = Server::start(Faults::default());
    let options = RegistryOptions { chunk: Some(500_000), ..options(directory.path()) };
    push(&path, &server.reference("web:1"), &options, &mut ()).expect("pushed");
    assert_eq!(server.blob(&Digest::of(&bytes).to_string()).expect("it is there"), bytes);
    assert!(server.seen().contains(&"PATCH 1000000-1199999".to_owned()), "{:#?}", server.seen());
}

#[test]
fn a_broken_download_goes_on_where_the_file_is() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (path, bytes) = checkpoint(directory.path());
    let server = Server::start(Faults { cut_downloads: vec![400_000, 1, 300_000], ..Faults::default() });
    let reference = server.reference("web:1");
    push(&path, &reference, &options(directory.path()), &mut ()).expect("pushed");
    let target = directory.path().join("again");
    pull(&reference, Some(&target), &options(directory.path()), &mut ()).expect("pulled in the end");
    assert_eq!(fs::read(&target).expect("read"), bytes);
    let ranges: Vec<String> = server.seen().into_iter().filter(|line| line.starts_with("GET blob")).collect();
    assert_eq!(
        ranges,
        ["GET blob", "GET blob bytes=400000-", "GET blob bytes=400001-", "GET blob bytes=700001-"]
    );
}

#[test]
fn a_later_pull_takes_up_what_an_earlier_one_has_left() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (path, bytes) = checkpoint(directory.path());
    // More failures without progress than are put up with.
    let mut cuts = vec![0; 20];
    cuts[0] = 900_000;
    let server = Server::start(Faults { cut_downloads: cuts, ..Faults::default() });
    let reference = server.reference("web:1");
    push(&path, &reference, &options(directory.path()), &mut ()).expect("pushed");
    let target = directory.path().join("again");
    let error = pull(&reference, Some(&target), &options(directory.path()), &mut ()).expect_err("it breaks");
    assert!(error.chain().contains("900000 of 1200000 bytes are here"), "{}", error.chain());
    assert!(!target.exists());
    assert_eq!(left_over(directory.path()).len(), 1);
    server.behave();
    pull(&reference, Some(&target), &options(directory.path()), &mut ()).expect("pulled");
    assert_eq!(fs::read(&target).expect("read"), bytes);
    assert_eq!(server.seen().last().expect("requests"), "GET blob bytes=900000-");
    assert_eq!(left_over(directory.path()), [""; 0]);
}

#[test]
fn tokens_and_passwords_are_given_to_the_registry_only() {
    for (wants, given) in [
        (server::Wants::Basic, "Basic dXNlcjpzZWNyZXQ="),
        (server::Wants::Bearer, "Bearer token-for-repository:web:pull,push"),
    ] {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (path, bytes) = checkpoint(directory.path());
        let elsewhere = Server::start(Faults::default());
        let server =
            Server::start(Faults { wants, blobs_at: Some(elsewhere.address()), ..Faults::default() });
        let reference = server.reference("web:1");
        push(&path, &reference, &with_password(directory.path()), &mut ()).expect("pushed");
        elsewhere.store(&bytes);
        assert!(server.authorizations().iter().any(|value| value == given), "{:?}", server.authorizations());
        let target = directory.path().join("again");
        pull(&reference, Some(&target), &with_password(directory.path()), &mut ()).expect("pulled");
        assert_eq!(fs::read(&target).expect("read"), bytes);
        assert!(elsewhere.seen().contains(&"GET blob".to_owned()), "{:?}", elsewhere.seen());
        assert_eq!(elsewhere.authorizations(), [""; 0]);

        if wants == server::Wants::Basic {
            let error =
                push(&path, &reference, &options(directory.path()), &mut ()).expect_err("no credentials");
            assert!(error.chain().contains("auth.json has none for it"), "{}", error.chain());
            assert!(error.hint().is_some_and(|hint| hint.contains("podman login 127.0.0.1:")));
        }
    }
}

/// What is left of downloads.
fn left_over(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("list");
    let names = entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
    names.filter(|name| name.ends_with(".partial")).collect()
}
