// SPDX-License-Identifier: Apache-2.0
//! One of the two programs, and what comes of a case with it.

use std::fs;

use serde_json::Value;

use criu_tests::{Host, Output, PATIENCE, wait_until};

use crate::cases::{Case, Given, Look};

/// A program with a state root of its own.
pub(crate) struct Engine<'h> {
    host: &'h Host,
    program: String,
    /// A directory of the host for what it writes.
    directory: String,
    id: &'h str,
}

/// What one command line came to, without what changes from run to run.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The command line as the case has it.
    pub(crate) line: String,
    pub(crate) code: i32,
    pub(crate) stdout: String,
    /// The error, as the program words it; empty without one.
    pub(crate) error: String,
}

impl<'h> Engine<'h> {
    pub(crate) fn new(host: &'h Host, name: &str, program: &str, id: &'h str) -> Self {
        let directory = host.path(name);
        fs::create_dir_all(&directory).expect("make the program's directory");
        Self { host, program: program.to_owned(), directory, id }
    }

    /// Runs a case from nothing to nothing.
    pub(crate) fn run(&self, case: &Case) -> Vec<Outcome> {
        self.prepare(case.given);
        let mut outcomes = Vec::new();
        for line in case.lines.split(';').map(str::trim) {
            match line.split_once(' ') {
                Some(("await", status)) => self.wait(status),
                _ => outcomes.push(self.outcome(line)),
            }
        }
        let last = outcomes.last_mut().expect("a case has a command line");
        let read = |name: &str| fs::read_to_string(format!("{}/{name}", self.directory)).unwrap_or_default();
        match case.look {
            Look::File(name) => last.stdout = self.plain(&read(name)),
            Look::Log(name) => (last.stdout, last.error) = log_line(&self.plain(&read(name))),
            Look::Stdout | Look::NoStdout => {}
        }
        self.call(&["delete", "--force", self.id]);
        outcomes
    }

    fn prepare(&self, given: Given) {
        let bundle = |name: &str| self.host.path(&format!("bundles/{name}"));
        let detached = |args: &[&str]| {
            let output = self.command(args).without_stdio().run();
            assert_eq!(output.code, 0, "{args:?} with {}", self.program);
        };
        match given {
            Given::Nothing => {}
            Given::Created => detached(&["create", "-b", &bundle("sleep"), self.id]),
            Given::Running => {
                detached(&["run", "-d", "-b", &bundle("sleep"), self.id]);
                // It is the runtime's init still for a moment after runc has ended.
                wait_until(PATIENCE, "sleep runs", || {
                    let processes = self.host.processes();
                    let runs = processes.iter().any(|(_, line)| line == "sleep 1000");
                    if runs { Ok(()) } else { Err(processes) }
                });
            }
            Given::Paused => {
                self.prepare(Given::Running);
                detached(&["pause", self.id]);
            }
            Given::Stopped => {
                detached(&["run", "-d", "-b", &bundle("true"), self.id]);
                self.wait("stopped");
            }
        }
    }

    fn wait(&self, status: &str) {
        let wanted = format!("\"status\": \"{status}\"");
        wait_until(PATIENCE, status, || {
            let said = self.call(&["state", self.id]).stdout;
            if said.contains(&wanted) { Ok(()) } else { Err(said) }
        });
    }

    fn outcome(&self, line: &str) -> Outcome {
        let words: Vec<String> = words(line).iter().map(|word| self.filled(word)).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let Output { code, stdout, stderr, .. } = self.call(&words);
        Outcome {
            line: line.to_owned(),
            code,
            stdout: self.plain(&stdout),
            error: if code == 0 { String::new() } else { self.plain(&error(&stderr)) },
        }
    }

    fn call(&self, words: &[&str]) -> Output {
        self.command(words).run()
    }

    fn command(&self, words: &[&str]) -> criu_tests::Command {
        let root = format!("{}/state", self.directory);
        let mut argv = vec![self.program.as_str(), "--root", &root];
        argv.extend(words);
        self.host.command(&argv)
    }

    /// A word with what its placeholders stand for.
    fn filled(&self, word: &str) -> String {
        let word = word.replace('@', &self.host.path("bundles/"));
        word.replace("{id}", self.id).replace("{dir}", &self.directory)
    }

    /// The opposite. The document quotes with backticks.
    fn plain(&self, text: &str) -> String {
        let text = text.replace('`', "'").replace(self.id, "{id}").replace(&self.directory, "{dir}");
        text.replace(&self.host.path("bundles/"), "@")
            .replace(self.host.path("").trim_end_matches('/'), "{host}")
    }
}

/// A command line's words; blanks between single quotes do not end one.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (index, part) in line.split('\'').enumerate() {
        if index % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    words
}

/// The message of the error that ended a command: ours is marked, runc's the last line of its log or, when that goes to a
/// file, the only line.
fn error(stderr: &str) -> String {
    let ours = stderr.lines().find_map(|line| line.strip_prefix("error: ")).map(str::to_owned);
    let logged = || stderr.lines().rev().find_map(|line| line.split_once(" level=error msg="));
    let runcs = || logged().map(|(_, quoted)| unquoted(quoted));
    let message = ours.or_else(runcs).unwrap_or_else(|| stderr.lines().last().unwrap_or_default().to_owned());
    message.lines().next().unwrap_or_default().trim_end().to_owned()
}

/// A line of a log without its message, and that.
fn log_line(line: &str) -> (String, String) {
    if let Ok(Value::Object(mut line)) = serde_json::from_str(line) {
        let message = line.remove("msg").and_then(|message| message.as_str().map(str::to_owned));
        return (Value::Object(line).to_string(), message.unwrap_or_default());
    }
    let (rest, message) = line.trim_end().split_once(" msg=").unwrap_or((line, ""));
    (rest.to_owned(), unquoted(message))
}

/// Go quotes as JSON does, as far as these messages go, unless there is no need to.
fn unquoted(text: &str) -> String {
    serde_json::from_str(text).unwrap_or_else(|_| text.to_owned())
}
