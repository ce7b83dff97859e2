// SPDX-License-Identifier: Apache-2.0
//! Archives that only some can read, and archives that somebody has signed: who has no key gets nothing, what was changed is
//! not restored, and with the right keys the container goes on.

use std::fs::{self, File};

use age::secrecy::ExposeSecret as _;
use age::x25519::Identity;
use criu_tests::{Host, Need, Stage};

/// The documented exit codes.
const GENERAL: i32 = 1;
const BAD_ARCHIVE: i32 = 3;
const NOT_ALLOWED: i32 = 7;

/// What `minisign -G -W` has made.
const MINISIGN_SECRET: &str = "untrusted comment: minisign encrypted secret key
RWQAAEIyAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAjOd0PXXxcjsjiyBDX0AeovDMoyPFRHZMdqjWrzUT/pIDK5aqzKmgsxKFRR7ZOSKc5E7Y8BW9MWf5Mj208mozvYiOkS5HUSQqAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=
";
const MINISIGN_PUBLIC: &str = "untrusted comment: minisign public key 3B72F1753D74E78C
RWSM53Q9dfFyOxKFRR7ZOSKc5E7Y8BW9MWf5Mj208mozvYiOkS5HUSQq
";

/// A new secret key in a file, and its public key.
fn key(stage: &Stage, name: &str) -> (String, String) {
    let secret = Identity::generate();
    let path = stage.path(name);
    fs::write(&path, format!("# a key\n{}\n", secret.to_string().expose_secret())).expect("write a key");
    (path, secret.to_public().to_string())
}

/// A new OpenSSH key pair; the path of the private one.
fn ssh_key(stage: &Stage, host: &Host, name: &str) -> String {
    let path = stage.path(name);
    host.command(&["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", &path]).run().succeeded();
    path
}

fn with_a_bit_changed(from: &str, to: &str) {
    let mut bytes = fs::read(from).expect("read the archive");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(to, bytes).expect("write a changed archive");
}

#[test]
fn an_encrypted_archive_opens_for_its_recipients() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let ((secret, public), (other, _)) = (key(&stage, "key"), key(&stage, "other"));
    let (_bundle, container) = host.run_small(&stage.id("here"));
    let status = container.reports();
    let (archive, changed, id) = (stage.path("sealed"), stage.path("changed"), stage.id("there"));
    host.migrate(&["checkpoint", "--export", &archive, "--encrypt-to", "age1none", container.id()])
        .failed(GENERAL, &["age1none"]);
    container.goes_on(&status);
    let status = container.reports();
    // Both kinds of recipients at once.
    let ssh = ssh_key(&stage, &host, "ssh");
    let of_ssh = fs::read_to_string(format!("{ssh}.pub")).expect("read the public key");
    container.checkpoint(&["--export", &archive, "--encrypt-to", &public, "--encrypt-to", of_ssh.trim()]);
    let head = fs::read(&archive).expect("read the archive");
    assert!(head.starts_with(b"age-encryption.org/v1\n"));

    let restore = |file: &str, flags: &[&str]| {
        host.migrate(&[&["restore", "-d", "--import", file], flags, &[&id]].concat())
    };
    restore(&archive, &[]).failed(NOT_ALLOWED, &[&archive, "encrypted"]);
    restore(&archive, &["--identity", &other]).failed(NOT_ALLOWED, &[&archive, "no identity opens it"]);
    restore(&archive, &["--identity", &archive]).failed(GENERAL, &[&archive]);
    with_a_bit_changed(&archive, &changed);
    restore(&changed, &["--identity", &secret]).failed(BAD_ARCHIVE, &[&changed, "damaged"]);
    fs::write(&changed, &head[..head.len() - 70_000]).expect("write a part");
    restore(&changed, &["--identity", &secret]).failed(BAD_ARCHIVE, &[&changed]);
    host.assert_no_trace();
    let flags = ["restore", "-d", "--import", "-", "--identity", &other, "--identity", &ssh, &id];
    let stream = File::open(&archive).expect("open the archive");
    assert_eq!(host.migrate_command(&flags).without_stdio().stdin(stream).run().code, 0);
    let restored = host.imported(&id);
    restored.goes_on(&status);
    restored.end();
    host.assert_no_trace();
}

#[test]
fn a_signed_archive_is_restored_as_it_was_signed() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let (ours, others) = (ssh_key(&stage, &host, "ours"), ssh_key(&stage, &host, "others"));
    let (signers, strangers) = (format!("{ours}.pub"), format!("{others}.pub"));
    let (_bundle, container) = host.run_small(&stage.id("here"));
    let status = container.reports();
    let (archive, id) = (stage.path("signed"), stage.id("there"));
    host.migrate(&["checkpoint", "--export", &archive, "--sign", &signers, container.id()])
        .failed(GENERAL, &[&signers]);
    container.goes_on(&status);
    let status = container.reports();
    container.checkpoint(&["--export", &archive, "--sign", &ours]);
    let signature = format!("{archive}.sig");

    let restore = |file: &str, flags: &[&str]| {
        host.migrate(&[&["restore", "-d", "--import", file], flags, &[&id]].concat())
    };
    restore(&archive, &["--verify", &strangers]).failed(NOT_ALLOWED, &[&signature, "not among"]);
    for command in ["verify", "inspect"] {
        let look = |signers: &str| host.migrate(&[command, "--verify", signers, &archive]);
        look(&strangers).failed(NOT_ALLOWED, &[&signature, "not among"]);
        look(&signers).succeeded();
    }
    let text = host.migrate(&["verify", "--verify", &signers, &archive]).succeeded();
    assert!(text.contains("signed by SHA256:"), "{text}");
    let (changed, missing) = (stage.path("changed"), format!("{archive}.no"));
    restore(&archive, &["--verify", &signers, "--signature", &missing]).failed(NOT_ALLOWED, &["not signed"]);
    // Its end is the same: what is good by its own index is not what was signed.
    let bytes = fs::read(&archive).expect("read the archive");
    host.command(&["sh", "-c", &format!("zstd -q -d -c {archive} | zstd -q -c >{changed}")])
        .run()
        .succeeded();
    let flags = ["--verify", &signers, "--signature", &signature];
    restore(&changed, &flags).failed(NOT_ALLOWED, &[&changed, "is not what was signed"]);
    let from_pipe = |bytes: &str| {
        let words = [&["restore", "-d", "--import", "-"], &flags[..], &[&id]].concat();
        host.migrate_command(&words).without_stdio().stdin(File::open(bytes).expect("open")).run().code
    };
    assert_eq!(from_pipe(&changed), NOT_ALLOWED);
    assert_eq!(bytes, fs::read(&archive).expect("read the archive"));
    host.assert_no_trace();

    // With a key of minisign's.
    let (secret, public) = (stage.path("minisign.key"), stage.path("minisign.pub"));
    fs::write(&secret, MINISIGN_SECRET).expect("write a key");
    fs::write(&public, MINISIGN_PUBLIC).expect("write a key");
    host.migrate(&["sign", &archive, "--key", &secret]).succeeded();
    let minisig = format!("{archive}.minisig");
    let verify = |signature: &str, file: &str| {
        host.migrate(&["verify", "--verify", &public, "--signature", signature, file])
    };
    let text = verify(&minisig, &archive).succeeded();
    assert!(text.contains("signed by minisign key 3B72F1753D74E78C"), "{text}");
    verify(&minisig, &changed).failed(NOT_ALLOWED, &["is not what was signed"]);
    verify(&signature, &archive).failed(NOT_ALLOWED, &["not among"]);

    // Signed by another program, of which we know no more.
    let sign = ["ssh-keygen", "-Y", "sign", "-q", "-n", "migrate-archive", "-f", &others, &changed];
    host.command(&sign).run().succeeded();
    restore(&changed, &["--verify", &signers]).failed(NOT_ALLOWED, &["not among"]);
    host.migrate(&["sign", &changed, "--key", &ours]).succeeded();
    host.migrate_detached(&["restore", "-d", "--import", &changed, "--verify", &signers, &id]);
    let restored = host.imported(&id);
    restored.goes_on(&status);
    restored.end();
    assert_eq!(from_pipe(&archive), 0, "the first one is as good");
    host.imported(&id).end();
    host.assert_no_trace();
}
