// SPDX-License-Identifier: Apache-2.0
//! `--version`: ours, and those of what we build on.

use super::output;
use crate::Result;
use crate::criu::Criu;
use crate::engine::seccomp_features;
use crate::spec::OCI_VERSION;

/// The program's own version.
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The commit that it was built from; `unknown` when the build could not tell.
pub(super) const COMMIT: &str = env!("MIGRATE_COMMIT");
/// The runc whose command line this one is. Programs that look for `runc version` compare numbers.
const RUNC: &str = "1.3.0";

pub(super) fn print(program: &str) -> Result<()> {
    let libseccomp = seccomp_features().libseccomp.unwrap_or_else(|| "not known".to_owned());
    output::text(&text(program, &criu(), &libseccomp))
}

fn text(program: &str, criu: &str, libseccomp: &str) -> String {
    let first = match program {
        "runc" => format!("runc version {RUNC} (migrate {VERSION})"),
        _ => format!("migrate version {VERSION}"),
    };
    format!("{first}\ncommit: {COMMIT}\nspec: {OCI_VERSION}\ncriu: {criu}\nlibseccomp: {libseccomp}\n")
}

/// CRIU's version, or why there is none. No other command asks before it needs CRIU.
fn criu() -> String {
    let Ok(criu) = Criu::find(None) else { return "not found".to_owned() };
    match criu.ask_version() {
        Ok(version) => version.to_string(),
        Err(_) => format!("{} does not tell its version", criu.path().display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn under_the_name_of_runc_the_first_line_is_what_its_clients_look_for() {
        let lines = |program| text(program, "4.2.1", "2.5.4").lines().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(lines("runc")[0], format!("runc version 1.3.0 (migrate {VERSION})"));
        let ours = lines("migrate");
        assert_eq!(ours[0], format!("migrate version {VERSION}"));
        assert!(
            ours[1].starts_with("commit: ")
                && ours[2] == "spec: 1.3.0"
                && ours[3..] == ["criu: 4.2.1", "libseccomp: 2.5.4"]
        );
    }
}
