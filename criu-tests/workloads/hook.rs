// SPDX-License-Identifier: Apache-2.0
//! `hook`: adds to `--log` one line of JSON with what a hook sees: `--name`, the state on its stdin, its environment,
//! directory, descriptors and namespaces. Then it ends with `--code`, after `--say` on stdout and `--complain` on stderr.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{Read as _, Write as _};

use serde_json::{Value, json};

use crate::inspect::links;
use crate::lifecycle::{Checked, During as _};
use crate::options::Options;

pub(crate) fn run(options: &Options) -> Checked {
    let mut input = String::new();
    std::io::stdin().read_to_string(&mut input).during("read stdin")?;
    let state: Value = serde_json::from_str(&input).during("the state on stdin")?;
    let line = json!({
        "name": options.value("name"),
        "state": state,
        "env": std::env::vars().collect::<BTreeMap<_, _>>(),
        "cwd": std::env::current_dir().during("getcwd")?,
        "fds": links("/proc/self/fd")?.into_keys().collect::<Vec<_>>(),
        "namespaces": links("/proc/self/ns")?,
        "uid": nix::unistd::getuid().as_raw(),
    });
    let log = options.value("log").ok_or("--log FILE is missing")?;
    let mut file = OpenOptions::new().append(true).create(true).open(log).during(log)?;
    file.write_all(format!("{line}\n").as_bytes()).during(log)?;
    if let Some(text) = options.value("say") {
        writeln!(std::io::stdout(), "{text}").during("write to stdout")?;
    }
    if let Some(text) = options.value("complain") {
        writeln!(std::io::stderr(), "{text}").during("write to stderr")?;
    }
    let code = options.number("code", 0)?;
    std::process::exit(i32::try_from(code).during("--code")?);
}
