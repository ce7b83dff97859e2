// SPDX-License-Identifier: Apache-2.0
//! The cases, as data. In a command line `{id}` is the container's id, `@NAME` a bundle of `bundles.rs`, `{dir}` a
//! directory for files, and what is between single quotes one word. `;` separates command lines; `await STATUS` is none
//! but waits until the container has that status.

/// Which of the tests has the case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Topic {
    Life,
    Exec,
    Bundles,
    Output,
    Flags,
}

/// What there is before the first command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Given {
    Nothing,
    Created,
    Running,
    Paused,
    Stopped,
}

/// What is compared besides exit codes and errors. The numbers of what the topic [`Topic::Output`] prints are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// Standard output: the shape of JSON, else the text.
    Stdout,
    /// Nothing: help is in words of our own.
    NoStdout,
    /// This file of `{dir}`, every value in it.
    File(&'static str),
    /// The one line of this log in `{dir}`: its message is the error.
    Log(&'static str),
}

/// One case.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Case {
    pub(crate) topic: Topic,
    pub(crate) name: &'static str,
    pub(crate) given: Given,
    pub(crate) lines: &'static str,
    pub(crate) look: Look,
}

const fn case(topic: Topic, name: &'static str, given: Given, lines: &'static str) -> Case {
    Case { topic, name, given, lines, look: Look::Stdout }
}

const fn looking(look: Look, case: Case) -> Case {
    Case { look, ..case }
}

use Given::{Created, Nothing, Paused, Running, Stopped};
use Topic::{Bundles, Exec, Flags, Life, Output};

pub(crate) const CASES: &[Case] = &[
    case(Life, "run to the end", Nothing, "run -b @echo {id}; state {id}"),
    case(Life, "run: exit code", Nothing, "run -b @exit-7 {id}"),
    case(Life, "run: killed", Nothing, "run -b @killed {id}"),
    case(Life, "run --keep", Nothing, "run --keep -b @exit-7 {id}; state {id}; delete {id}; state {id}"),
    case(Life, "run --detach", Nothing, "run --detach -b @sleep {id}; state {id}"),
    case(
        Life,
        "create, start, kill, delete",
        Nothing,
        "create -b @sleep {id}; state {id}; start {id}; state {id}; kill {id} KILL; await stopped; state {id}; delete {id}; state {id}",
    ),
    case(Life, "create twice", Created, "create -b @sleep {id}; state {id}"),
    case(Life, "run twice", Running, "run -b @sleep {id}; state {id}"),
    case(Life, "run over a stopped one", Stopped, "run -b @sleep {id}"),
    case(Life, "start twice", Created, "start {id}; start {id}"),
    case(Life, "start of a paused one", Paused, "start {id}"),
    case(Life, "start of a stopped one", Stopped, "start {id}"),
    case(Life, "start of none", Nothing, "start {id}"),
    case(Life, "kill by number", Running, "kill {id} 9; await stopped; state {id}"),
    case(Life, "kill by short name", Running, "kill {id} KILL; await stopped"),
    case(Life, "kill by long name", Running, "kill {id} SIGKILL; await stopped"),
    case(Life, "kill by name in lower case", Running, "kill {id} kill; await stopped"),
    case(Life, "kill --all", Running, "kill --all {id} KILL; await stopped"),
    case(Life, "kill -a, stopped", Stopped, "kill -a {id} KILL"),
    case(Life, "kill with signal 0", Running, "kill {id} 0; state {id}"),
    case(Life, "kill with an unknown name", Running, "kill {id} NONE"),
    case(Life, "kill with a wild number", Running, "kill {id} 12345"),
    case(Life, "kill of a created one", Created, "kill {id} KILL; await stopped; state {id}"),
    case(Life, "kill of a paused one", Paused, "kill {id} KILL; await stopped; resume {id}"),
    case(Life, "kill of a stopped one", Stopped, "kill {id} TERM"),
    case(Life, "kill of none", Nothing, "kill {id} TERM"),
    case(Life, "delete of a created one", Created, "delete {id}; state {id}"),
    case(Life, "delete of a running one", Running, "delete {id}; state {id}"),
    case(Life, "delete of a paused one", Paused, "delete {id}"),
    case(Life, "delete of a stopped one", Stopped, "delete {id}; delete {id}"),
    case(Life, "delete of none", Nothing, "delete {id}"),
    case(Life, "delete --force of a running one", Running, "delete --force {id}; state {id}"),
    case(Life, "delete --force of a paused one", Paused, "delete --force {id}; state {id}"),
    case(Life, "delete --force of none", Nothing, "delete --force {id}"),
    case(Life, "pause and resume", Running, "pause {id}; state {id}; resume {id}; state {id}"),
    case(Life, "pause of a paused one", Paused, "pause {id}"),
    case(Life, "pause of a created one", Created, "pause {id}; state {id}; resume {id}; state {id}"),
    case(Life, "pause of a stopped one", Stopped, "pause {id}"),
    case(Life, "pause of none", Nothing, "pause {id}"),
    case(Life, "resume of a running one", Running, "resume {id}"),
    case(Life, "resume of a stopped one", Stopped, "resume {id}"),
    case(Life, "resume of none", Nothing, "resume {id}"),
    case(Life, "update", Running, "update --pids-limit 20 {id}"),
    case(Life, "update of a stopped one", Stopped, "update --pids-limit 20 {id}"),
    case(Life, "update of none", Nothing, "update --pids-limit 20 {id}"),
    case(Life, "update with a bad size", Running, "update --memory much {id}"),
    case(Life, "update with a bad number", Running, "update --cpu-quota much {id}"),
    case(Life, "update --resources of no file", Running, "update --resources {dir}/none {id}"),
    case(Exec, "exec", Running, "exec {id} echo hello"),
    case(Exec, "exec: exit code", Running, "exec {id} sh -c 'exit 5'"),
    case(Exec, "exec: killed", Running, "exec {id} sh -c 'kill -TERM $$'"),
    case(Exec, "exec: flags of the program", Running, "exec {id} echo -n --help"),
    case(Exec, "exec: flags after the id", Running, "exec {id} -d true"),
    case(Exec, "exec: no such program", Running, "exec {id} none"),
    case(Exec, "exec: no such path", Running, "exec {id} /none"),
    case(Exec, "exec: not executable", Running, "exec {id} /etc/passwd"),
    case(Exec, "exec: a directory", Running, "exec {id} /etc"),
    case(Exec, "exec: no interpreter", Running, "exec {id} /bin/script"),
    case(Exec, "exec: no program", Running, "exec {id}"),
    case(Exec, "exec --cwd", Running, "exec --cwd /tmp {id} sh -c 'echo $PWD'"),
    case(Exec, "exec --cwd that is not there", Running, "exec --cwd /none {id} true"),
    case(Exec, "exec --cwd relative", Running, "exec --cwd tmp {id} true"),
    case(
        Exec,
        "exec --env",
        Running,
        "exec -e A=1 -e B=2 -e A=3 {id} sh -c 'echo $A$B'; exec --env A=1 -e B=2 {id} sh -c 'echo $A$B'",
    ),
    case(Exec, "exec --user", Running, "exec --user 5:6 {id} id"),
    case(Exec, "exec --user and groups", Running, "exec -u 5:6 -g 7 -g 8 {id} id"),
    case(Exec, "exec --user unknown", Running, "exec --user nobody {id} id"),
    case(Exec, "exec --cap", Running, "exec --cap CAP_KILL {id} grep Cap /proc/self/status"),
    case(Exec, "exec --cap unknown", Running, "exec --cap CAP_NONE {id} true"),
    case(Exec, "exec --tty without a terminal", Running, "exec -t -d {id} true"),
    case(Exec, "exec --process of no file", Running, "exec --process {dir}/none {id}"),
    case(Exec, "exec --process and a program", Running, "exec --process @process.json {id} true"),
    case(Exec, "exec in a created one", Created, "exec {id} echo hello"),
    case(Exec, "exec in a paused one", Paused, "exec {id} true"),
    case(Exec, "exec in a stopped one", Stopped, "exec {id} true"),
    case(Exec, "exec in none", Nothing, "exec {id} true"),
    case(Bundles, "no bundle", Nothing, "run -d -b @none {id}"),
    case(Bundles, "no config.json", Nothing, "run -d -b @empty {id}"),
    case(Bundles, "not JSON", Nothing, "run -d -b @not-json {id}"),
    case(Bundles, "not an object", Nothing, "run -d -b @not-an-object {id}"),
    case(Bundles, "wrong type", Nothing, "run -d -b @wrong-type {id}"),
    case(Bundles, "no such path", Nothing, "run -d -b @no-such-path {id}; state {id}"),
    case(Bundles, "create: no such path", Nothing, "create -b @no-such-path {id}; state {id}"),
    case(Bundles, "not in $PATH", Nothing, "run -d -b @not-in-path {id}"),
    case(Bundles, "a directory", Nothing, "run -d -b @directory {id}"),
    case(Bundles, "not executable", Nothing, "run -d -b @not-executable {id}"),
    case(Bundles, "no interpreter", Nothing, "run -d -b @no-interpreter {id}"),
    case(Bundles, "no args", Nothing, "run -d -b @no-args {id}"),
    case(Bundles, "empty arg", Nothing, "run -d -b @empty-arg {id}"),
    case(Bundles, "no process", Nothing, "run -d -b @no-process {id}"),
    case(Bundles, "no root", Nothing, "run -d -b @no-root {id}"),
    case(Bundles, "missing root", Nothing, "run -d -b @missing-root {id}"),
    case(Bundles, "no linux", Nothing, "run -d -b @no-linux {id}"),
    case(Bundles, "no such cwd", Nothing, "run -d -b @no-cwd {id}"),
    case(Bundles, "root missing at create", Nothing, "create -b @missing-root {id}"),
    case(Bundles, "relative cwd", Nothing, "run -d -b @relative-cwd {id}"),
    case(Bundles, "a terminal for a detached one", Nothing, "run -d -b @terminal {id}"),
    case(Bundles, "no version", Nothing, "run -d -b @no-version {id}"),
    case(Bundles, "bad version", Nothing, "run -d -b @bad-version {id}"),
    case(Bundles, "unknown rlimit", Nothing, "run -d -b @bad-rlimit {id}"),
    case(Bundles, "unknown capability", Nothing, "run -d -b @bad-capability {id}"),
    case(Bundles, "unknown namespace", Nothing, "run -d -b @bad-namespace {id}"),
    case(Bundles, "a namespace twice", Nothing, "run -d -b @double-namespace {id}"),
    case(Bundles, "missing namespace", Nothing, "run -d -b @missing-namespace {id}"),
    case(Bundles, "missing mount source", Nothing, "run -d -b @missing-mount {id}"),
    case(Bundles, "relative mount", Nothing, "run -d -b @relative-mount {id}"),
    case(Bundles, "a hostname without its namespace", Nothing, "run -d -b @hostname {id}"),
    case(Bundles, "unknown sysctl", Nothing, "run -d -b @sysctl {id}"),
    case(Bundles, "a sysctl of the host", Nothing, "run -d -b @host-sysctl {id}"),
    case(Bundles, "failing hook", Nothing, "run -d -b @failing-hook {id}; state {id}"),
    case(Bundles, "missing hook", Nothing, "run -d -b @missing-hook {id}"),
    case(Output, "state of a created one", Created, "state {id}"),
    case(Output, "state of a running one", Running, "state {id}"),
    case(Output, "state of a paused one", Paused, "state {id}"),
    case(Output, "state of a stopped one", Stopped, "state {id}"),
    case(Output, "state of none", Nothing, "state {id}"),
    case(Output, "list of none", Nothing, "list; list -q; list -f json"),
    case(Output, "list", Running, "list"),
    case(Output, "list -q", Running, "list -q"),
    case(Output, "list --format json", Running, "list --format json"),
    case(Output, "list, stopped", Stopped, "list; list -f json"),
    case(Output, "list --format unknown", Nothing, "list --format yaml"),
    case(Output, "ps", Running, "ps {id}"),
    case(Output, "ps with arguments", Running, "ps {id} -o pid,args"),
    case(Output, "ps with bad arguments", Running, "ps {id} -o none"),
    case(Output, "ps without pids", Running, "ps {id} -o args"),
    case(Output, "ps --format json", Running, "ps --format json {id}"),
    case(Output, "ps --format unknown", Running, "ps --format yaml {id}"),
    case(Output, "ps of a stopped one", Stopped, "ps -f json {id}; ps {id}"),
    case(Output, "ps of none", Nothing, "ps {id}"),
    case(Output, "events --stats", Running, "events --stats {id}"),
    looking(Look::NoStdout, case(Output, "events --stats of a paused one", Paused, "events --stats {id}")),
    case(Output, "events --stats of a stopped one", Stopped, "events --stats {id}"),
    case(Output, "events of a stopped one", Stopped, "events {id}"),
    case(Output, "events of none", Nothing, "events --stats {id}"),
    case(Output, "events --interval 0", Running, "events --interval 0s {id}"),
    looking(Look::File("config.json"), case(Output, "spec", Nothing, "spec -b {dir}")),
    case(Output, "spec over another", Nothing, "spec -b @sleep"),
    case(Output, "spec without a bundle", Nothing, "spec -b @none"),
    case(Output, "features", Nothing, "features"),
    case(Output, "pid file", Nothing, "run -d --pid-file {dir}/pid -b @sleep {id}"),
    case(
        Output,
        "pid file in no directory",
        Nothing,
        "run -d --pid-file {dir}/none/pid -b @sleep {id}; state {id}",
    ),
    looking(Look::NoStdout, case(Flags, "no command", Nothing, "--debug=false")),
    looking(
        Look::NoStdout,
        case(Flags, "help", Nothing, "--help; -h; help; h; help run; run --help; run -h; checkpoint --help"),
    ),
    looking(Look::NoStdout, case(Flags, "help of none", Nothing, "help none")),
    looking(Look::NoStdout, case(Flags, "version", Nothing, "--version; -v; -version; --version=true")),
    looking(Look::NoStdout, case(Flags, "unknown command", Nothing, "none")),
    looking(Look::NoStdout, case(Flags, "abbreviated command", Nothing, "stat {id}; lis")),
    looking(
        Look::NoStdout,
        case(Flags, "unknown flag", Nothing, "--none state {id}; state --none {id}; run -x {id}"),
    ),
    looking(
        Look::NoStdout,
        case(Flags, "unknown flag after the id", Nothing, "state {id} --none; delete {id} --none"),
    ),
    looking(Look::NoStdout, case(Flags, "abbreviated flag", Nothing, "delete --forc {id}")),
    looking(Look::NoStdout, case(Flags, "letters together", Nothing, "run -db @sleep {id}")),
    looking(
        Look::NoStdout,
        case(
            Flags,
            "flag without a value",
            Nothing,
            "run {id} --bundle; --root; restore --lsm-mount-context",
        ),
    ),
    looking(Look::NoStdout, case(Flags, "bad flag syntax", Nothing, "---debug list; --=x list")),
    looking(
        Look::NoStdout,
        case(
            Flags,
            "no id",
            Nothing,
            "state; run; create; start; delete; pause; resume; ps; exec; update; events; kill; checkpoint; restore",
        ),
    ),
    looking(
        Look::NoStdout,
        case(
            Flags,
            "too many arguments",
            Nothing,
            "state a b; list a; kill a b c; delete a b; spec a; features a; pause a b",
        ),
    ),
    looking(Look::NoStdout, case(Flags, "empty id", Nothing, "state ''; create -b @sleep ''")),
    case(Flags, "bad id", Nothing, "create -b @sleep a/b; state ..; state a/b; create -b @sleep 'a b'"),
    case(
        Flags,
        "one dash",
        Running,
        "-debug=false state -- {id}; kill {id} -- KILL; await stopped; delete -force {id}",
    ),
    case(Flags, "a switch with a value", Running, "delete --force=false {id}; delete --force=T {id}"),
    looking(Look::NoStdout, case(Flags, "a switch with a bad value", Running, "delete --force=maybe {id}")),
    case(
        Flags,
        "a flag twice",
        Nothing,
        "run --detach --detach -b @none -b @sleep {id}; delete -f --force {id}",
    ),
    case(Flags, "flags after the id", Nothing, "run {id} -b @echo; run {id} --bundle=@none"),
    case(Flags, "a flag that is the value of another", Nothing, "run -b --detach {id}"),
    looking(
        Look::NoStdout,
        case(
            Flags,
            "a bad number",
            Running,
            "exec --preserve-fds many {id} true; run --preserve-fds=x -b @echo {id}",
        ),
    ),
    looking(Look::NoStdout, case(Flags, "a bad duration", Running, "events --stats --interval soon {id}")),
    case(Flags, "log in a form that is none", Nothing, "--log-format xml list"),
    case(Flags, "log that cannot be", Nothing, "--log {dir}/none/log list"),
    case(Flags, "--rootless", Nothing, "--rootless true list; --rootless maybe list; --rootless= list"),
    case(Flags, "--systemd-cgroup without systemd", Nothing, "--systemd-cgroup run -b @echo {id}"),
    looking(
        Look::Log("log"),
        case(Flags, "log line", Nothing, "--log {dir}/log --log-format json state {id}"),
    ),
    looking(
        Look::Log("text.log"),
        case(Flags, "log line in text", Nothing, "--log {dir}/text.log state {id}"),
    ),
];
