// SPDX-License-Identifier: Apache-2.0
//! What the configuration in an archive wants of the host: it gets what the caller allows.

use std::fs;

use criu_tests::{Bundle, Need, Stage};
use serde_json::{Value, json};

use crate::archive::Archive;
use crate::{Case, NOT_ALLOWED, bad, refused};

fn wish(mut archive: Archive, change: impl FnOnce(&mut Value)) -> Vec<u8> {
    archive.json("migrate.config", change);
    archive.bytes()
}

fn push(list: &mut Value, value: Value) {
    list.as_array_mut().expect("a list").push(value);
}

fn mount(archive: Archive, mount: Value) -> Vec<u8> {
    wish(archive, |c| push(&mut c["mounts"], mount))
}

const fn wanted(name: &'static str, says: &'static str, make: fn(Archive) -> Vec<u8>) -> Case {
    Case { name, make, code: NOT_ALLOWED, says }
}

const CASES: [Case; 24] = [
    wanted("the host's root", "binds \"/\" on \"/host\"", |a| {
        mount(a, json!({"destination": "/host", "source": "/", "type": "bind", "options": ["rbind"]}))
    }),
    wanted("a bind mount that says that it is a tmpfs", "binds \"/etc\" on \"/e\"", |a| {
        mount(a, json!({"destination": "/e", "source": "/etc", "type": "tmpfs", "options": ["bind"]}))
    }),
    wanted("a bind mount from the bundle", "binds \"../../..\" on \"/e\"", |a| {
        mount(a, json!({"destination": "/e", "source": "../../..", "options": ["bind"]}))
    }),
    wanted("a service manager's socket, twice", "mounts[8] binds \"/run/sd-notify\"", |mut a| {
        let ours = json!({"destination": "/run/notify", "source": "/run/sd-notify", "options": ["bind"]});
        a.json("migrate.config", |c| push(&mut c["mounts"], ours.clone()));
        mount(a, ours)
    }),
    wanted("a disk", "\"/dev/vda1\" of type \"ext4\"", |a| {
        mount(a, json!({"destination": "/d", "source": "/dev/vda1", "type": "ext4"}))
    }),
    wanted("layers of the host", "of type \"overlay\"", |a| {
        let options = json!(["lowerdir=/etc:/usr"]);
        mount(a, json!({"destination": "/d", "source": "overlay", "type": "overlay", "options": options}))
    }),
    wanted("mounts that show up on the host", "rootfsPropagation", |a| {
        wish(a, |c| c["linux"]["rootfsPropagation"] = json!("shared"))
    }),
    wanted("a hook, prestart", "hooks.prestart[0] runs \"/bin/sh\"", |a| hook(a, "prestart")),
    wanted("a hook, createRuntime", "hooks.createRuntime[0]", |a| hook(a, "createRuntime")),
    wanted("a hook, createContainer", "hooks.createContainer[0]", |a| hook(a, "createContainer")),
    wanted("a hook, startContainer", "hooks.startContainer[0]", |a| hook(a, "startContainer")),
    wanted("a hook, poststart", "hooks.poststart[0]", |a| hook(a, "poststart")),
    wanted("a hook, poststop", "--allow hooks", |a| hook(a, "poststop")),
    wanted("a namespace of the host", "linux.namespaces has none of type `pid`", |a| {
        wish(a, |c| {
            let list = c["linux"]["namespaces"].as_array_mut().expect("a list");
            list.retain(|namespace| namespace["type"] != "pid");
        })
    }),
    wanted("somebody else's namespace", "joins \"/proc/1/ns/net\"", |a| {
        wish(a, |c| {
            let list = c["linux"]["namespaces"].as_array_mut().expect("a list");
            let network = list.iter_mut().find(|namespace| namespace["type"] == "network");
            network.expect("there is one")["path"] = json!("/proc/1/ns/net");
        })
    }),
    wanted("a device", "linux.devices[0] is \"/dev/kmsg\", c 1:11", |a| {
        let device = json!([{"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11}]);
        wish(a, |c| c["linux"]["devices"] = device)
    }),
    wanted("a device under another's name", "linux.devices[0] is \"/dev/null\", b 8:0", |a| {
        let device = json!([{"path": "/dev/null", "type": "b", "major": 8, "minor": 0}]);
        wish(a, |c| c["linux"]["devices"] = device)
    }),
    wanted("all devices", "linux.resources.devices[0] allows a *:*", |a| {
        wish(a, |c| c["linux"]["resources"]["devices"] = json!([{"allow": true, "access": "rwm"}]))
    }),
    wanted("an interface of the host", "linux.netDevices takes the interface \"eth0\"", |a| {
        wish(a, |c| c["linux"]["netDevices"] = json!({"eth0": {"name": "eth0"}}))
    }),
    wanted("capabilities", "process.capabilities has CAP_SYS_ADMIN", |a| {
        wish(a, |c| c["process"]["capabilities"]["bounding"] = json!(["CAP_SYS_ADMIN"]))
    }),
    wanted("a listener for system calls", "linux.seccomp.listenerPath", |a| {
        let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/listener"});
        wish(a, |c| c["linux"]["seccomp"] = profile)
    }),
    wanted("a unit's properties", "--allow privileges", |a| {
        wish(a, |c| c["annotations"] = json!({"org.systemd.property.OnFailure": "'x.service'"}))
    }),
    bad("no configuration at all", "understand the archive's configuration", |mut a| {
        a.member("migrate.config").data = b"hello".into();
        a.bytes()
    }),
    wanted(
        "a bridge of the host",
        "network.json connects \"eth0\" with the host's bridge \"br0\"",
        |mut a| {
            a.json("checkpoint/network.json", |n| {
                n["networks"] = json!([{"type": "veth", "name": "eth0", "bridge": "br0"}]);
            });
            a.bytes()
        },
    ),
];

fn hook(archive: Archive, kind: &str) -> Vec<u8> {
    wish(archive, |c| c["hooks"] = json!({kind: [{"path": "/bin/sh", "args": ["sh", "-c", "exit 1"]}]}))
}

#[test]
fn wishes() {
    refused(&CASES);
}

/// A hook and a bind mount of the source, by a container that had them: allowed, they are there again.
#[test]
fn what_is_allowed_is_granted() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let (shared, trace) = (host.path("shared"), host.path("trace"));
    fs::create_dir(&shared).expect("mkdir");
    let bundle = Bundle::of_workload(&host, "counter", &["--memory", "1048576"]).edit(|config| {
        push(
            &mut config["mounts"],
            json!({"destination": "/shared", "type": "bind", "source": shared, "options": ["rbind"]}),
        );
        let hook = json!([{"path": "/bin/sh", "args": ["sh", "-c", format!("echo ran >>{trace}")]}]);
        config["hooks"] = json!({"createRuntime": hook});
    });
    let container = host.run_detached(&stage.id("first"), &bundle);
    let status = container.reports();
    let archive = stage.path("moved.tar");
    container.checkpoint(&["--export", &archive]);
    fs::remove_file(&trace).expect("the hook has run");
    let id = stage.id("second");
    for (allow, left) in
        [(&["--allow", "mounts"][..], "hooks.createRuntime[0]"), (&["--allow", "hooks"], "/shared")]
    {
        let restore = [&["restore", "-d", "--import", &archive], allow, &[&id]].concat();
        host.migrate(&restore).failed(NOT_ALLOWED, &[&archive, left]);
        assert!(!fs::exists(&trace).expect("look"), "the hook ran");
        host.assert_no_trace();
    }
    host.migrate_detached(&["restore", "-d", "--import", &archive, "--allow", "mounts,hooks", &id]);
    assert_eq!(fs::read_to_string(&trace).expect("the hook has run"), "ran\n");
    let restored = host.imported(&id);
    restored.goes_on(&status);
    restored.end();
    host.assert_no_trace();
}
