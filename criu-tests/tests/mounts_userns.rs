// SPDX-License-Identifier: Apache-2.0
//! Mounts of containers in a user namespace: sources that their root may not reach, mapped owners, and flags that are
//! not theirs to change.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};

use criu_tests::{Bundle, Host, Inspection, Need, Stage};
use serde_json::{Value, json};

const FIRST: u32 = 100_000;
const SIZE: u32 = 65_536;

/// How an owner without an id in the namespace is seen.
const NOBODY: (u64, u64) = (65_534, 65_534);

macro_rules! stage_and_host {
    ($stage:ident, $host:ident) => {
        let Some($stage) = Stage::set(&[]) else { return };
        let $host = $stage.host("a");
    };
}

fn bundle(host: &Host, probes: &[&str]) -> Bundle {
    Bundle::new(host, "inspect", &[&["inspect"], probes].concat()).in_user_namespace(FIRST, SIZE)
}

fn bind(source: &str, destination: &str, options: &[&str]) -> Value {
    json!({ "destination": destination, "type": "bind", "source": source, "options": options })
}

fn mapped(mut mount: Value, inside: u32, outside: u32, size: u32) -> Value {
    let range = json!([{ "containerID": inside, "hostID": outside, "size": size }]);
    mount["uidMappings"] = range.clone();
    mount["gidMappings"] = range;
    mount
}

fn add(config: &mut Value, mounts: impl IntoIterator<Item = Value>) {
    config["mounts"].as_array_mut().expect("a list").extend(mounts);
}

/// A directory with a file, behind one that only root of the host may enter.
fn hidden(host: &Host) -> String {
    let closed = host.path("closed");
    fs::create_dir_all(format!("{closed}/source/sub")).expect("mkdir");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).expect("chmod");
    fs::write(format!("{closed}/source/file"), "reached").expect("write");
    fs::write(format!("{closed}/source/sub/file"), "").expect("write");
    format!("{closed}/source")
}

#[test]
fn sources_that_root_inside_may_not_reach() {
    stage_and_host!(stage, host);
    let source = hidden(&host);
    symlink("source", host.path("closed/link")).expect("symlink");
    let probes = ["--read", "/dir/file", "--read", "/single", "--read", "/again/file", "--stat", "/dir/file"];
    let link = host.path("closed/link");
    let bundle = bundle(&host, &probes).edit(|config| {
        add(
            config,
            [
                bind(&link, "/dir", &["rbind", "ro"]),
                bind(&format!("{source}/file"), "/single", &["bind"]),
                bind(&host.path("bundles/inspect/rootfs/dir"), "/again", &["bind"]),
            ],
        );
    });
    let seen = Inspection::from(&stage, &host, &[], bundle);
    for path in ["/dir/file", "/single", "/again/file"] {
        assert_eq!(seen["read"][path]["ok"], json!("reached"), "{path}");
    }
    assert_eq!(seen.owner("/dir/file"), NOBODY);
    assert!(seen.has("/dir", "ro"));
}

/// Without a cgroup namespace the hierarchies of version 1 are binds, too.
#[test]
fn a_bind_before_the_cgroups() {
    stage_and_host!(stage, host);
    let source = hidden(&host);
    let bundle = bundle(&host, &["--read", "/first/file"]).edit(|config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().expect("a list");
        namespaces.retain(|n| n["type"] != json!("cgroup"));
        let mounts = config["mounts"].as_array_mut().expect("a list");
        let cgroup = mounts.iter().position(|m| m["destination"] == json!("/sys/fs/cgroup")).unwrap_or(mounts.len());
        mounts.insert(cgroup, bind(&source, "/first", &["bind"]));
        if cgroup + 1 == mounts.len() {
            let options = ["nosuid", "noexec", "nodev", "ro"];
            mounts.push(json!({ "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": options }));
        }
    });
    let seen = Inspection::from(&stage, &host, &[], bundle);
    assert_eq!(seen["read"]["/first/file"]["ok"], json!("reached"));
    let all = seen["mounts"].as_array().expect("a list");
    let real = all.iter().filter(|m| m["type"].as_str().is_some_and(|t| t.starts_with("cgroup")));
    assert!(real.count() > 0, "cgroups are mounted: {all:#?}");
}

#[test]
fn mapped_owners_are_the_containers() {
    stage_and_host!(stage, host);
    let source = hidden(&host);
    chown(format!("{source}/file"), Some(1), Some(2)).expect("chown");
    let below = host.path("below");
    fs::create_dir(&below).expect("mkdir");
    fs::write(format!("{below}/file"), "").expect("write");
    host.command(&["mount", "--bind", &below, &format!("{source}/sub")]).run().succeeded();
    let mut probes = vec!["--write", "/own/new", "--stat", "/own/new"];
    for path in ["/own/file", "/other/file", "/one/file", "/one/sub/file", "/tree/sub/file", "/plain/file"] {
        probes.extend(["--stat", path]);
    }
    let bundle = bundle(&host, &probes).edit(|config| {
        add(
            config,
            [
                mapped(bind(&source, "/own", &["rbind", "shared"]), 0, FIRST, SIZE),
                mapped(bind(&source, "/other", &["rbind"]), 1, FIRST + 1000, 2),
                bind(&source, "/one", &["rbind", "idmap", "ro"]),
                bind(&source, "/tree", &["rbind", "ridmap", "rro"]),
                bind(&source, "/plain", &["rbind"]),
            ],
        );
    });
    let seen = Inspection::from(&stage, &host, &[], bundle);
    assert_eq!((seen.owner("/own/file"), seen.owner("/other/file")), ((1, 2), (1000, 1001)));
    assert_eq!((seen.owner("/one/file"), seen.owner("/one/sub/file")), ((1, 2), NOBODY));
    assert_eq!((seen.owner("/tree/sub/file"), seen.owner("/plain/file")), ((0, 0), NOBODY));
    assert_eq!(seen["write"]["/own/new"]["ok"], json!("done"));
    assert_eq!(seen.owner("/own/new"), (0, 0));
    assert!(seen.mount("/own")["propagation"].to_string().contains("shared:"));
    assert!(seen.has("/one", "ro") && seen.has("/tree/sub", "ro") && seen.has("/own", "rw"));
}

/// A mapping that is the one of a user namespace that the container joins.
#[test]
fn the_mapping_of_a_joined_namespace() {
    stage_and_host!(stage, host);
    let source = hidden(&host);
    let first =
        Bundle::of_workload(&host, "counter", &["--memory", "1048576"]).in_user_namespace(FIRST, SIZE);
    let container = host.run_detached(&stage.id("first"), &first);
    let pid = container.state()["pid"].as_i64().expect("a pid");
    let bundle = bundle(&host, &["--stat", "/one/file"]).edit(|config| {
        for namespace in config["linux"]["namespaces"].as_array_mut().expect("a list") {
            if namespace["type"] == json!("user") {
                namespace["path"] = json!(format!("/proc/{pid}/ns/user"));
            }
        }
        for key in ["uidMappings", "gidMappings"] {
            config["linux"].as_object_mut().expect("an object").remove(key);
        }
        add(config, [bind(&source, "/one", &["bind", "idmap"])]);
    });
    let text = host.migrate(&["run", "-b", &bundle.path(), &stage.id("second")]).succeeded();
    let seen: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(seen["stat"]["/one/file"]["ok"]["uid"], json!(0), "{}", seen["stat"]);
    container.end();
}

/// The source's mount is the host's: what it forbids stays forbidden, and asking for it is an error.
#[test]
fn flags_that_are_locked() {
    stage_and_host!(stage, host);
    let source = host.path("source");
    fs::create_dir(&source).expect("mkdir");
    host.command(&["mount", "-t", "tmpfs", "-o", "strictatime", "t", &source]).run().succeeded();
    // Flags of the mount, words of the bind, flags that must be seen, flags that must not.
    type Row = (&'static str, &'static [&'static str], &'static [&'static str], &'static [&'static str]);
    let rows: [Row; 6] = [
        ("ro,noexec,nodiratime", &["bind"], &["ro", "noexec", "nodiratime"], &[]),
        ("ro,noexec,nodiratime", &["bind", "dev"], &["ro", "noexec", "nodiratime"], &[]),
        ("ro", &["bind", "nosuid", "nodev"], &["ro", "nosuid", "nodev"], &[]),
        ("nodev,nosuid,noatime", &["bind", "ro", "exec"], &["ro", "nosuid", "nodev", "noatime"], &["noexec"]),
        ("noatime,nodiratime", &["bind", "norelatime"], &["noatime", "nodiratime"], &[]),
        ("noatime", &["bind", "noatime"], &["noatime"], &["ro"]),
    ];
    let set = |flags: &str| {
        let reset = "remount,rw,suid,dev,exec,diratime,strictatime";
        host.command(&["mount", "--bind", "-o", reset, &source]).run().succeeded();
        let flags = format!("remount,bind,{flags}");
        host.command(&["mount", "-o", &flags, &source]).run().succeeded();
    };
    for (flags, words, present, absent) in rows {
        set(flags);
        let bundle = bundle(&host, &[]).edit(|config| add(config, [bind(&source, "/mnt", words)]));
        let seen = Inspection::from(&stage, &host, &[], bundle);
        for flag in present {
            assert!(seen.has("/mnt", flag), "{flags} {words:?}: {flag} in {}", seen.mount("/mnt"));
        }
        for flag in absent {
            assert!(!seen.has("/mnt", flag), "{flags} {words:?}: {flag} in {}", seen.mount("/mnt"));
        }
    }
    let contradictions: [(&str, &[&str]); 4] = [
        ("ro", &["bind", "rw", "nosuid"]),
        ("nodev,nosuid,noatime", &["bind", "dev", "suid", "exec"]),
        ("noatime", &["bind", "strictatime"]),
        ("nodiratime", &["bind", "noatime"]),
    ];
    for (flags, words) in contradictions {
        set(flags);
        let bundle = bundle(&host, &[]).edit(|config| add(config, [bind(&source, "/mnt", words)]));
        host.migrate(&["run", "-b", &bundle.path(), &stage.id("refused")])
            .failed(1, &["error mounting", "operation not permitted", "locked"]);
        bundle.remove();
    }
}

#[test]
fn a_tmpfs_is_filled_as_the_namespace_sees_it() {
    stage_and_host!(stage, host);
    let rootfs = host.path("bundles/inspect/rootfs");
    let probes = ["--read", "/data/file", "--stat", "/data/file", "--write", "/data/new"];
    let bundle = bundle(&host, &probes);
    fs::create_dir(format!("{rootfs}/data")).expect("mkdir");
    fs::set_permissions(format!("{rootfs}/data"), fs::Permissions::from_mode(0o777)).expect("chmod");
    fs::write(format!("{rootfs}/data/file"), "content").expect("write");
    for path in [format!("{rootfs}/data"), format!("{rootfs}/data/file")] {
        chown(path, Some(FIRST + 3), Some(FIRST + 4)).expect("chown");
    }
    let bundle = bundle.edit(|config| {
        add(
            config,
            [json!({ "destination": "/data", "type": "tmpfs", "source": "t", "options": ["tmpcopyup"] })],
        );
    });
    let seen = Inspection::from(&stage, &host, &[], bundle);
    assert_eq!((&seen["read"]["/data/file"]["ok"], seen.owner("/data/file")), (&json!("content"), (3, 4)));
    assert_eq!(seen["write"]["/data/new"]["ok"], json!("done"));
}

/// Binds of binds, mapped, out of a directory that root inside may not search.
#[test]
fn mapped_binds_of_what_was_mounted_before() {
    stage_and_host!(stage, host);
    let source = host.path("source");
    for path in ["a/x", "b/y", "c/z"] {
        let (top, _) = path.split_once('/').expect("two names");
        fs::create_dir_all(format!("{source}/{path}")).expect("mkdir");
        fs::write(format!("{source}/{path}/file"), path).expect("write");
        symlink(top, format!("{source}/sym-{top}")).expect("symlink");
    }
    fs::set_permissions(&source, fs::Permissions::from_mode(0o750)).expect("chmod");
    let rootfs = host.path("bundles/inspect/rootfs");
    let probes = ["--read", "/final/x/y/z/z/x/y/z/x/file"];
    let bundle = bundle(&host, &probes).edit(|config| {
        let plain = |from: &str, to: &str| bind(&format!("{source}/{from}"), to, &["rbind", "rprivate"]);
        let own = |from: &str, to: &str| {
            let mount = bind(&format!("{rootfs}{from}"), &format!("{rootfs}{to}"), &["rbind", "rprivate"]);
            mapped(mount, 0, FIRST, SIZE)
        };
        add(
            config,
            [
                plain("a", "/mnt"),
                plain("sym-b", "/mnt/x"),
                plain("c", "/mnt/x/y"),
                plain("sym-a", "/mnt/x/y/z"),
                own("/mnt/x", "/mnt/x/y/z/x"),
                own("/mnt/x/y", "/mnt/x/y/z"),
                own("/mnt", "/final"),
            ],
        );
    });
    for name in ["mnt", "final"] {
        fs::create_dir(format!("{rootfs}/{name}")).expect("mkdir");
    }
    // What is made as a mount point on the way is made by root of the namespace.
    for path in ["a", "b/y", "c/z", "a/x", "b", "c"] {
        chown(format!("{source}/{path}"), Some(FIRST), Some(FIRST)).expect("chown");
    }
    let seen = Inspection::from(&stage, &host, &[], bundle);
    assert_eq!(seen["read"][probes[1]]["ok"], json!("a/x"), "{}", seen["read"]);
}

/// The host's kernel filesystems cannot be unmounted from there, so they are covered.
#[test]
fn without_pivot_root() {
    stage_and_host!(stage, host);
    let seen = Inspection::from(&stage, &host, &["--no-pivot"], bundle(&host, &["--read", "/proc/1/comm"]));
    assert_eq!((&seen["pid"], &seen["uid"]), (&json!(1), &json!([0, 0, 0])));
    assert_eq!(seen["read"]["/proc/1/comm"]["ok"], json!("workload\n"));
    assert_eq!(seen.mount("/proc")["type"], json!("proc"));
}

#[test]
fn mapped_owners_and_hidden_sources_are_there_after_a_restore() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let source = hidden(&host);
    let bundle = Bundle::of_workload(&host, "counter", &["--memory", "1048576"])
        .in_user_namespace(FIRST, SIZE)
        .edit(|config| {
            add(
                config,
                [
                    mapped(bind(&source, "/own", &["bind"]), 0, FIRST, SIZE),
                    bind(&source, "/plain", &["bind", "ro"]),
                ],
            );
        });
    fs::set_permissions(host.state_root(), fs::Permissions::from_mode(0o700)).expect("chmod");
    let container = host.run_detached(&stage.id("first"), &bundle);
    let look = |id: &str| -> Value {
        let probes = ["--stat", "/own/file", "--stat", "/plain/file", "--write", "/plain/new"];
        let args = [&["exec", id, "/workload", "inspect"], &probes[..]].concat();
        serde_json::from_str(&host.migrate(&args).succeeded()).expect("JSON")
    };
    let before = look(container.id());
    assert_eq!(before["stat"]["/own/file"]["ok"]["uid"], json!(0), "{}", before["stat"]);
    let report = container.reports();
    let images = host.path("images");
    container.checkpoint(&["--image-path", &images]);
    let id = stage.id("restored");
    host.migrate_detached(&["restore", "-d", "--image-path", &images, "-b", &bundle.path(), &id]);
    let container = host.container(&id, &bundle.rootfs());
    container.goes_on(&report);
    let after = look(&id);
    assert_eq!((&after["stat"], &after["write"]), (&before["stat"], &before["write"]));
    container.end();
}
