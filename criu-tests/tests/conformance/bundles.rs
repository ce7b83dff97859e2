// SPDX-License-Identifier: Apache-2.0
//! The bundles of the cases: one that sleeps, and others that are like it but for one thing.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use criu_tests::Host;
use serde_json::{Value, json};

/// The programs that the root filesystems have, all of them busybox.
const PROGRAMS: [&str; 7] = ["sh", "sleep", "true", "echo", "id", "cat", "grep"];

type Edit = fn(&mut Value);

/// Name and what is unlike. A case names one as `@NAME`.
const BUNDLES: [(&str, Edit); 33] = [
    ("sleep", |_| {}),
    ("true", |c| args(c, &["true"])),
    ("echo", |c| args(c, &["echo", "hello"])),
    ("exit-7", |c| args(c, &["sh", "-c", "exit 7"])),
    ("killed", |c| args(c, &["sh", "-c", "kill -KILL $$"])),
    ("no-such-path", |c| args(c, &["/none"])),
    ("not-in-path", |c| args(c, &["none"])),
    ("directory", |c| args(c, &["/etc"])),
    ("not-executable", |c| args(c, &["/etc/passwd"])),
    ("no-interpreter", |c| args(c, &["/bin/script"])),
    ("no-args", |c| args(c, &[])),
    ("empty-arg", |c| args(c, &[""])),
    ("no-process", |c| drop(object(c).remove("process"))),
    ("no-root", |c| drop(object(c).remove("root"))),
    ("missing-root", |c| c["root"]["path"] = json!("nowhere")),
    ("no-linux", |c| drop(object(c).remove("linux"))),
    ("no-cwd", |c| c["process"]["cwd"] = json!("/mnt/none")),
    ("relative-cwd", |c| c["process"]["cwd"] = json!("tmp")),
    ("terminal", |c| c["process"]["terminal"] = json!(true)),
    ("no-version", |c| drop(object(c).remove("ociVersion"))),
    ("bad-version", |c| c["ociVersion"] = json!("2.0.0")),
    ("bad-capability", |c| c["process"]["capabilities"]["bounding"] = json!(["CAP_NONE"])),
    ("bad-rlimit", |c| c["process"]["rlimits"] = json!([{"type": "RLIMIT_NONE", "soft": 1, "hard": 1}])),
    ("bad-namespace", |c| c["linux"]["namespaces"][0] = json!({"type": "none"})),
    ("double-namespace", |c| {
        c["linux"]["namespaces"].as_array_mut().expect("a list").push(json!({"type": "pid"}));
    }),
    ("missing-namespace", |c| c["linux"]["namespaces"][0] = json!({"type": "pid", "path": "/none"})),
    ("missing-mount", |c| {
        let mount = json!({"destination": "/mnt", "type": "bind", "source": "/none", "options": ["bind"]});
        c["mounts"].as_array_mut().expect("a list").push(mount);
    }),
    ("relative-mount", |c| c["mounts"][0]["destination"] = json!("proc")),
    ("hostname", |c| namespaces(c, &["pid", "mount", "ipc", "network"])),
    ("sysctl", |c| c["linux"]["sysctl"] = json!({"kernel.none": "1"})),
    ("host-sysctl", |c| c["linux"]["sysctl"] = json!({"vm.swappiness": "1"})),
    ("failing-hook", |c| c["hooks"] = json!({"createRuntime": [{"path": "/bin/false"}]})),
    ("missing-hook", |c| c["hooks"] = json!({"createRuntime": [{"path": "/none"}]})),
];

fn object(config: &mut Value) -> &mut serde_json::Map<String, Value> {
    config.as_object_mut().expect("an object")
}

fn args(config: &mut Value, args: &[&str]) {
    config["process"]["args"] = json!(args);
}

fn namespaces(config: &mut Value, types: &[&str]) {
    config["linux"]["namespaces"] = types.iter().map(|kind| json!({"type": kind})).collect();
}

/// Makes all bundles, which have one root filesystem together: the host's `rootfs`.
pub(crate) fn make_all(host: &Host) {
    let rootfs = host.path("rootfs");
    for name in ["bin", "proc", "sys", "dev", "tmp", "etc", "root", "mnt"] {
        fs::create_dir_all(format!("{rootfs}/{name}")).expect("make the root filesystem");
    }
    fs::copy("/usr/bin/busybox", format!("{rootfs}/bin/busybox")).expect("busybox is installed");
    for name in PROGRAMS {
        symlink("busybox", format!("{rootfs}/bin/{name}")).expect("symlink");
    }
    fs::write(format!("{rootfs}/etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").expect("write");
    let script = format!("{rootfs}/bin/script");
    fs::write(&script, "#!/none\n").expect("write");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("chmod");

    let first = host.path("bundles/sleep");
    fs::create_dir_all(&first).expect("make the bundle");
    host.migrate(&["spec", "-b", &first]).succeeded();
    let config = fs::read(format!("{first}/config.json")).expect("read config.json");
    for (name, edit) in BUNDLES {
        let mut config: Value = serde_json::from_slice(&config).expect("config.json is JSON");
        // What both know: runc's version of the specification is older.
        config["ociVersion"] = json!("1.0.2");
        config["process"]["terminal"] = json!(false);
        config["root"] = json!({"path": rootfs, "readonly": true});
        args(&mut config, &["sleep", "1000"]);
        edit(&mut config);
        write_config(host, name, &config.to_string());
    }
    write_config(host, "not-json", "{\"ociVersion\": ");
    write_config(host, "not-an-object", "[]");
    write_config(host, "wrong-type", "{\"ociVersion\": 1}");
    let process = json!({"args": ["echo", "described"], "cwd": "/", "env": ["PATH=/bin"]});
    fs::write(host.path("bundles/process.json"), process.to_string()).expect("write");
    fs::create_dir_all(host.path("bundles/empty")).expect("mkdir");
}

fn write_config(host: &Host, bundle: &str, text: &str) {
    let directory = host.path(&format!("bundles/{bundle}"));
    fs::create_dir_all(&directory).expect("make the bundle");
    fs::write(format!("{directory}/config.json"), text).expect("write config.json");
}
