// SPDX-License-Identifier: Apache-2.0
//! Checkpoints in registries and layouts of the OCI, beside the programs that others have for them: Debian's registry, skopeo and
//! Podman.

use std::fs;

use criu_tests::{Container, DockerRegistry, Host, Need, PATIENCE, Podman, Stage, wait_until};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::Signal;
use serde_json::Value;

const NAME: &str = DockerRegistry::NAME;
const INSECURE: &str = "--tls-verify=false";

fn image(name: &str) -> String {
    format!("{NAME}/{name}")
}

/// Exports a container that runs on.
fn exported(host: &Host, container: &Container<'_>) -> String {
    let archive = host.path("web.tar.zst");
    container.checkpoint(&["--leave-running", "--export", &archive]);
    archive
}

fn skopeo(host: &Host, args: &[&str]) -> String {
    host.command(&[&["skopeo", "--insecure-policy"], args].concat()).run().succeeded()
}

#[test]
fn a_checkpoint_travels_through_a_registry_that_wants_to_know_who_it_is() {
    let Some(stage) = Stage::set(&[Need::Criu, Need::Registry]) else { return };
    let host = stage.host("a");
    let registry = DockerRegistry::closed(&host);
    let (bundle, container) = host.run_small(&stage.id("here"));
    let before = container.reports();
    let archive = exported(&host, &container);

    let target = image("team/web:1");
    let authority = ["--cert-dir", &host.path("authority")];
    let credentials = ["--creds-file", &host.path("credentials")];
    let push = |flags: &[&str]| host.migrate(&[&["push"], flags, &[&archive, &target]].concat());
    fs::write(host.path("auth.json"), "{}").expect("write");
    let said = push(&["--authfile", &host.path("auth.json")]).failed(8, &["127.0.0.1:5000", "ertificate"]);
    assert!(said.contains("--ca-file"), "{said}");
    let said = push(&["--authfile", &host.path("auth.json"), "--ca-file", &host.path("ca.crt")])
        .failed(8, &["auth.json has none for it", "it wants a user and a password"]);
    assert!(said.contains("podman login 127.0.0.1:5000"), "{said}");
    fs::write(host.path("credentials"), "user:wrong\n").expect("write");
    let said = push(&[&authority[..], &credentials].concat()).failed(8, &["does not accept that"]);
    assert!(!said.contains("wrong"), "{said}");
    fs::write(host.path("credentials"), "user:secret\n").expect("write");
    let digest = push(&[&authority[..], &credentials].concat()).succeeded();
    // What is there already is not sent again; in parts it is the same.
    assert_eq!(push(&[&authority[..], &credentials, &["--chunk-size", "100K"]].concat()).succeeded(), digest);

    let pulled = host.path("pulled");
    let pull = [&["pull", "-o", &pulled], &authority[..], &credentials, &[&target]].concat();
    host.migrate(&pull).succeeded();
    assert!(fs::read(&pulled).expect("read") == fs::read(&archive).expect("read"), "it is not the same file");

    container.end();
    let there = stage.id("there");
    let from = format!("docker://{target}");
    host.migrate_detached(
        &[&["restore", "-d", "-i", &from], &authority[..], &credentials, &[&there]].concat(),
    );
    let moved = host.imported(&there);
    moved.goes_on(&before);
    moved.end();
    bundle.remove();
    registry.end();
    host.assert_no_trace();
}

#[test]
fn skopeo_reads_what_was_pushed_and_its_layouts_restore() {
    let Some(stage) = Stage::set(&[Need::Criu, Need::Registry]) else { return };
    let host = stage.host("a");
    let registry = DockerRegistry::open(&host);
    let (bundle, container) = host.run_small(&stage.id("here"));
    let before = container.reports();
    let archive = exported(&host, &container);
    host.migrate(&["push", INSECURE, "--chunk-size", "100K", &archive, &image("web:1")]).succeeded();
    // A registry without encryption is not spoken to unless that was said.
    let said = host.migrate(&["pull", &image("web:1")]).failed(8, &["127.0.0.1:5000"]);
    assert!(said.contains("--tls-verify=false"), "{said}");

    let source = format!("docker://{}", image("web:1"));
    let raw: Value =
        serde_json::from_str(&skopeo(&host, &["inspect", "--raw", INSECURE, &source])).expect("a manifest");
    assert_eq!(raw["layers"].as_array().map(Vec::len), Some(1));
    assert_eq!(raw["layers"][0]["mediaType"], "application/vnd.oci.image.layer.v1.tar+zstd");
    assert_eq!(raw["layers"][0]["size"], fs::metadata(&archive).expect("stat").len());
    for annotation in [
        "io.podman.annotations.checkpoint.name",
        "io.kubernetes.cri-o.annotations.checkpoint.name",
        "org.criu.checkpoint.container.name",
    ] {
        assert_eq!(raw["annotations"][annotation], container.id(), "{annotation}");
    }
    let config: Value = serde_json::from_str(&skopeo(&host, &["inspect", "--config", INSECURE, &source]))
        .expect("a configuration");
    assert_eq!(config["os"], "linux");
    let tar = host.command(&["sh", "-c", "zstd -dcq web.tar.zst | sha256sum"]).run().succeeded();
    assert_eq!(
        config["rootfs"]["diff_ids"][0],
        format!("sha256:{}", tar.split(' ').next().unwrap_or_default())
    );

    // Into a layout beside an image of ours, and back.
    let ours = format!("oci:{}:ours", host.path("layout"));
    let theirs = format!("oci:{}:theirs", host.path("layout"));
    host.migrate(&["push", &archive, &ours]).succeeded();
    skopeo(&host, &["copy", "--src-tls-verify=false", &source, &theirs]);
    skopeo(&host, &["inspect", &ours]);
    host.migrate(&["push", &archive, &format!("oci:{}:third", host.path("layout"))]).succeeded();
    skopeo(&host, &["copy", "--dest-tls-verify=false", &ours, &format!("docker://{}", image("web:2"))]);
    host.migrate(&["pull", INSECURE, "-o", &host.path("second"), &image("web:2")]).succeeded();
    assert!(fs::read(host.path("second")).expect("read") == fs::read(&archive).expect("read"));

    container.end();
    for reference in [&ours, &theirs] {
        let there = stage.id("there");
        host.migrate_detached(&["restore", "-d", "-i", reference, &there]);
        let moved = host.imported(&there);
        moved.goes_on(&before);
        moved.end();
    }
    bundle.remove();
    registry.end();
    host.assert_no_trace();
}

#[test]
fn a_container_becomes_an_image_at_once() {
    let Some(stage) = Stage::set(&[Need::Criu, Need::Registry]) else { return };
    let host = stage.host("a");
    let (bundle, container) = host.run_small(&stage.id("here"));
    let before = container.reports();
    let temporary = host.path("tmp");
    fs::create_dir(&temporary).expect("mkdir");
    let files = || fs::read_dir(&temporary).expect("list").count();
    let checkpoint = |flags: &[&str]| {
        let criu = criu_tests::criu();
        let environment =
            [("TMPDIR", temporary.as_str()), ("PATH", "/usr/sbin:/usr/bin"), ("MIGRATE_CRIU", criu)];
        let args = [&["checkpoint"], flags, &[container.id()]].concat();
        host.migrate_command(&args).environment(&environment).run()
    };
    // Nobody is there: nothing is stopped.
    let target = image("web:1");
    let said = checkpoint(&["--create-image", &target]).failed(8, &["127.0.0.1"]);
    assert!(said.contains("nothing listens on port 5000"), "{said}");
    checkpoint(&["--create-image", "oci:/proc/nowhere:1"]).failed(1, &["/proc/nowhere"]);
    host.migrate(&["push", container.id(), &target]).failed(8, &["127.0.0.1"]);
    container.goes_on(&before);
    assert_eq!(files(), 0);

    let registry = DockerRegistry::open(&host);
    let layout = format!("oci:{}:1", host.path("layout"));
    checkpoint(&["--create-image", &layout, "--leave-running"]).succeeded();
    checkpoint(&["--create-image", &target, INSECURE]).succeeded();
    assert_eq!(files(), 0, "the file is not needed any more");
    assert!(host.container_ids().is_empty());
    for reference in [&layout, &format!("docker://{target}")] {
        let there = stage.id("there");
        host.migrate_detached(&["restore", "-d", INSECURE, "-i", reference, &there]);
        let moved = host.imported(&there);
        moved.goes_on(&before);
        moved.end();
    }
    bundle.remove();
    registry.end();
    host.assert_no_trace();
}

#[test]
fn a_container_that_is_pushed_stands_still_until_its_image_is_there() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let (bundle, container) = host.run_small(&stage.id("here"));
    let (temporary, layout) = (host.path("tmp"), host.path("layout"));
    fs::create_dir(&temporary).expect("mkdir");
    let files = || fs::read_dir(&temporary).expect("list").count();
    let push = |flags: &[&str], tag: &str| {
        let criu = criu_tests::criu();
        let environment =
            [("TMPDIR", temporary.as_str()), ("PATH", "/usr/sbin:/usr/bin"), ("MIGRATE_CRIU", criu)];
        let image = format!("oci:{layout}:{tag}");
        let args = [&["push"], flags, &[container.id(), &image]].concat();
        host.migrate_command(&args).environment(&environment)
    };
    let before = container.reports();
    let digest = push(&["--leave-running"], "runs-on").run().succeeded();
    assert!(digest.starts_with("sha256:"), "{digest}");
    assert_eq!(files(), 0, "the file is not needed any more");
    let before = container.goes_on(&before);

    // Nobody adds an image to a layout that somebody else adds one to.
    let busy = || Flock::lock(fs::File::open(&layout).expect("open"), FlockArg::LockExclusive).expect("lock");
    let on_its_way = |lock: &Flock<fs::File>| {
        let _ = lock;
        let running = push(&[], "ends").start();
        wait_until(PATIENCE, "the file is complete and the container stands still", || {
            let is_whole = fs::read_dir(&temporary).expect("list").any(|directory| {
                let file = directory.expect("list").path().join(format!("{}.tar.zst", container.id()));
                file.exists()
            });
            if is_whole && container.state_status() == "paused" { Ok(()) } else { Err(is_whole) }
        });
        running
    };
    let lock = busy();
    let running = on_its_way(&lock);
    running.signal(Signal::SIGINT);
    running.wait().failed(1, &["the checkpoint was given up on its way: the container runs on"]);
    assert_eq!(files(), 0);
    let before = container.goes_on(&before);
    let running = on_its_way(&lock);
    running.signal(Signal::SIGKILL);
    running.wait();
    wait_until(PATIENCE, "CRIU ends by itself", || {
        if host.criu_runs() { Err(host.processes()) } else { Ok(()) }
    });
    assert_eq!(container.state_status(), "paused");
    drop(lock);
    fs::remove_dir_all(&temporary).and_then(|()| fs::create_dir(&temporary)).expect("remove the leftovers");

    // What was killed is cleared up by the next one.
    push(&[], "ends").run().succeeded();
    assert_eq!(files(), 0);
    assert!(host.container_ids().is_empty());
    for tag in ["runs-on", "ends"] {
        let there = stage.id("there");
        host.migrate_detached(&["restore", "-d", "-i", &format!("oci:{layout}:{tag}"), &there]);
        let moved = host.imported(&there);
        moved.goes_on(&before);
        moved.end();
    }
    bundle.remove();
    host.assert_no_trace();
}

#[test]
fn flags_for_a_checkpoint_are_none_for_a_file() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    fs::write(host.path("file"), "bytes").expect("write");
    let to = format!("oci:{}:1", host.path("layout"));
    let said =
        host.migrate(&["push", "--leave-running", &host.path("file"), &to]).failed(1, &["is no container"]);
    assert!(said.contains("id of a container"), "{said}");
    host.assert_no_trace();
}

#[test]
fn an_image_of_podmans_becomes_a_file() {
    let Some(stage) = Stage::set(&[Need::Criu, Need::Podman, Need::Registry]) else { return };
    let host = stage.host("a");
    let podman = Podman::on(&host);
    let registry = DockerRegistry::open(&host);
    podman.background("c", &[], "while :; do sleep 1; done");
    podman.podman(&["container", "checkpoint", "--create-image", "localhost/saved", "c"]).succeeded();
    podman.podman(&["push", "-q", INSECURE, "localhost/saved", &image("saved:1")]).succeeded();
    let pulled =
        host.command(&[&criu_tests::migrate(), "pull", INSECURE, &image("saved:1")]).run().succeeded();
    assert_eq!(pulled.trim_end(), "saved-1.tar.gz");
    let members = host.command(&["tar", "-tzf", "saved-1.tar.gz"]).run().succeeded();
    for member in ["config.dump", "spec.dump", "checkpoint/inventory.img"] {
        assert!(members.lines().any(|line| line.trim_start_matches("./") == member), "{member}: {members}");
    }
    // The default name is taken now.
    host.command(&[&criu_tests::migrate(), "pull", INSECURE, &image("saved:1")])
        .run()
        .failed(1, &["saved-1.tar.gz is there already"]);
    registry.end();
    podman.end();
}
