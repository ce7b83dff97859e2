// SPDX-License-Identifier: Apache-2.0
//! Command lines, and what they mean to runc.

use std::ffi::OsString;

use proptest::prelude::*;

use super::*;

fn flag(names: &[&str], takes: Takes) -> Flag {
    Flag { names: names.iter().map(|name| (*name).to_owned()).collect(), takes }
}

fn grammar() -> Grammar {
    let command = |name: &str, flags: Vec<Flag>, least, most| Syntax {
        name: name.to_owned(),
        flags,
        arguments: Arguments { least, most },
    };
    Grammar {
        program: "runc".to_owned(),
        global: vec![
            flag(&["root"], Takes::Text),
            flag(&["debug"], Takes::Nothing),
            flag(&["log"], Takes::Text),
        ],
        commands: vec![
            command("state", vec![], 1, Some(1)),
            command("list", vec![flag(&["format", "f"], Takes::Value)], 0, Some(0)),
            command("kill", vec![flag(&["all", "a"], Takes::Nothing)], 1, Some(2)),
            command("delete", vec![flag(&["force", "f"], Takes::Nothing)], 1, Some(1)),
            command(
                "run",
                vec![
                    flag(&["bundle", "b"], Takes::Text),
                    flag(&["detach", "d"], Takes::Nothing),
                    flag(&["no-subreaper"], Takes::Nothing),
                    flag(&["preserve-fds"], Takes::Value),
                ],
                1,
                Some(1),
            ),
            command(
                "exec",
                vec![flag(&["env", "e"], Takes::Values), flag(&["detach", "d"], Takes::Nothing)],
                1,
                None,
            ),
        ],
    }
}

fn read(line: &str) -> Result<String, String> {
    let args: Vec<OsString> = line.split(' ').filter(|word| !word.is_empty()).map(OsString::from).collect();
    match grammar().read(&args) {
        Ok(Request::Run(line)) => {
            let words: Vec<_> = line.iter().map(|word| word.to_string_lossy()).collect();
            Ok(words.join(" "))
        }
        Ok(other) => Ok(format!("{other:?}")),
        Err(misuse) => Err(misuse.error.to_string()),
    }
}

#[test]
fn what_runc_takes_is_taken() {
    for (line, meaning) in [
        ("state x", "state -- x"),
        ("-root /r -debug state x", "--root=/r --debug state -- x"),
        ("--root=/r --root /s state x", "--root=/s state -- x"),
        ("--root= state x", "state -- x"),
        ("--debug=false state x", "state -- x"),
        ("--debug --debug=F state x", "state -- x"),
        ("-- state x", "state -- x"),
        ("state -- --debug", "state -- --debug"),
        ("run -no-subreaper --bundle b x", "run --no-subreaper --bundle=b -- x"),
        ("run -d -d=1 --detach=T x", "run --detach -- x"),
        ("run -b a=b x", "run --bundle=a=b -- x"),
        ("run -b=a=b x", "run --bundle=a=b -- x"),
        ("run -b --detach x", "run --bundle=--detach -- x"),
        ("run --preserve-fds= x", "run --preserve-fds= -- x"),
        ("delete x --force", "delete --force -- x"),
        ("delete x -f=true", "delete --force -- x"),
        ("run x -b b -d", "run --bundle=b --detach -- x"),
        ("kill x 9 -a", "kill --all -- x 9"),
        ("kill x -a 9", "kill --all -- x 9"),
        ("kill x -9", "kill -- x -9"),
        ("kill x -", "kill -- x -"),
        ("list json -f", "list --format=json"),
        ("exec x ls -d", "exec -- x ls -d"),
        ("exec x -d ls", "exec -- x -d ls"),
        ("exec -e A=1 --env B=2 -d x sh -c --", "exec --env=A=1 --env=B=2 --detach -- x sh -c --"),
        ("exec -- x -- ls", "exec -- x -- ls"),
        ("exec x --help", "exec -- x --help"),
    ] {
        assert_eq!(read(line), Ok(meaning.to_owned()), "{line}");
    }
}

#[test]
fn help_and_version() {
    let help = |command: &str| format!("Help(Some({command:?}))");
    for (line, meaning) in [
        ("", "Help(None)"),
        ("-h", "Help(None)"),
        ("--help", "Help(None)"),
        ("help", "Help(None)"),
        ("h", "Help(None)"),
        ("help state", &help("state")),
        ("h list", &help("list")),
        ("state --help", &help("state")),
        ("state x -h", &help("state")),
        ("exec -help", &help("exec")),
        ("-v", "Version"),
        ("--version", "Version"),
        ("--root /r --version=true state", "Version"),
    ] {
        assert_eq!(read(line), Ok(meaning.to_owned()), "{line}");
    }
}

#[test]
fn what_runc_refuses_is_refused_in_its_words() {
    for (line, words) in [
        ("--bogus", "flag provided but not defined: -bogus"),
        ("state --bogus x", "flag provided but not defined: -bogus"),
        ("state -v x", "flag provided but not defined: -v"),
        ("run --detac x", "flag provided but not defined: -detac"),
        ("run -db x", "flag provided but not defined: -db"),
        ("state ---x", "bad flag syntax: ---x"),
        ("state -=x", "bad flag syntax: -=x"),
        ("run -b", "flag needs an argument: -b"),
        ("--root", "flag needs an argument: -root"),
        ("delete --force=maybe x", "invalid boolean value \"maybe\" for -force: parse error"),
        ("delete --force= x", "invalid boolean value \"\" for -force: parse error"),
        ("state", "runc: \"state\" requires exactly 1 argument(s)"),
        ("state x y", "runc: \"state\" requires exactly 1 argument(s)"),
        ("state x --bogus", "runc: \"state\" requires exactly 1 argument(s)"),
        ("delete --force true x", "runc: \"delete\" requires exactly 1 argument(s)"),
        ("delete -- x -f", "runc: \"delete\" requires exactly 1 argument(s)"),
        ("run x -b", "runc: \"run\" requires exactly 1 argument(s)"),
        ("list x", "runc: \"list\" requires exactly 0 argument(s)"),
        ("kill", "runc: \"kill\" requires a minimum of 1 argument(s)"),
        ("kill x 9 1", "runc: \"kill\" requires a maximum of 2 argument(s)"),
        ("exec", "runc: \"exec\" requires a minimum of 1 argument(s)"),
        ("bogus", "No help topic for 'bogus'"),
        ("stat x", "No help topic for 'stat'"),
        ("foo -h", "No help topic for 'foo'"),
        ("help bogus", "No help topic for 'bogus'"),
    ] {
        assert_eq!(read(line), Err(words.to_owned()), "{line}");
    }
}

#[test]
fn a_misuse_tells_where_to_log_it() {
    let args = ["--log", "/l", "state"].map(OsString::from);
    let misuse = grammar().read(&args).expect_err("there is no id");
    assert_eq!(misuse.global, ["--log=/l"]);
    assert_eq!(misuse.error.hint(), Some("`runc state --help` tells what there is"));
}

#[test]
fn what_is_not_text_stays_as_it_is() {
    let name = OsString::from_vec(b"/\xff".to_vec());
    let args = ["run".into(), "-b".into(), name.clone(), "x".into()];
    let mut bundle = OsString::from("--bundle=");
    bundle.push(&name);
    let expected = Request::Run(vec!["run".into(), bundle, "--".into(), "x".into()]);
    assert_eq!(grammar().read(&args).expect("it is a path"), expected);
}

proptest! {
    /// What has been put into the one form stays in it, and nothing that is no flag gets lost or changes places.
    #[test]
    fn the_one_form_is_final(words in proptest::collection::vec(
        prop_oneof!["-{0,3}[a-z]{0,6}(=[a-z-]{0,3})?", Just("--".to_owned()), Just("--detach".to_owned()),
            Just("-d=false".to_owned()), Just("-b".to_owned()), Just("--env".to_owned()), Just("x".to_owned())],
        0..8), command in prop_oneof!["run", "exec", "kill", "delete", "state", "list"]) {
        let args: Vec<OsString> =
            std::iter::once(command).chain(words).map(OsString::from).collect();
        if let Ok(Request::Run(line)) = grammar().read(&args) {
            let again = grammar().read(&line).expect("the one form is good");
            prop_assert_eq!(&Request::Run(line.clone()), &again);
            let end = line.iter().position(|word| word == "--");
            let behind = end.map_or(&[][..], |at| &line[at + 1..]);
            let mut given = args.iter();
            prop_assert!(behind.iter().all(|word| given.any(|other| other == word)));
        }
    }
}
