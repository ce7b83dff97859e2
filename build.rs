// SPDX-License-Identifier: Apache-2.0
//! Turns our own `.proto` files into Rust, without a `protoc` on the user's machine, tells the program its commit, and has
//! libseccomp linked into the program where its archive is there: one shared library less to look for at each start.

use std::path::{Path, PathBuf};
use std::process::Command;

use protobuf_codegen::{Codegen, Customize};

fn main() {
    tell_commit();
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=proto");
    Codegen::new()
        .pure()
        .include("proto")
        .inputs(["proto/criu_images.proto", "proto/criu_stats.proto"])
        // Messages only: nobody asks them for their own description.
        .customize(Customize::default().lite_runtime(true).generate_accessors(false))
        .cargo_out_dir("proto")
        .run_from_script();
    prefer_static("libseccomp.a");
}

/// Names the linker a directory before all others that has this archive and not the shared library beside it.
fn prefer_static(archive: &str) {
    println!("cargo:rerun-if-env-changed=LIBSECCOMP_LINK_TYPE");
    // Who says how to link it has the word.
    if std::env::var_os("LIBSECCOMP_LINK_TYPE").is_some() {
        return;
    }
    let Some(found) = find(archive) else { return };
    println!("cargo:rerun-if-changed={}", found.display());
    let directory = Path::new(&std::env::var_os("OUT_DIR").expect("cargo sets it")).join("static");
    std::fs::create_dir_all(&directory).expect("OUT_DIR can be written to");
    let copy = directory.join(archive);
    std::fs::copy(&found, &copy).unwrap_or_else(|e| panic!("copy {}: {e}", found.display()));
    println!("cargo:rustc-link-search=native={}", directory.display());
}

/// Where the C compiler has it, if anywhere.
fn find(archive: &str) -> Option<PathBuf> {
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let output = Command::new(compiler).arg(format!("-print-file-name={archive}")).output().ok()?;
    let path = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim_end());
    // A name without a directory says that there is none.
    (output.status.success() && path.is_absolute()).then_some(path)
}

/// `MIGRATE_COMMIT` for `--version`: as the environment has it (a package is built without a repository), else what git
/// says, else `unknown`. Only a release build follows each commit: the others are built too often.
fn tell_commit() {
    println!("cargo:rerun-if-env-changed=MIGRATE_COMMIT");
    let release = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let commit = std::env::var("MIGRATE_COMMIT").ok().filter(|commit| !commit.is_empty());
    let commit = commit.or_else(|| {
        if !release {
            return Some("development build".to_owned());
        }
        for file in ["HEAD", "logs/HEAD"] {
            let path = git(&["rev-parse", "--git-path", file])?;
            if Path::new(&path).exists() {
                println!("cargo:rerun-if-changed={path}");
            }
        }
        git(&["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"])
    });
    println!("cargo:rustc-env=MIGRATE_COMMIT={}", commit.as_deref().unwrap_or("unknown"));
}

/// What git answers; nothing without git or outside of a repository.
fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}
