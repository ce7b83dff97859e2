// SPDX-License-Identifier: Apache-2.0
//! Podman's checkpoints and restores with the binary under test as its runtime, in every variant that Podman has. The
//! containers count, each number once, and end when the memory that they hold is no longer what it was.

use std::fs;

use criu_tests::{Host, Need, PATIENCE, Podman, Stage, wait_until};
use serde_json::Value;

const COUNTS: &str = "m=$(head -c 65536 /dev/zero | tr '\\0' x); i=0; while [ ${#m} = 65536 ]; do i=$((i+1)); echo $i; sleep 0.1; done";

/// A stage, a host and Podman, unless something is missing.
macro_rules! podman {
    ($stage:ident, $host:ident, $podman:ident) => {
        let Some($stage) = Stage::set(&[Need::Podman, Need::Criu]) else { return };
        let $host = $stage.host("a");
        let $podman = Podman::on(&$host);
    };
}

/// Asserts that a log holds the numbers from one on, each once, also those from after a restore. Gives the last.
#[track_caller]
fn without_a_gap(log: &str) -> usize {
    let numbers: Vec<usize> = log.lines().map(|line| line.trim_end().parse().expect("a number")).collect();
    assert!(numbers.iter().enumerate().all(|(i, n)| i + 1 == *n), "{numbers:?}");
    numbers.len()
}

/// Waits until it has counted some more, and gives how far.
#[track_caller]
fn counts_on(podman: &Podman<'_>, name: &str) -> usize {
    let before = podman.podman(&["logs", name]).succeeded().lines().count();
    without_a_gap(&podman.logs(name, &format!("\n{}", before + 3)))
}

/// As [`counts_on`], of a copy whose original ran on: Podman has kept a log that goes further than the checkpoint.
#[track_caller]
fn copy_counts_on(podman: &Podman<'_>, name: &str) {
    let before = podman.podman(&["logs", name]).succeeded().lines().count();
    wait_until(PATIENCE, "the copy counts on", || {
        let log = podman.podman(&["logs", name]).succeeded();
        let numbers: Vec<usize> = log.lines().map(|line| line.parse().expect("a number")).collect();
        let (last, begun) = (numbers.iter().rev().take(3).collect::<Vec<_>>(), numbers.len() >= before + 3);
        if begun && *last[0] > 10 && *last[0] == last[2] + 2 { Ok(()) } else { Err(log) }
    });
}

/// Checkpoints a container in place and restores it.
#[track_caller]
fn there_and_back(podman: &Podman<'_>, options: &[&str], name: &str) {
    counts_on(podman, name);
    for verb in ["checkpoint", "restore"] {
        podman.podman(&[&["container", verb], options, &[name]].concat()).succeeded();
    }
    counts_on(podman, name);
}

/// Checkpoints a container into an archive, removes it, and restores it from there.
#[track_caller]
fn through_an_archive(podman: &Podman<'_>, options: &[&str], name: &str, archive: &str) {
    counts_on(podman, name);
    podman
        .podman(&[&["container", "checkpoint", "--export", archive], options, &[name]].concat())
        .succeeded();
    podman.podman(&["rm", name]).succeeded();
    podman.podman(&["volume", "prune", "-f"]).succeeded();
    podman.podman(&[&["container", "restore", "--import", archive], options].concat()).succeeded();
    counts_on(podman, name);
}

/// The files of a container that Podman keeps beside its bundle.
fn kept(host: &Host, podman: &Podman<'_>, name: &str, file: &str) -> bool {
    let id = podman.inspect(name, "{{.Id}}");
    let directory = format!("/var/lib/containers/storage/overlay-containers/{id}/userdata");
    fs::metadata(host.outside(&format!("{directory}/{file}"))).is_ok()
}

#[test]
fn in_place_twice_and_left_running() {
    podman!(stage, host, podman);
    podman.background("c", &[], COUNTS);
    counts_on(&podman, "c");
    podman.podman(&["container", "checkpoint", "c"]).succeeded();
    assert_eq!(podman.inspect("c", "{{.State.Status}} {{.State.Checkpointed}}"), "exited true");
    podman.podman(&["container", "restore", "c"]).succeeded();
    counts_on(&podman, "c");
    assert_eq!(podman.executes("c", "echo hi"), "hi");
    there_and_back(&podman, &[], "c");
    podman.podman(&["container", "checkpoint", "--leave-running", "c"]).succeeded();
    assert_eq!(podman.inspect("c", "{{.State.Status}}"), "running");
    counts_on(&podman, "c");
    podman.podman(&["stop", "-t", "0", "c"]).succeeded();
    podman.end();
}

#[test]
fn files_are_kept_and_statistics_printed() {
    podman!(stage, host, podman);
    podman.background("c", &[], COUNTS);
    counts_on(&podman, "c");
    let told = podman.podman(&["container", "checkpoint", "--keep", "--print-stats", "c"]).succeeded();
    let told: Value = serde_json::from_str(&told).expect("JSON");
    let of_criu = &told["container_statistics"][0]["criu_statistics"];
    assert!(
        of_criu["frozen_time"].as_u64() > Some(0) && of_criu["pages_written"].as_u64() > Some(16),
        "{told}"
    );
    assert!(told["container_statistics"][0]["runtime_checkpoint_duration"].as_u64() > Some(0), "{told}");
    for file in ["dump.log", "stats-dump", "checkpoint/inventory.img", "checkpoint/descriptors.json"] {
        assert!(kept(&host, &podman, "c", file), "{file} after the checkpoint");
    }
    let told = podman.podman(&["container", "restore", "--keep", "--print-stats", "c"]).succeeded();
    let told: Value = serde_json::from_str(&told).expect("JSON");
    let of_criu = &told["container_statistics"][0]["criu_statistics"];
    assert!(of_criu["pages_restored"].as_u64() > Some(16), "{told}");
    for file in ["restore.log", "stats-restore", "checkpoint/inventory.img"] {
        assert!(kept(&host, &podman, "c", file), "{file} after the restore");
    }
    counts_on(&podman, "c");
    there_and_back(&podman, &[], "c");
    assert!(!kept(&host, &podman, "c", "checkpoint/inventory.img"), "nobody has asked to keep it");
    podman.end();
}

#[test]
fn the_latest_and_all() {
    podman!(stage, _host, podman);
    for name in ["first", "last"] {
        podman.background(name, &[], COUNTS);
        counts_on(&podman, name);
    }
    let status = |name: &str| podman.inspect(name, "{{.State.Status}}");
    podman.podman(&["container", "checkpoint", "--latest"]).succeeded();
    assert_eq!([status("first"), status("last")], ["running", "exited"]);
    podman.podman(&["container", "restore", "--latest"]).succeeded();
    podman.podman(&["container", "checkpoint", "--all"]).succeeded();
    assert_eq!([status("first"), status("last")], ["exited", "exited"]);
    podman.podman(&["container", "restore", "--all"]).succeeded();
    for name in ["first", "last"] {
        counts_on(&podman, name);
    }
    podman.end();
}

/// Each compression, and as many copies, all of them alive beside the original.
#[test]
fn archives_of_every_compression_and_several_copies() {
    podman!(stage, _host, podman);
    podman.background("c", &[], &format!("echo kept > /mine; rm /etc/group; {COUNTS}"));
    let copies = ["gzip", "zstd", "none"];
    for compression in copies {
        let archive = stage.path(compression);
        counts_on(&podman, "c");
        let checkpoint = ["container", "checkpoint", "--leave-running", "--compress", compression];
        podman.podman(&[&checkpoint[..], &["--export", &archive, "c"]].concat()).succeeded();
        let restore = ["container", "restore", "--import", &archive, "--name", compression];
        podman.podman(&restore).succeeded();
    }
    counts_on(&podman, "c");
    for name in copies {
        copy_counts_on(&podman, name);
        assert_eq!(
            podman.executes(name, "cat /mine; ls /etc/group /etc/passwd 2>/dev/null || true"),
            "kept\n/etc/passwd",
            "{name}"
        );
    }

    // A second copy of the same, whose files are those of the image.
    let archive = stage.path("gzip");
    let restore = ["container", "restore", "--ignore-rootfs", "--import", &archive, "--name", "bare"];
    podman.podman(&restore).succeeded();
    copy_counts_on(&podman, "bare");
    assert_eq!(podman.executes("bare", "ls /mine /etc/group 2>/dev/null || true"), "/etc/group");
    podman.end();
}

#[test]
fn an_archive_goes_to_another_host() {
    let Some(stage) = Stage::set(&[Need::Podman, Need::Criu]) else { return };
    let (a, b) = (stage.host("a"), stage.host("b"));
    let (here, there) = (Podman::on(&a), Podman::on(&b));
    let archive = stage.path("c.tar.zst");
    here.background("c", &["-v", "data:/data"], &format!("echo kept > /data/f; echo mine > /mine; {COUNTS}"));
    counts_on(&here, "c");
    here.podman(&["container", "checkpoint", "--export", &archive, "c"]).succeeded();
    here.podman(&["rm", "c"]).succeeded();

    // Podman finds the image by its id.
    let image = stage.path("image.tar");
    here.podman(&["save", "--quiet", "--output", &image, Podman::IMAGE]).succeeded();
    there.podman(&["load", "--quiet", "--input", &image]).succeeded();
    there.podman(&["container", "restore", "--import", &archive]).succeeded();
    counts_on(&there, "c");
    assert_eq!(there.executes("c", "cat /mine /data/f"), "mine\nkept");
    there.end();
    here.end();
}

#[test]
fn an_image_of_a_checkpoint() {
    podman!(stage, _host, podman);
    podman.background("c", &[], &format!("echo kept > /mine; {COUNTS}"));
    counts_on(&podman, "c");
    let checkpoint = ["container", "checkpoint", "--leave-running", "--create-image", "localhost/saved", "c"];
    podman.podman(&checkpoint).succeeded();
    let annotation = "io.podman.annotations.checkpoint.runtime.name";
    let format = format!("{{{{index .Annotations \"{annotation}\"}}}}");
    let runtime = podman.podman(&["image", "inspect", "-f", &format, "localhost/saved"]).succeeded();
    assert_eq!(runtime.trim_end(), "migrate");
    podman.podman(&["container", "restore", "--name", "copy", "localhost/saved"]).succeeded();
    let pid = |name: &str| podman.inspect(name, "{{.State.Pid}}");
    assert_ne!(pid("c"), pid("copy"));
    // Such an image holds no log.
    let says = podman.logs("copy", "\n");
    let first: usize = says.lines().next().and_then(|l| l.parse().ok()).expect("a number");
    assert!(first > 3, "it begins anew: {says}");
    assert_eq!(podman.executes("copy", "cat /mine"), "kept");
    counts_on(&podman, "c");
    podman.end();
}

/// Without a network there is the loopback interface, up, and what goes over it goes on.
#[test]
fn connections_over_the_loopback_interface() {
    podman!(stage, _host, podman);
    let talks = format!("sleep 1000 | nc -l -p 7000 & sleep 0.5; {{ {COUNTS}; }} | nc 127.0.0.1 7000");
    podman.background("c", &[], &talks);
    counts_on(&podman, "c");
    let refused = podman.podman(&["container", "checkpoint", "c"]);
    assert!(refused.code != 0 && refused.stderr.contains("--tcp-established"), "{refused:?}");
    assert_eq!(podman.inspect("c", "{{.State.Status}}"), "running");
    there_and_back(&podman, &["--tcp-established"], "c");
    through_an_archive(&podman, &["--tcp-established"], "c", &stage.path("c.tar"));
    assert!(podman.executes("c", "ip -o link show lo").contains("LOOPBACK,UP"));
    let ping = "echo ping | nc -l -p 7001 & sleep 0.3; sleep 1 | nc 127.0.0.1 7001";
    assert_eq!(podman.executes("c", ping), "ping");
    podman.end();
}

#[test]
fn locks_of_files() {
    podman!(stage, _host, podman);
    let program = ["-v=/usr/lib:/lib:ro", "-v=/lib64:/lib64:ro", "-v=/usr/bin/flock:/bin/flock:ro"];
    let script = format!("SCRIPT={COUNTS}");
    podman.background("c", &[&program[..], &["-e", &script]].concat(), "flock /lock sh -c \"$SCRIPT\"");
    counts_on(&podman, "c");
    let refused = podman.podman(&["container", "checkpoint", "c"]);
    assert!(refused.code != 0 && refused.stderr.contains("--file-locks"), "{refused:?}");
    there_and_back(&podman, &["--file-locks"], "c");
    through_an_archive(&podman, &["--file-locks"], "c", &stage.path("c.tar"));
    let lock = podman.podman(&["exec", "c", "flock", "-n", "/lock", "true"]);
    assert_eq!(lock.code, 1, "the lock is held: {lock:?}");
    podman.end();
}

/// Its program is bound into the container, and what is bound may be a symbolic link, which CRIU does not follow.
#[test]
fn an_init_of_podmans() {
    podman!(stage, _host, podman);
    podman.background("c", &["--init"], COUNTS);
    there_and_back(&podman, &[], "c");
    through_an_archive(&podman, &[], "c", &stage.path("c.tar"));
    assert!(podman.executes("c", "cat /proc/1/cmdline").contains("init"));
    podman.end();
}

#[test]
fn user_namespaces() {
    podman!(stage, _host, podman);
    podman.background("mapped", &["--uidmap", "0:200000:5000", "--gidmap", "0:200000:5000"], COUNTS);
    podman.background("auto", &["--userns=auto"], COUNTS);
    for name in ["mapped", "auto"] {
        there_and_back(&podman, &[], name);
        assert_eq!(podman.executes(name, "id -u; stat -c %u /bin"), "0\n0");
    }
    through_an_archive(&podman, &[], "mapped", &stage.path("c.tar"));
    let map = podman.executes("mapped", "cat /proc/self/uid_map");
    assert_eq!(map.split_whitespace().collect::<Vec<_>>(), ["0", "200000", "5000"]);
    podman.end();
}

#[test]
fn volumes_and_memory_files() {
    podman!(stage, host, podman);
    let outside = host.path("outside");
    fs::create_dir(&outside).and_then(|()| fs::write(format!("{outside}/f"), "bound")).expect("a directory");
    let below = format!("{outside}:/data/below");
    let options = ["-v", "data:/data", "-v", &below, "--tmpfs", "/scratch", "--device", "/dev/fuse"];
    let writes = "echo named > /data/f; echo shared > /dev/shm/f; echo quick > /scratch/f";
    podman.background("c", &options, &format!("{writes}; {COUNTS}"));
    let sees = |name: &str| {
        let look = "cat /data/f /data/below/f /dev/shm/f /scratch/f; test -c /dev/fuse";
        assert_eq!(podman.executes(name, look), "named\nboundshared\nquick");
    };
    there_and_back(&podman, &[], "c");
    sees("c");
    through_an_archive(&podman, &[], "c", &stage.path("c.tar"));
    sees("c");

    // The volume stays as it is now.
    podman.executes("c", "echo later > /data/f");
    let archive = stage.path("bare.tar");
    podman.podman(&["container", "checkpoint", "--ignore-volumes", "--export", &archive, "c"]).succeeded();
    podman.podman(&["rm", "c"]).succeeded();
    podman.podman(&["container", "restore", "--ignore-volumes", "--import", &archive]).succeeded();
    counts_on(&podman, "c");
    assert_eq!(podman.executes("c", "cat /data/f"), "later");
    podman.end();
}

/// Podman puts no secrets into its archives: they are for a restore in place.
#[test]
fn secrets() {
    podman!(stage, host, podman);
    fs::write(host.path("hidden"), "hush").expect("a secret");
    podman.podman(&["secret", "create", "hidden", "hidden"]).succeeded();
    podman.background("c", &["--secret", "hidden"], COUNTS);
    there_and_back(&podman, &[], "c");
    assert_eq!(podman.executes("c", "cat /run/secrets/hidden"), "hush");
    podman.end();
}

#[test]
fn a_terminal_and_a_read_only_root() {
    podman!(stage, _host, podman);
    podman.background("c", &["-t", "--read-only"], COUNTS);
    there_and_back(&podman, &[], "c");
    through_an_archive(&podman, &[], "c", &stage.path("c.tar"));
    assert!(podman.executes("c", "readlink /proc/1/fd/1").starts_with("/dev/"));
    assert_eq!(podman.executes("c", "touch /x 2>/dev/null || touch /run/x && echo only there"), "only there");
    podman.end();
}

/// A network of Podman's own: the restored container has an address there, its old one or another, and its ports.
#[test]
fn a_bridge_with_published_ports() {
    podman!(stage, host, podman);
    podman.podman(&["network", "create", "--subnet", "10.177.0.0/24", "net"]).succeeded();
    let answers = |port: &str, wanted: &str| {
        wait_until(PATIENCE, "the port answers", || {
            let ask = ["timeout", "2", "bash", "-c", &format!("head -n 1 </dev/tcp/127.0.0.1/{port}")];
            match host.command(&ask).run().stdout {
                said if said.trim_end() == wanted => Ok(()),
                said => Err(said),
            }
        });
    };
    let serves = format!("nc -ll -p 80 -e echo served & {COUNTS}");
    let network = ["--network=net", "--ip=10.177.0.9", "--mac-address=02:00:00:00:00:09", "-p", "8080:80"];
    podman.background("c", &network, &serves);
    let address = |name: &str| {
        let seen = podman.executes(name, "ip -4 -o addr show eth0; cat /sys/class/net/eth0/address");
        let words: Vec<&str> = seen.split_whitespace().collect();
        (words[3].to_owned(), words[words.len() - 1].to_owned())
    };
    let fixed = ("10.177.0.9/24".to_owned(), "02:00:00:00:00:09".to_owned());
    answers("8080", "served");
    there_and_back(&podman, &[], "c");
    assert_eq!(address("c"), fixed);
    answers("8080", "served");

    let archive = stage.path("c.tar");
    through_an_archive(&podman, &[], "c", &archive);
    assert_eq!(address("c"), fixed);
    answers("8080", "served");

    // A copy beside it, with an address and a port of its own.
    let restore = ["container", "restore", "--import", &archive, "--name", "copy", "--publish", "8081:80"];
    podman.podman(&[&restore[..], &["--ignore-static-ip", "--ignore-static-mac"]].concat()).succeeded();
    let other = address("copy");
    assert!(other.0 != fixed.0 && other.1 != fixed.1, "{other:?}");
    answers("8081", "served");
    answers("8080", "served");
    for name in ["c", "copy"] {
        counts_on(&podman, name);
    }
    podman.end();
}

#[test]
fn into_a_pod() {
    podman!(stage, _host, podman);
    for name in ["from", "to"] {
        podman.pod(name, &["--network=none", "--share=ipc,net,uts"]);
    }
    let archive = stage.path("c.tar");
    podman.background("c", &["--pod=from", "--network="], COUNTS);
    counts_on(&podman, "c");
    podman.podman(&["container", "checkpoint", "--export", &archive, "c"]).succeeded();
    // Podman looks for it by its id only.
    let to = podman.podman(&["pod", "inspect", "-f", "{{.ID}}", "to"]).succeeded();
    let restore = ["container", "restore", "--import", &archive, "--name", "copy", "--pod", to.trim_end()];
    podman.podman(&restore).succeeded();
    counts_on(&podman, "copy");
    let namespaces =
        |name: &str| podman.executes(name, "cd /proc/self/ns; for i in ipc uts; do readlink $i; done");
    podman.run(&["-d", "--name", "other", "--pod=to", "--network="], &["sleep", "1000"]).succeeded();
    assert_eq!(namespaces("copy"), namespaces("other"));
    podman.end();
}

/// Where the kernel does not track changes of memory, Podman tells so, and the container runs on in any case.
#[test]
fn memory_ahead_of_the_checkpoint() {
    podman!(stage, _host, podman);
    podman.background("c", &[], COUNTS);
    counts_on(&podman, "c");
    let archive = stage.path("before.tar");
    let made = podman.podman(&["container", "checkpoint", "--pre-checkpoint", "--export", &archive, "c"]);
    if Need::MemoryTracking.is_met() {
        made.succeeded();
    } else {
        made.failed(125, &["does not track changes of memory"]);
    }
    assert_eq!(podman.inspect("c", "{{.State.Status}}"), "running");
    counts_on(&podman, "c");
    podman.end();
}
