// SPDX-License-Identifier: Apache-2.0
//! What stops a restore.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;

use criu_tests::{Need, Stage};
use serde_json::json;

use super::{CRIU_FAILED, Obstacle, Place, assert_told, without_namespace};

const SAME_FILES: &str = "restore with the same files (`--export` takes the root file system along)";

/// An image that only CRIU looks at, not we before it.
const HOST_NAME: &str = "utsns-12.img";

fn a_file() -> Obstacle {
    Obstacle::of("file").at("/state/file")
}

fn anything() -> Obstacle {
    Obstacle::of("none")
}

#[test]
fn file_size() {
    let grow = |place: &Place<'_>| {
        let mut file = fs::File::options().append(true).open(place.in_rootfs("/state/file")).expect("open");
        file.write_all(b"more").expect("write");
    };
    let remedy = format!(
        "{SAME_FILES}; a log on stdout or stderr that is opened for appending (>>) may be another one"
    );
    let cause = "the file /state/file of process 1 (workload) has 13 bytes, at the checkpoint it had 9";
    a_file().stops_the_restore(grow, cause, &remedy);
}

#[test]
fn file_mode() {
    let change = |place: &Place<'_>| {
        fs::set_permissions(place.in_rootfs("/state/file"), fs::Permissions::from_mode(0o600))
            .expect("chmod");
    };
    let cause = "the file /state/file of process 1 (workload) has the type and mode 100600, at the checkpoint it had 100644";
    a_file().stops_the_restore(change, cause, "change it back: the last four digits are what chmod takes");
}

#[test]
fn file_missing() {
    let remove = |place: &Place<'_>| fs::remove_file(place.in_rootfs("/state/file")).expect("remove");
    let cause = "the file /state/file is missing, which process 1 (workload) had open at the checkpoint";
    a_file().stops_the_restore(remove, cause, SAME_FILES);
}

#[test]
fn tcp_connection_in_images() {
    Obstacle::of("tcp-connection").flags(&["--tcp-established"]).stops_the_restore(
        |_| {},
        "process 1 (workload) had an open TCP connection at the checkpoint",
        "pass --tcp-established to the restore as well; the container needs the addresses that it had",
    );
}

#[test]
fn process_id_in_use() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let bundle = anything().edit(|config| without_namespace(config, "pid")).bundle(&host);
    let container = host.run_detached(&stage.id("x"), &bundle);
    let images = host.path("images");
    container.checkpoint(&["--leave-running", "--image-path", &images]);
    let before = container.reports();
    // The first one still has the id.
    let second = stage.id("y");
    let arguments = ["restore", "-d", "--image-path", &images, "-b", &bundle.path(), &second];
    let said = host.migrate(&arguments).failed(CRIU_FAILED, &[]);
    let told = super::told(&said, &second);
    let pid = host.state(container.id())["pid"].to_string();
    assert_eq!(
        told.cause,
        format!("the process id {pid} is in use: the container has no pid namespace of its own")
    );
    assert_eq!(
        told.remedy,
        "end that process, or give the container a pid namespace in `linux.namespaces` before it is checkpointed"
    );
    container.goes_on(&before);
    container.end();
    host.assert_no_trace();
}

#[test]
fn mount_point_missing() {
    let more = |config: &mut serde_json::Value| {
        let mount = json!({"destination": "/more", "type": "tmpfs", "source": "tmpfs"});
        config["mounts"].as_array_mut().expect("a list").push(mount);
    };
    anything().edit(more).stops_the_restore(
        |place| {
            fs::remove_dir(place.in_rootfs("/more")).expect("remove the mount point");
            // With the mount in it the mount point would be made again.
            place.edit(|config| drop(config["mounts"].as_array_mut().expect("a list").pop()));
        },
        "a mount point, or what is mounted there, is missing: /more",
        "restore with the files and the `mounts` of the checkpoint; create the directory or file in the root file system",
    );
}

#[test]
fn image_missing() {
    anything().stops_the_restore(
        |place| fs::remove_file(place.image(HOST_NAME)).expect("remove an image"),
        "an image is missing",
        "copy IMAGES again, as a whole, from where they were made",
    );
}

/// Images on a read-only file system restore, and the log of a failure is kept where logs are kept.
#[test]
fn images_that_cannot_be_written_to() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let bundle = anything().bundle(&host);
    let container = host.run_detached(&stage.id("x"), &bundle);
    let images = host.path("images");
    container.checkpoint(&["--image-path", &images]);
    host.command(&["mount", "--bind", &images, &images]).run().succeeded();
    host.command(&["mount", "-o", "remount,bind,ro", &images]).run().succeeded();

    let (image, damaged) = (host.path(&format!("images/{HOST_NAME}")), host.path("damaged.img"));
    fs::write(&damaged, "no image").expect("write a file");
    host.command(&["mount", "--bind", &damaged, &image]).run().succeeded();
    let arguments = ["restore", "-d", "--image-path", &images, "-b", &bundle.path(), container.id()];
    let said = host.migrate(&arguments).failed(CRIU_FAILED, &[]);
    let log = format!("/var/log/migrate/{}-restore/restore.log", container.id());
    assert!(said.contains(&format!("(criu's log: {log})")), "{said}");
    assert!(fs::exists(&log).expect("look"), "{log}");
    host.command(&["umount", &image]).run().succeeded();

    host.migrate_detached(&arguments);
    assert!(!fs::exists(&log).expect("look"), "the log of a restore that worked stays");
    container.end();
    host.command(&["umount", &images]).run().succeeded();
    host.assert_no_trace();
}

#[test]
fn image_of_something_else() {
    anything().stops_the_restore(
        |place| place.damage(HOST_NAME, |bytes| bytes[..4].fill(0)),
        "utsns-12.img is no image of criu's, or a damaged one",
        "copy IMAGES again from where they were made",
    );
}

#[test]
fn image_cut_off() {
    anything().stops_the_restore(
        |place| place.damage(HOST_NAME, |bytes| bytes.truncate(14)),
        "the image utsns-12.img is cut off",
        "copy IMAGES again, as a whole, from where they were made",
    );
}

#[test]
fn image_damaged() {
    anything().stops_the_restore(
        |place| place.damage("fs-1.img", |bytes| bytes[12..].fill(0xff)),
        "the image fs-1.img is damaged",
        "copy IMAGES again from where they were made",
    );
}

/// A container in a network namespace by path, in which somebody else has its port by now, or which lacks its address.
fn in_the_hosts_network(
    listens: &'static str,
    change: impl FnOnce(&criu_tests::Host),
    cause: &str,
    remedy: &str,
) {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    host.command(&["ip", "link", "set", "lo", "up"]).run().succeeded();
    host.command(&["ip", "address", "add", "10.20.30.40/32", "dev", "lo"]).run().succeeded();
    let bundle = Obstacle::of("tcp-listener").at(listens).bundle(&host).edit(|config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().expect("a list");
        let network = namespaces.iter_mut().find(|n| n["type"] == json!("network")).expect("there is one");
        network["path"] = json!("/proc/1/ns/net");
    });
    let container = host.run_detached(&stage.id("x"), &bundle);
    let images = host.path("images");
    container.checkpoint(&["--image-path", &images]);
    change(&host);
    let arguments = ["restore", "-d", "--image-path", &images, "-b", &bundle.path(), container.id()];
    let said = host.migrate(&arguments).failed(CRIU_FAILED, &[]);
    assert_told(&said, container.id(), cause, remedy);
}

#[test]
fn address_in_use() {
    let mut other = None;
    in_the_hosts_network(
        "127.0.0.1:7771",
        |host| {
            let status = host.path("other");
            let workload = criu_tests::workload();
            let command = [
                &workload,
                "obstacle",
                "--status",
                &status,
                "--kind",
                "tcp-listener",
                "--at",
                "127.0.0.1:7771",
            ];
            other = Some(host.command(&command).start());
            criu_tests::wait_until(criu_tests::PATIENCE, "somebody listens", || {
                fs::exists(&status).ok().filter(|there| *there).ok_or(())
            });
        },
        "a port of process 1 (workload) is in use already in the network namespace that the container is restored to",
        "`ss -ltnup` there tells by whom: end that program, or restore with a network namespace of its own",
    );
    other.expect("it was started").signal(nix::sys::signal::Signal::SIGTERM);
}

#[test]
fn address_missing() {
    in_the_hosts_network(
        "10.20.30.40:7772",
        |host| {
            host.command(&["ip", "address", "del", "10.20.30.40/32", "dev", "lo"]).run().succeeded();
        },
        "an address that process 1 (workload) had is not there in the network namespace that the container is restored to",
        "give the namespace the addresses of the checkpoint (`ip addr add`) before the restore",
    );
}
