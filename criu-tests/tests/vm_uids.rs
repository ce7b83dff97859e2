// SPDX-License-Identifier: Apache-2.0
//! Processes of other users than root, without a user namespace: CRIU dumps them only where it may raise limits
//! (`CAP_SYS_RESOURCE`), so that these run in a virtual machine (docs/vm-lab.md).

use std::fs;
use std::os::unix::fs::chown;

use criu_tests::{Bundle, Container, Host, Need, Stage};
use serde_json::json;

const USER: u32 = 1000;
const GROUP: u32 = 1001;

fn run_as_user<'h>(stage: &Stage, host: &'h Host, workload: &str) -> (Bundle, Container<'h>) {
    let bundle = Bundle::of_workload(host, workload, &[]).edit(|config| {
        config["process"]["user"] =
            json!({ "uid": USER, "gid": GROUP, "additionalGids": [5, 27], "umask": 0o027 });
        for set in ["bounding", "effective", "permitted", "inheritable", "ambient"] {
            config["process"]["capabilities"][set] = json!([]);
        }
    });
    chown(format!("{}/state", bundle.rootfs()), Some(USER), Some(GROUP)).expect("chown");
    let container = host.run_detached(&stage.id(workload), &bundle);
    (bundle, container)
}

/// What the kernel says about whose the first process is.
fn credentials(host: &Host, container: &Container<'_>) -> Vec<String> {
    let status = host.outside(&format!("/proc/{}/status", container.state()["pid"]));
    let status = fs::read_to_string(status).expect("read the first process's status");
    let wanted = ["Uid:", "Gid:", "Groups:", "Umask:", "CapEff:", "CapBnd:", "NoNewPrivs:"];
    let lines = status.lines().filter(|line| wanted.iter().any(|name| line.starts_with(name)));
    lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

#[test]
fn in_place_through_a_directory() {
    let Some(stage) = Stage::set(&[Need::Criu, Need::SysResource]) else { return };
    let host = stage.host("a");
    for workload in ["tree", "files"] {
        let (bundle, container) = run_as_user(&stage, &host, workload);
        let (before, whose) = (container.reports(), credentials(&host, &container));
        assert!(whose.contains(&format!("Uid: {USER} {USER} {USER} {USER}")), "{whose:?}");
        assert!(whose.contains(&"Groups: 5 27".to_owned()), "{whose:?}");
        let images = host.path("images");
        container.checkpoint(&["--image-path", &images]);
        container.restore(&images, &bundle);
        container.goes_on(&before);
        assert_eq!(credentials(&host, &container), whose);
        fs::remove_dir_all(images).expect("remove the images");
        container.end();
    }
    host.assert_no_trace();
}

#[test]
fn through_an_archive_to_another_host() {
    let Some(stage) = Stage::set(&[Need::Criu, Need::SysResource]) else { return };
    let (a, b) = (stage.host("a"), stage.host("b"));
    let (_bundle, container) = run_as_user(&stage, &a, "counter");
    let (before, whose) = (container.reports(), credentials(&a, &container));
    let archive = stage.path("moved.tar");
    container.checkpoint(&["--export", &archive]);
    b.migrate_detached(&["restore", "-d", "--import", &archive, &stage.id("counter")]);
    let moved = b.imported(&stage.id("counter"));
    moved.goes_on(&before);
    assert_eq!(credentials(&b, &moved), whose);
    moved.end();
    a.assert_no_trace();
    b.assert_no_trace();
}
