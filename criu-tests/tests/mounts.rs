// SPDX-License-Identifier: Apache-2.0
//! The root filesystem of real containers: kinds of mounts, their options, devices, and what is refused.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

use criu_tests::{Bundle, Host, Inspection, PATIENCE, Stage, wait_until};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const EROFS: i64 = 30;
const EOVERFLOW: i64 = 75;

macro_rules! stage_and_host {
    ($stage:ident, $host:ident) => {
        let Some($stage) = Stage::set(&[]) else { return };
        let $host = $stage.host("a");
    };
}

fn add(config: &mut Value, mount: Value) {
    config["mounts"].as_array_mut().expect("a list").push(mount);
}

fn bind(source: &str, destination: &str, options: &[&str]) -> Value {
    json!({ "destination": destination, "type": "bind", "source": source, "options": options })
}

fn range(inside: u32, outside: u32, size: u32) -> Value {
    json!([{ "containerID": inside, "hostID": outside, "size": size }])
}

/// A directory on the host with a file of this owner.
fn directory(host: &Host, name: &str, owner: u32) -> String {
    let path = host.path(name);
    fs::create_dir_all(&path).expect("make a directory");
    let file = format!("{path}/file");
    fs::write(&file, name).expect("write");
    chown(&file, Some(owner), Some(owner)).expect("chown");
    path
}

/// Runs a container with this bundle, which must be refused in these words.
fn refused(stage: &Stage, host: &Host, words: &[&str], edit: impl FnOnce(&mut Value)) {
    let bundle = Bundle::new(host, "refused", &["inspect"]).edit(edit);
    host.migrate(&["run", "-b", &bundle.path(), &stage.id("refused")]).failed(1, words);
    host.assert_no_trace();
    bundle.remove();
}

#[test]
fn owners_are_seen_through_a_mapping() {
    stage_and_host!(stage, host);
    let source = directory(&host, "source", 1);
    let below = directory(&host, "below", 2);
    fs::create_dir(format!("{source}/sub")).expect("mkdir");
    host.command(&["mount", "--bind", &below, &format!("{source}/sub")]).run().succeeded();
    let mapped = |destination: &str, words: &[&str], to: u32| {
        let mut mount = bind(&source, destination, words);
        mount["uidMappings"] = range(0, to, 10);
        mount["gidMappings"] = range(0, to + 1000, 10);
        mount
    };
    let mut probes = vec!["--write", "/one/new"];
    for path in ["/one/file", "/one/sub/file", "/two/file", "/two/sub/file", "/plain/file"] {
        probes.extend(["--stat", path]);
    }
    let seen = Inspection::of(&stage, &host, &probes, |config| {
        add(config, mapped("/one", &["rbind", "ro"], 100));
        add(config, mapped("/two", &["rbind", "ridmap"], 200));
        add(config, bind(&source, "/plain", &["rbind"]));
    });
    assert_eq!((seen.owner("/one/file"), seen.owner("/one/sub/file")), ((101, 1101), (2, 2)));
    assert_eq!((seen.owner("/two/file"), seen.owner("/two/sub/file")), ((201, 1201), (202, 1202)));
    assert_eq!(seen.owner("/plain/file"), (1, 1));
    assert!(seen.has("/one", "ro") && seen.has("/two", "rw"));
    assert_eq!(seen["write"]["/one/new"]["errno"], json!(EROFS));
    let seen = Inspection::of(&stage, &host, &["--write", "/one/new"], |config| {
        add(config, mapped("/one", &["bind", "idmap"], 100));
    });
    assert_eq!(seen["write"]["/one/new"]["errno"], json!(EOVERFLOW), "root has no id there");
}

#[test]
fn mappings_that_cannot_be() {
    stage_and_host!(stage, host);
    let source = directory(&host, "source", 0);
    refused(&stage, &host, &["id-mapped mounts must have both uid and gid mappings"], |config| {
        add(config, bind(&source, "/a", &["bind", "idmap"]));
    });
    refused(&stage, &host, &["id-mapped mounts are only supported for bind-mounts"], |config| {
        add(config, json!({ "destination": "/a", "type": "tmpfs", "source": "t", "options": ["idmap"] }));
    });
    refused(
        &stage,
        &host,
        &["error mounting \"/proc\" to rootfs at \"/a\" (mounts[", "MOUNT_ATTR_IDMAP"],
        |config| {
            let mut mount = bind("/proc", "/a", &["bind"]);
            mount["uidMappings"] = range(0, 1, 1);
            mount["gidMappings"] = range(0, 1, 1);
            add(config, mount);
        },
    );
}

#[test]
fn a_tmpfs_that_begins_as_the_directory_beneath() {
    stage_and_host!(stage, host);
    let rootfs = host.path("bundles/inspect/rootfs");
    let probes = ["--read", "/data/file", "--write", "/data/new", "--stat", "/data", "--stat", "/data/file"];
    let seen = Inspection::of(&stage, &host, &probes, |config| {
        fs::create_dir(format!("{rootfs}/data")).expect("mkdir");
        fs::set_permissions(format!("{rootfs}/data"), fs::Permissions::from_mode(0o2775)).expect("chmod");
        fs::write(format!("{rootfs}/data/file"), "from the image").expect("write");
        chown(format!("{rootfs}/data/file"), Some(7), Some(8)).expect("chown");
        let options = ["tmpcopyup", "nosuid", "size=1m"];
        add(config, json!({ "destination": "/data", "type": "tmpfs", "source": "t", "options": options }));
    });
    assert_eq!(seen["read"]["/data/file"]["ok"], json!("from the image"));
    assert_eq!(seen.owner("/data/file"), (7, 8));
    assert_eq!(seen["stat"]["/data"]["ok"]["mode"], json!("42775"));
    assert_eq!(seen["write"]["/data/new"]["ok"], json!("done"));
}

#[test]
fn recursive_words_reach_what_is_mounted_below() {
    stage_and_host!(stage, host);
    let source = directory(&host, "source", 0);
    fs::create_dir(format!("{source}/sub")).expect("mkdir");
    host.command(&["mount", "-t", "tmpfs", "-o", "noatime", "t", &format!("{source}/sub")]).run().succeeded();
    let seen = Inspection::of(&stage, &host, &[], |config| {
        add(config, bind(&source, "/ro", &["rbind", "rro", "rnosuid", "rnoatime"]));
        add(config, bind(&source, "/top", &["rbind", "ro"]));
        add(config, bind(&source, "/atime", &["rbind", "rstrictatime"]));
    });
    for path in ["/ro", "/ro/sub"] {
        for flag in ["ro", "nosuid", "noatime"] {
            assert!(seen.has(path, flag), "{path} {flag}");
        }
    }
    assert!(seen.has("/top", "ro") && seen.has("/top/sub", "rw"));
    assert!(!seen.has("/atime/sub", "noatime") && !seen.has("/atime/sub", "relatime"));
}

#[test]
fn device_nodes() {
    stage_and_host!(stage, host);
    let paths = ["/dev/zero", "/dev/pipe", "/dev/disk", "/dev/null", "/dev/ptmx"];
    let probes: Vec<&str> = paths.iter().flat_map(|path| ["--stat", path]).collect();
    let seen = Inspection::of(&stage, &host, &probes, |config| {
        config["linux"]["devices"] = json!([
            { "path": "/dev/zero", "type": "c", "major": 1, "minor": 5, "fileMode": 0o640, "uid": 3, "gid": 4 },
            { "path": "/dev/pipe", "type": "p", "fileMode": 0o622 },
            { "path": "/dev/disk", "type": "b", "major": 7, "minor": 0, "fileMode": 0o600 },
            { "path": "/dev/ptmx", "type": "c", "major": 5, "minor": 2 },
        ]);
    });
    let mode = |path: &str| seen["stat"][path]["ok"]["mode"].clone();
    assert_eq!(
        (mode("/dev/zero"), seen.owner("/dev/zero")),
        (json!("20640"), (3, 4)),
        "the default is overridden"
    );
    assert_eq!((mode("/dev/pipe"), mode("/dev/disk")), (json!("10622"), json!("60600")));
    assert_eq!(seen["stat"]["/dev/disk"]["ok"]["device"], json!([7, 0]));
    assert_eq!(mode("/dev/null"), json!("20666"));
    assert_eq!(seen["stat"]["/dev/ptmx"]["ok"]["device"], json!([5, 2]));
}

#[test]
fn device_nodes_that_are_there_already() {
    stage_and_host!(stage, host);
    let rootfs = host.path("bundles/inspect/rootfs");
    let node = |config: &mut Value, path: &str| {
        config["linux"]["devices"] = json!([{ "path": path, "type": "c", "major": 1, "minor": 3 }]);
    };
    let make = |name: &str, minor: u64| {
        let mode = nix::sys::stat::Mode::from_bits_truncate(0o600);
        let device = nix::sys::stat::makedev(1, minor);
        nix::sys::stat::mknod(Path::new(name), nix::sys::stat::SFlag::S_IFCHR, mode, device).expect("mknod");
    };
    let seen = Inspection::of(&stage, &host, &["--stat", "/data/null"], |config| {
        fs::create_dir(format!("{rootfs}/data")).expect("mkdir");
        make(&format!("{rootfs}/data/null"), 3);
        node(config, "/data/null");
    });
    assert_eq!(seen["stat"]["/data/null"]["ok"]["device"], json!([1, 3]));
    let data = host.path("bundles/refused/rootfs/data");
    refused(&stage, &host, &["/data/file has incorrect ftype"], |config| {
        fs::create_dir(&data).expect("mkdir");
        fs::write(format!("{data}/file"), "").expect("write");
        node(config, "/data/file");
    });
    let words = "/data/zero has incorrect major:minor: 1:5 doesn't match expected 1:3";
    refused(&stage, &host, &[words], |config| {
        fs::create_dir(&data).expect("mkdir");
        make(&format!("{data}/zero"), 5);
        node(config, "/data/zero");
    });
}

#[test]
fn dev_of_the_host() {
    stage_and_host!(stage, host);
    let seen = Inspection::of(&stage, &host, &["--stat", "/dev/null"], |config| {
        let mounts = config["mounts"].as_array_mut().expect("a list");
        mounts.retain(|m| !m["destination"].as_str().is_some_and(|d| d.starts_with("/dev")));
        mounts.push(bind("/dev", "/dev", &["rbind", "ro"]));
    });
    assert_eq!(seen["stat"]["/dev/null"]["ok"]["device"], json!([1, 3]));
    assert!(seen.has("/dev", "ro"));
}

#[test]
fn without_pivot_root() {
    stage_and_host!(stage, host);
    let seen = Inspection::with(&stage, &host, &["--no-pivot"], &["--stat", "/proc/1/root/bin"], |_| {});
    assert_eq!(seen["pid"], json!(1));
    assert_eq!(seen.mount("/proc")["type"], json!("proc"));
    let kernel =
        |m: &&Value| (m["type"] == json!("proc") || m["type"] == json!("sysfs")) && m["root"] == json!("/");
    let places: Vec<&Value> =
        seen["mounts"].as_array().expect("a list").iter().filter(kernel).map(|m| &m["destination"]).collect();
    assert_eq!(places, [&json!("/proc"), &json!("/sys")], "the host's are out of reach");
}

#[test]
fn without_a_mount_namespace_the_hosts_table_is_as_before_in_the_end() {
    stage_and_host!(stage, host);
    let without = |config: &mut Value| {
        config["linux"]["namespaces"].as_array_mut().expect("a list").retain(|n| n["type"] != json!("mount"));
        config["linux"]["maskedPaths"] = json!([]);
        config["linux"]["readonlyPaths"] = json!([]);
    };
    host.command(&["mount", "--make-rshared", "/"]).run().succeeded();
    let bundle = Bundle::of_workload(&host, "counter", &["--memory", "1048576"]).edit(without);
    for mounted_by_user in [false, true] {
        if mounted_by_user {
            host.command(&["mount", "--bind", &bundle.rootfs(), &bundle.rootfs()]).run().succeeded();
        }
        let before = host.mountinfo();
        let container = host.run_detached(&stage.id("host"), &bundle);
        let own = host.command(&["readlink", "/proc/self/ns/mnt"]).run().succeeded();
        let pid = container.state()["pid"].as_i64().expect("a pid");
        assert_eq!(host.command(&["readlink", &format!("/proc/{pid}/ns/mnt")]).run().succeeded(), own);
        for place in ["/proc", "/dev", "/dev/pts", "/sys"] {
            let point = format!(" {}{place} ", bundle.rootfs());
            assert!(host.mountinfo().contains(&point), "{place} is mounted on the host");
        }
        host.migrate(&["exec", container.id(), "/workload", "inspect"]).succeeded();
        let images = host.path("images");
        let checkpoint = ["checkpoint", "--image-path", &images, container.id()];
        container.runs_on_beside(&checkpoint, 5, &["linux.namespaces has no mount namespace"]);
        container.end();
        assert_eq!(host.mountinfo(), before);
    }
    let before = host.mountinfo();
    let refused = bundle.edit(|config| config["process"]["args"] = json!(["/no/such/program"]));
    host.migrate(&["run", "-b", &refused.path(), &stage.id("refused")]).failed(1, &["/no/such/program"]);
    assert_eq!(host.mountinfo(), before);
    let spread = refused.edit(|config| config["linux"]["rootfsPropagation"] = json!("rslave"));
    host.migrate(&["run", "-b", &spread.path(), &stage.id("spread")])
        .failed(1, &["unable to set rootfs propagation without a private MNT namespace"]);
    let masked = spread.edit(|config| config["linux"]["maskedPaths"] = json!(["/proc/keys"]));
    host.migrate(&["run", "-b", &masked.path(), &stage.id("masked")]).failed(1, &["linux.maskedPaths"]);
    assert_eq!(host.mountinfo(), before);
    host.command(&["umount", &masked.rootfs()]).run().succeeded();
    host.command(&["mount", "--make-rprivate", "/"]).run().succeeded();
}

#[test]
fn cgroups_read_only_and_writable() {
    stage_and_host!(stage, host);
    for namespace in [false, true] {
        for readonly in [false, true] {
            let seen = Inspection::of(&stage, &host, &[], |config| {
                let namespaces = config["linux"]["namespaces"].as_array_mut().expect("a list");
                namespaces.retain(|n| n["type"] != json!("cgroup"));
                if namespace {
                    namespaces.push(json!({ "type": "cgroup" }));
                }
                let mut options = vec!["nosuid", "noexec", "nodev", "relatime"];
                options.extend(readonly.then_some("ro"));
                let mounts = config["mounts"].as_array_mut().expect("a list");
                mounts.retain(|m| m["destination"] != json!("/sys/fs/cgroup"));
                mounts.push(json!({ "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": options }));
            });
            let all = seen["mounts"].as_array().expect("a list");
            let ours: Vec<&Value> = all
                .iter()
                .filter(|m| m["destination"].as_str().is_some_and(|d| d.starts_with("/sys/fs/cgroup")))
                .collect();
            assert!(!ours.is_empty());
            for mount in ours {
                let flags = mount["options"].as_array().expect("a list");
                assert_eq!(flags.contains(&json!("ro")), readonly, "namespace {namespace}: {mount}");
                assert!(flags.contains(&json!("nosuid")) && flags.contains(&json!("noexec")), "{mount}");
                if namespace && mount["type"] != json!("tmpfs") {
                    assert_eq!(mount["root"], json!("/"), "its own cgroup is the root: {mount}");
                }
            }
        }
    }
}

#[test]
fn propagation_of_the_root() {
    stage_and_host!(stage, host);
    for (word, mark) in [("shared", "shared:"), ("unbindable", "unbindable"), ("private", ""), ("rslave", "")]
    {
        let seen =
            Inspection::of(&stage, &host, &[], |config| config["linux"]["rootfsPropagation"] = json!(word));
        let marks = seen.mount("/")["propagation"].to_string();
        if mark.is_empty() {
            assert!(!marks.contains("shared:"), "{word}: {marks}");
        } else {
            assert!(marks.contains(mark), "{word}: {marks}");
        }
    }
}

#[test]
fn what_the_host_mounts_later_arrives_where_it_may() {
    stage_and_host!(stage, host);
    let source = directory(&host, "source", 0);
    fs::create_dir(format!("{source}/later")).expect("mkdir");
    host.command(&["mount", "--bind", &source, &source]).run().succeeded();
    host.command(&["mount", "--make-shared", &source]).run().succeeded();
    let bundle = Bundle::of_workload(&host, "counter", &["--memory", "1048576"]).edit(|config| {
        add(config, bind(&source, "/slave", &["rbind", "rslave"]));
        add(config, bind(&source, "/shared", &["rbind", "rshared"]));
        add(config, bind(&source, "/private", &["rbind", "rprivate"]));
    });
    let container = host.run_detached(&stage.id("later"), &bundle);
    host.command(&["mount", "-t", "tmpfs", "t", &format!("{source}/later")]).run().succeeded();
    let text = host.migrate(&["exec", container.id(), "/workload", "inspect"]).succeeded();
    let seen: Value = serde_json::from_str(&text).expect("JSON");
    let mounts = seen["mounts"].as_array().expect("a list");
    for (place, arrives) in [("/slave/later", true), ("/shared/later", true), ("/private/later", false)] {
        assert_eq!(mounts.iter().any(|m| m["destination"] == json!(place)), arrives, "{place}: {mounts:#?}");
    }
    container.end();
    host.command(&["umount", &format!("{source}/later")]).run().succeeded();
    host.command(&["umount", &source]).run().succeeded();
}

#[test]
fn a_program_bound_into_dev_and_a_link_that_leads_nowhere() {
    stage_and_host!(stage, host);
    let source = directory(&host, "source", 0);
    let rootfs = host.path("bundles/inspect/rootfs");
    let probes = ["--read", "/dev/init", "--read", "/etc/hosts", "--read", "/tmp/foo/bar/hosts"];
    let seen = Inspection::of(&stage, &host, &probes, |config| {
        symlink("/tmp/foo/bar", format!("{rootfs}/jump")).expect("symlink");
        symlink("/jump/hosts", format!("{rootfs}/etc/hosts")).expect("symlink");
        add(config, bind(&format!("{source}/file"), "/dev/init", &["bind", "ro"]));
        add(config, bind(&format!("{source}/file"), "/etc/hosts", &["bind", "ro"]));
    });
    for path in ["/dev/init", "/etc/hosts", "/tmp/foo/bar/hosts"] {
        assert_eq!(seen["read"][path]["ok"], json!("source"), "{path}");
    }
}

#[test]
fn in_a_mount_namespace_by_path_the_root_is_the_containers_own() {
    stage_and_host!(stage, host);
    let source = directory(&host, "source", 0);
    let holder = host.command(&["unshare", "--mount", "sleep", "1000"]).start();
    let link = |pid: &str| host.command(&["readlink", &format!("/proc/{pid}/ns/mnt")]).run().succeeded();
    let pid = holder.pid().to_string();
    wait_until(PATIENCE, "it has its own mount namespace", || {
        if link(&pid) == link("self") { Err(pid.clone()) } else { Ok(()) }
    });
    let by_path = |config: &mut Value, path: &str| {
        let all = config["linux"]["namespaces"].as_array_mut().expect("a list");
        all.iter_mut().find(|n| n["type"] == json!("mount")).expect("there is one")["path"] = json!(path);
    };
    let namespace = link(&pid);
    let seen = Inspection::of(&stage, &host, &["--read", "/here/file"], |config| {
        by_path(config, &format!("/proc/{pid}/ns/mnt"));
        add(config, bind(&source, "/here", &["bind"]));
    });
    assert_eq!(seen["namespaces"]["mnt"], json!(namespace.trim()));
    assert_eq!(seen["read"]["/here/file"]["ok"], json!("source"));
    assert_eq!(seen.mount("/proc")["type"], json!("proc"));
    holder.signal(Signal::SIGKILL);
    holder.wait();
    refused(&stage, &host, &["is the mount namespace of the runtime itself"], |config| {
        by_path(config, "/proc/self/ns/mnt");
    });
}

/// Many write one list of options for all their mounts.
#[test]
fn at_a_bind_mount_the_options_of_a_tmpfs_mean_nothing() {
    stage_and_host!(stage, host);
    let source = directory(&host, "source", 0);
    let seen = Inspection::of(&stage, &host, &["--read", "/here/file"], |config| {
        add(config, bind(&source, "/here", &["bind", "nosuid", "mode=755", "size=1k"]));
    });
    assert_eq!(seen["read"]["/here/file"]["ok"], json!("source"));
    assert!(seen.mount("/here")["options"].to_string().contains("nosuid"));
}

#[test]
fn mounts_that_are_refused() {
    stage_and_host!(stage, host);
    let source = directory(&host, "source", 0);
    let tmpfs = |destination: &str| json!({ "destination": destination, "type": "tmpfs", "source": "t" });
    refused(&stage, &host, &["is on the top of rootfs"], |config| add(config, tmpfs("/x/..")));
    refused(&stage, &host, &["cannot be mounted because it is inside /proc"], |config| {
        add(config, tmpfs("/proc/sys"));
    });
    refused(&stage, &host, &["bind mounts cannot have any filesystem-specific options applied"], |config| {
        add(config, bind(&source, "/a", &["bind", "size=1k", "journal=off"]));
    });
    refused(&stage, &host, &["/proc cannot be mounted because it is not of type proc"], |config| {
        add(config, bind(&source, "/proc", &["bind"]));
    });
    refused(&stage, &host, &["selinux label is specified in config, but selinux is disabled"], |config| {
        config["linux"]["mountLabel"] = json!("system_u:object_r:container_file_t:s0");
    });
}
