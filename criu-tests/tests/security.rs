// SPDX-License-Identifier: Apache-2.0
//! What keeps a container's processes apart besides namespaces: session keyrings, capabilities, security modules.

use criu_tests::{Bundle, Container, Host, Inspection, Stage};
use serde_json::{Value, json};

/// Starts a container that lives.
fn running<'h>(stage: &Stage, host: &'h Host, run: &[&str], bundle: &Bundle) -> Container<'h> {
    let (path, id) = (bundle.path(), stage.id("lives"));
    host.migrate_detached(&[&["run", "-d", "-b", &path], run, &[&id]].concat());
    let container = host.container(&id, &bundle.rootfs());
    container.reports();
    container
}

fn exec(host: &Host, container: &Container<'_>, flags: &[&str]) -> Value {
    let args = [&["exec"], flags, &[container.id(), "/workload", "inspect"]].concat();
    let text = host.migrate(&args).succeeded();
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("not JSON: {e}\n{text}"))
}

fn name_of(keyring: &Value) -> String {
    keyring.as_str().and_then(|text| text.split(';').nth(4)).unwrap_or_default().to_owned()
}

fn permissions_of(keyring: &Value) -> u32 {
    let text = keyring.as_str().and_then(|text| text.split(';').nth(3)).unwrap_or_default();
    u32::from_str_radix(text, 16).unwrap_or_else(|e| panic!("{keyring}: {e}"))
}

#[test]
fn a_container_has_a_session_keyring_that_its_processes_share() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let bundle = Bundle::of_workload(&host, "counter", &[]);
    let container = running(&stage, &host, &[], &bundle);
    let first = exec(&host, &container, &[]);
    assert_eq!(name_of(&first["keyring"]), format!("_ses.{}", container.id()));
    assert_ne!(permissions_of(&first["keyring"]) & 0x80000, 0, "its user may find it: {first}");
    let second = exec(&host, &container, &["--user", "1000:1000"]);
    assert_eq!(second["keyring"], first["keyring"], "one keyring, not two of one name");
    container.end();
}

#[test]
fn a_keyring_of_a_user_namespace_is_found_by_exec() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let bundle = Bundle::of_workload(&host, "counter", &[]).in_user_namespace(100_000, 65_536);
    let container = running(&stage, &host, &[], &bundle);
    let seen = exec(&host, &container, &[]);
    assert_eq!(name_of(&seen["keyring"]), format!("_ses.{}", container.id()));
    assert_ne!(permissions_of(&seen["keyring"]) & 0x8, 0, "who comes from outside may find it: {seen}");
    container.end();
}

#[test]
fn a_container_that_shall_have_no_keyring_keeps_the_callers() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let own = |id: &str| format!("_ses.{}", stage.id(id));
    let seen = Inspection::with(&stage, &host, &["--no-new-keyring"], &[], |_| {});
    assert_ne!(name_of(&seen["keyring"]), own("inspect"));
    let bundle = Bundle::of_workload(&host, "counter", &[]);
    let container = running(&stage, &host, &["--no-new-keyring"], &bundle);
    assert_ne!(name_of(&exec(&host, &container, &[])["keyring"]), own("lives"));
    container.end();
}

#[test]
fn security_modules_that_are_not_there_are_told_by_the_field() {
    let Some(stage) = Stage::set(&[]) else { return };
    if std::fs::exists("/sys/module/apparmor/parameters/enabled").unwrap_or(true) {
        return;
    }
    let host = stage.host("a");
    for (field, value, said) in [
        ("apparmorProfile", "web", "apparmor: config provided but apparmor not supported"),
        ("selinuxLabel", "a:b:c:s0", "selinux label is specified in config, but selinux is disabled"),
    ] {
        let bundle =
            Bundle::new(&host, "lsm", &["exit"]).edit(|config| config["process"][field] = json!(value));
        let output = host.migrate(&["run", "-b", &bundle.path(), &stage.id("lsm")]);
        output.failed(1, &[&format!("process.{field}"), said]);
        host.assert_no_trace();
        bundle.remove();
    }
    let bundle = Bundle::of_workload(&host, "counter", &[]);
    let container = running(&stage, &host, &[], &bundle);
    let args = ["exec", "--apparmor", "web", container.id(), "/workload", "exit"];
    host.migrate(&args).failed(255, &["process.apparmorProfile"]);
    container.end();
}

#[test]
fn capability_sets_are_as_the_configuration_says() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    // The numbers of linux/capability.h.
    let bits = |numbers: &[u32]| format!("{:016x}", numbers.iter().fold(0u64, |all, n| all | 1 << n));
    let edit = |uid: u32| {
        move |config: &mut Value| {
            config["process"]["user"] = json!({"uid": uid, "gid": uid});
            config["process"]["noNewPrivileges"] = json!(false);
            config["process"]["capabilities"] = json!({
                "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_FROM_THE_FUTURE"],
                "permitted": ["CAP_CHOWN", "CAP_KILL"],
                "effective": ["CAP_CHOWN"],
                "inheritable": ["CAP_KILL", "CAP_CHOWN"],
                // Not in every set, so the kernel does not raise it.
                "ambient": ["CAP_KILL", "CAP_SETUID"],
            });
        }
    };
    let seen = Inspection::of(&stage, &host, &[], edit(1000));
    let status = &seen["status"];
    assert_eq!(status["CapBnd"], json!(bits(&[0, 5, 7])));
    assert_eq!(status["CapInh"], json!(bits(&[0, 5])));
    for set in ["CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(status[set], json!(bits(&[5])), "{set}: what is ambient outlives the program's start");
    }
    let bundle = Bundle::new(&host, "ambient", &["exit"]).edit(edit(1000));
    let log = host.path("ambient.log");
    host.migrate(&["--log", &log, "run", "-b", &bundle.path(), &stage.id("ambient")]).succeeded();
    let log = std::fs::read_to_string(log).expect("read the log");
    assert_eq!(log.matches("can't raise ambient capability").count(), 1, "{log}");
    assert!(log.contains("can't raise ambient capability CAP_SETUID: operation not permitted"), "{log}");
    let seen = Inspection::of(&stage, &host, &[], edit(0));
    // Root's program gets what is bounding or inheritable (capabilities(7)).
    assert_eq!(seen["status"]["CapBnd"], json!(bits(&[0, 5, 7])));
    assert_eq!(seen["status"]["CapEff"], json!(bits(&[0, 5, 7])));
}

#[test]
fn cache_and_bandwidth_need_a_machine_that_divides_them() {
    let Some(stage) = Stage::set(&[]) else { return };
    if std::fs::read_to_string("/proc/mounts").expect("read /proc/mounts").contains(" resctrl ") {
        return;
    }
    let host = stage.host("a");
    let bundle = Bundle::new(&host, "rdt", &["exit"])
        .edit(|config| config["linux"]["intelRdt"] = json!({"closID": "x", "l3CacheSchema": "L3:0=f"}));
    let output = host.migrate(&["run", "-b", &bundle.path(), &stage.id("rdt")]);
    output.failed(1, &["`linux.intelRdt`", "Intel RDT is not supported or enabled"]);
    host.assert_no_trace();
}

#[test]
fn capabilities_that_the_runtime_does_not_have_are_named() {
    let Some(stage) = Stage::set(&[]) else { return };
    const SYS_RESOURCE: u64 = 1 << 24;
    let status = std::fs::read_to_string("/proc/self/status").expect("read /proc/self/status");
    let own = status.lines().find_map(|line| line.strip_prefix("CapPrm:")).expect("the line");
    if u64::from_str_radix(own.trim(), 16).expect("hexadecimal") & SYS_RESOURCE != 0 {
        return;
    }
    let host = stage.host("a");
    let bundle = Bundle::new(&host, "caps", &["exit"]).edit(|config| {
        let list = json!(["CAP_KILL", "CAP_SYS_RESOURCE"]);
        config["process"]["capabilities"] = json!({"bounding": list, "permitted": list, "effective": list});
    });
    let output = host.migrate(&["run", "-b", &bundle.path(), &stage.id("caps")]);
    let said = output.failed(1, &["unable to apply caps"]);
    assert!(said.contains("hint: this runtime itself does not have CAP_SYS_RESOURCE"), "{said}");
    host.assert_no_trace();
}
