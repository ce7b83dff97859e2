// SPDX-License-Identifier: Apache-2.0
//! The README and the manual page say what the program says: its commands, each one's flags, its exit codes. And the
//! files that the documents point to are there.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const DOCUMENTS: [&str; 20] = [
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "SECURITY.md",
    "docs/archive-format.md",
    "docs/engine-support.md",
    "docs/registries.md",
    "docs/setup.md",
    "docs/podman.md",
    "docs/containerd.md",
    "docs/differences-from-runc.md",
    "docs/vm-lab.md",
    "docs/criu-limits.md",
    "docs/diagnoses.md",
    "docs/moving.md",
    "docs/live-migration.md",
    "docs/agent.md",
    "docs/ci/README.md",
    "docs/inspect.md",
    "docs/migration.md",
];

fn migrate(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_migrate")).args(args).env_clear().output().expect("migrate starts")
}

fn help(args: &[&str]) -> String {
    let output = migrate(&[args, &["--help"]].concat());
    assert!(output.status.success(), "{args:?} has no help");
    String::from_utf8(output.stdout).expect("help is text")
}

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The names in the list of commands.
fn commands() -> Vec<String> {
    let help = help(&[]);
    let list =
        help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names = list.filter_map(|line| line.split_whitespace().next().map(str::to_owned));
    let names: Vec<String> = names.filter(|name| name != "help").collect();
    assert!(names.len() >= 14, "only {names:?}");
    names
}

/// The flags that a help text lists, in their long form, without those that every command has. What follows two spaces
/// is the explanation.
fn flags(help: &str) -> BTreeSet<String> {
    let lines = help.lines().map(str::trim_start).filter(|line| line.starts_with('-'));
    let flags = lines.filter_map(|line| line.split("  ").next());
    flags.flat_map(long_flags).filter(|flag| !["--help", "--version"].contains(&flag.as_str())).collect()
}

/// Everything in a text that looks like a long flag.
fn long_flags(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_lowercase() || c == '-';
    let words = text.split(|c: char| !is_part(c));
    let flags = words.filter(|word| word.starts_with("--") && word.trim_matches('-').len() > 1);
    flags.map(str::to_owned).collect()
}

/// The manual page, with its hyphens as hyphens.
fn manual() -> String {
    read("docs/man/migrate.1").replace("\\-", "-")
}

/// What the manual page says beneath a heading.
fn section<'a>(manual: &'a str, heading: &str) -> &'a str {
    let start = manual.find(heading).unwrap_or_else(|| panic!("the manual page has no {heading:?}"));
    let body = &manual[start + heading.len()..];
    let end = body.find("\n.S").unwrap_or(body.len());
    &body[..end]
}

/// The README's row about a command.
fn row<'a>(readme: &'a str, command: &str) -> &'a str {
    let start = format!("| `{command}` |");
    readme.lines().find(|line| line.starts_with(&start)).unwrap_or_else(|| panic!("no row {start}"))
}

#[test]
fn every_command_and_flag_is_documented_and_no_other() {
    // A command without arguments has nothing behind its name in the heading.
    let (manual, readme) = (manual().replace('\n', " \n"), read("README.md"));
    for command in commands() {
        let flags = flags(&help(&[&command]));
        let told = long_flags(section(&manual, &format!("\n.SS {command} ")));
        let missing: Vec<_> = flags.difference(&told).collect();
        assert!(missing.is_empty(), "the manual page lacks {missing:?} of {command}");
        let told = long_flags(row(&readme, &command));
        assert_eq!(told, flags, "the README's flags of {command} (left) are not the program's (right)");
    }
}

#[test]
fn every_global_flag_is_documented() {
    let flags = flags(&help(&[]));
    assert!(flags.contains("--root"), "{flags:?}");
    let manual = manual();
    let readme = read("README.md");
    let line =
        readme.lines().find(|line| line.starts_with("Before the command:")).expect("the README's line");
    for (told, document) in [(section(&manual, "\n.SH GLOBAL OPTIONS"), "manual page"), (line, "README")] {
        let missing: Vec<_> = flags.difference(&long_flags(told)).cloned().collect();
        assert!(missing.is_empty(), "the {document} lacks {missing:?}");
    }
}

#[test]
fn every_exit_code_is_documented() {
    let help = help(&[]);
    let codes =
        help.lines().find_map(|line| line.strip_prefix("Exit codes: ")).expect("help tells exit codes");
    let codes: Vec<&str> = codes
        .split("; ")
        .filter_map(|part| part.split(' ').next().filter(|word| word.parse::<u8>().is_ok()))
        .collect();
    assert!(codes.len() >= 7, "only {codes:?}");
    let (manual, readme) = (manual(), read("README.md"));
    let exit_status = section(&manual, "\n.SH EXIT STATUS");
    let (_, readme) = readme.split_once("## Exit codes").expect("the README's section");
    for code in codes {
        assert!(exit_status.contains(&format!("\n.B {code}\n")), "the manual page lacks exit code {code}");
        assert!(readme.contains(&format!("\n| {code} | ")), "the README lacks exit code {code}");
    }
}

#[test]
fn links_lead_to_files() {
    for document in DOCUMENTS {
        let text = read(document);
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(document);
        let directory = directory.parent().expect("a document lies in a directory");
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = link.split('#').next().unwrap_or_default();
            if path.is_empty() || path.contains("://") {
                continue;
            }
            assert!(directory.join(path).exists(), "{document} points to {link}, which is not there");
        }
    }
}

/// The templates call scripts that there are, with the compiler that the project needs, and what they copy from is made.
#[test]
fn templates_for_ci_name_what_there_is() {
    use std::os::unix::fs::PermissionsExt as _;
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let wanted = ["github-actions.yml", "gitlab-ci.yml", "Containerfile"];
    for name in wanted {
        let text = read(&format!("docs/ci/{name}"));
        let words = text.split(|c: char| c.is_whitespace() || c == '"');
        let scripts: BTreeSet<&str> = words.filter(|word| word.starts_with("scripts/")).collect();
        assert!(scripts.contains("scripts/setup"), "{name} installs CRIU: {scripts:?}");
        for script in scripts {
            let mode = fs::metadata(top.join(script))
                .unwrap_or_else(|e| panic!("{name}: {script}: {e}"))
                .permissions();
            assert_ne!(mode.mode() & 0o111, 0, "{name}: {script} can be executed");
        }
        let compiler = concat!("rust:", env!("CARGO_PKG_RUST_VERSION"), "-");
        assert!(!text.contains("rust:") || text.contains(compiler), "{name} names {compiler}…");
    }
    let container = read("docs/ci/Containerfile");
    assert!(
        container.contains("COPY --from=build /opt/migrate-criu /opt/migrate-criu"),
        "the prefix of scripts/setup"
    );
    let needs = read("docs/setup.md");
    for package in ["iptables", "nftables"] {
        assert!(container.contains(package) && needs.contains(package), "{package} is needed at run time");
    }
}

/// The tests of a source file, by name.
fn tests_in(path: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let after_attribute = text.split("#[test]\n").skip(1);
    after_attribute
        .filter_map(|rest| rest.split_once("fn ").and_then(|(_, rest)| rest.split_once('(')))
        .map(|(name, _)| name.to_owned())
        .collect()
}

/// What is said to be supported names the tests that show it; and there is no file of such tests that nobody names.
#[test]
fn what_is_supported_names_tests_that_exist() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = read("docs/engine-support.md");
    let mut named = BTreeSet::new();
    let mut rows = 0;
    for row in text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| capability")) {
        let shown_by = row.rsplit(" | ").next().unwrap_or_default();
        let tests: Vec<_> = shown_by.split('`').skip(1).step_by(2).collect();
        assert!(!tests.is_empty(), "no test shows this: {row}");
        for test in tests {
            let (file, name) = test.split_once("::").unwrap_or_else(|| panic!("{test} is not file::test"));
            let path = if file.starts_with("src/") { top.join(file) } else { in_criu_tests(file) };
            assert!(path.exists(), "{file} is not there");
            assert!(name == "*" || tests_in(&path).contains(name), "{file} has no test {name}");
            named.insert(path);
        }
        rows += 1;
    }
    assert!(rows > 50, "only {rows} rows were found");
    let files = fs::read_dir(top.join("criu-tests/tests")).expect("criu-tests has tests");
    let files = files.map(|entry| entry.expect("a directory's entry").path());
    let forgotten: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|e| e == "rs") && !named.contains(path)).collect();
    assert!(forgotten.is_empty(), "docs/engine-support.md names no test of {forgotten:?}");
}

/// The README's table of what is supported names the files of tests that show it.
#[test]
fn the_readme_names_the_tests_of_what_it_supports() {
    let readme = read("README.md");
    let (_, table) = readme.split_once("\n| | today | tests |\n|---|---|---|\n").expect("the table");
    let rows: Vec<&str> = table.lines().take_while(|line| line.starts_with("| ")).collect();
    assert!(rows.len() > 15, "only {rows:?}");
    for row in rows {
        let tests = row.trim_end_matches(" |").rsplit(" | ").next().unwrap_or_default();
        for file in tests.split('`').skip(1).step_by(2) {
            assert!(in_criu_tests(file).exists(), "there is no file of tests {file}: {row}");
        }
        let claims = !row.contains("not tested");
        assert_eq!(tests.contains('`'), claims, "tests go with what is claimed, and with that only: {row}");
    }
}

fn in_criu_tests(file: &str) -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("criu-tests/tests");
    let single = tests.join(format!("{file}.rs"));
    if single.exists() { single } else { tests.join(file).join("main.rs") }
}

/// A rule of `migrate::diagnose` as a row of docs/diagnoses.md.
fn diagnosis_row(rule: &migrate::diagnose::Rule, shown: &str) -> String {
    use migrate::diagnose::Jobs;
    let cell = |text: &str| text.replace('|', "\\|").replace('\n', " ");
    let jobs = match rule.jobs {
        Jobs::Dump => "checkpoint",
        Jobs::Restore => "restore",
        Jobs::Both => "both",
    };
    let name = rule.name.replace('-', "_");
    let real =
        [format!("fn {name}()"), format!("\n    {name}: Obstacle")].iter().any(|words| shown.contains(words));
    let shown = if real { "a failure" } else { "a line" };
    let lines: Vec<_> =
        rule.after.iter().chain(rule.seen).map(|seen| format!("`{}`", cell(seen.trim()))).collect();
    format!(
        "| {} | {jobs} | {} | {} | {} | {shown} |",
        rule.name,
        cell(rule.cause),
        cell(rule.remedy),
        lines.join(" ")
    )
}

/// The table of docs/diagnoses.md is that of the program.
#[test]
fn every_diagnosis_is_documented() {
    let tests = ["main.rs", "checkpoints.rs", "restores.rs"];
    let shown: String = tests.map(|name| read(&format!("criu-tests/tests/diagnose/{name}"))).concat();
    let rules = migrate::diagnose::RULES.iter().flat_map(|list| list.iter());
    let rows: Vec<String> = rules.map(|rule| diagnosis_row(rule, &shown)).collect();
    assert!(rows.iter().filter(|row| row.ends_with("| a failure |")).count() >= 25, "few are shown for real");
    let told = read("docs/diagnoses.md");
    let head = "| rule | in | cause | remedy | CRIU's words | shown by |\n|---|---|---|---|---|---|\n";
    let (_, told) = told.split_once(head).expect("docs/diagnoses.md has the table");
    let told: Vec<&str> = told.lines().take_while(|line| line.starts_with('|')).collect();
    let wrong: Vec<_> = rows.iter().filter(|row| !told.contains(&row.as_str())).collect();
    let dead: Vec<_> = told.iter().filter(|row| !rows.iter().any(|known| known == *row)).collect();
    assert!(wrong.is_empty() && dead.is_empty(), "docs/diagnoses.md lacks {wrong:#?} and has {dead:#?}");
}
