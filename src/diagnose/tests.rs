// SPDX-License-Identifier: Apache-2.0
//! Every rule is reached by every line that it names; its sentences name nothing that the line does not tell; and what
//! recorded logs are explained as.

use super::pattern::names;
use super::*;
use crate::criu::Job;

/// What every sentence may name.
const ALWAYS: [&str; 4] = ["who", "fd", "id", "images"];

fn rules() -> impl Iterator<Item = &'static Rule> {
    RULES.iter().flat_map(|list| list.iter())
}

fn sample(name: &str) -> &'static str {
    match name {
        "pid" => "7",
        "host" => "4711",
        "number" | "fd" => "5",
        "size" | "is" | "was" => "100",
        "proto" => "136",
        "family" => "39",
        "image" => "/images/x.img",
        "signal" => "SIGTRAP",
        "" => "0",
        _ => "etc/x",
    }
}

/// A line as the pattern means it.
fn line(pattern: &'static str) -> String {
    let mut text = pattern.to_owned();
    for name in names(pattern) {
        text = text.replacen(&format!("{{{name}}}"), sample(name), 1);
    }
    if text.ends_with(' ') { text + "x" } else { text }
}

fn context(rule: &Rule) -> Context {
    let mut context = Context { id: "web".to_owned(), ..Context::default() };
    match rule.only {
        If::Always => {}
        If::OutOfMemory => context.out_of_memory = true,
        If::UserNamespace => context.user_namespace = true,
        If::Given(flag) => context.flags.push(flag),
        If::Open(target) => context.open.push(OpenFile { pid: 7, fd: 5, target: target.to_owned() }),
    }
    context
}

fn jobs(rule: &Rule) -> Vec<Job> {
    [Job::Dump, Job::Restore].into_iter().filter(|job| rule.jobs.include(*job)).collect()
}

#[test]
fn every_line_that_a_rule_names_leads_to_it() {
    assert!(rules().count() >= 100, "only {}", rules().count());
    let mut wrong = Vec::new();
    for rule in rules() {
        for (seen, job) in
            rule.seen.iter().flat_map(|seen| jobs(rule).into_iter().map(move |job| (seen, job)))
        {
            let before =
                rule.after.map_or(String::new(), |after| format!("Warn  (criu/a.c:1): {}\n", line(after)));
            let log = format!("{before}(00.1) Error (criu/b.c:2): {}\n", line(seen));
            let found = explain(job, log.as_bytes(), &context(rule)).map(|diagnosis| diagnosis.rule);
            if found != Some(rule.name) {
                wrong.push(format!("{log:?} leads to {found:?}, not to {}", rule.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn sentences_name_only_what_the_line_tells() {
    let mut known = std::collections::BTreeSet::new();
    for rule in rules() {
        assert!(known.insert(rule.name), "{} is there twice", rule.name);
        assert!(!rule.seen.is_empty() && !rule.cause.is_empty() && !rule.remedy.is_empty(), "{}", rule.name);
        for sentence in [rule.cause, rule.remedy] {
            assert!(!sentence.ends_with('.'), "{}: {sentence}", rule.name);
            for name in names(sentence).into_iter().filter(|name| !ALWAYS.contains(name)) {
                let told = |seen: &&'static str| names(seen).contains(&name);
                let after = rule.after.is_some_and(|after| names(after).contains(&name));
                assert!(after || rule.seen.iter().all(told), "{}: nothing tells {name}", rule.name);
            }
        }
    }
}

/// From CRIU 4.2.1, shortened.
const GHOST: &str = "\
(00.000011) Error (criu/util.c:1530): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted
(00.011139) Dumping task (pid: 6639 comm: workload)
(00.013151) sid=1 pgid=1 pid=1
(00.013481) Dumping opened files (pid: 6639)
(00.013482) ----------------------------------------
(00.013528) 6639 fdinfo 0: pos:                0 flags:           500002/0
(00.013799) 6639 fdinfo 3: pos:         0x300000 flags:           100001/0x1
(00.013807) Dumping path for 3 fd via self 20 [/state/deleted (deleted)]
(00.013812) Error (criu/files-reg.c:1031): Can't dump ghost file /state/deleted of 3145728 size, increase limit
(00.013828) Error (criu/cr-dump.c:1545): Dump files (pid: 6639) failed with -1
(00.016979) Error (criu/cr-dump.c:1975): Dumping FAILED.
";

#[test]
fn the_log_alone_tells_who_and_where() {
    let found = explain(Job::Dump, GHOST.as_bytes(), &Context::default()).expect("it is known");
    assert_eq!(found.rule, "big-deleted-file");
    let Evidence { line, sentence, pid, command, fd, path } = found.evidence;
    assert!(line.starts_with("(00.013812) Error (criu/files-reg.c:1031)"), "{line}");
    assert!(sentence.starts_with("Can't dump ghost file"), "{sentence}");
    assert_eq!((pid, command.as_deref(), fd), (Some(1), Some("workload"), Some(3)));
    assert_eq!(path.as_deref(), Some("/state/deleted"));
    assert!(found.cause.starts_with("process 1 (workload) holds /state/deleted open (descriptor 3)"));
    assert_eq!(found.remedy, "pass --ghost-limit 3145728 or more");
}

#[test]
fn the_context_knows_better_than_the_log() {
    let process = Process { host: Some(6639), pid: 12, command: "nginx".to_owned() };
    let context = Context { processes: vec![process], ..Context::default() };
    let found = explain(Job::Dump, GHOST.as_bytes(), &context).expect("it is known");
    assert!(found.cause.starts_with("process 12 (nginx) holds"), "{}", found.cause);
}

#[test]
fn a_reason_that_stands_in_an_earlier_line() {
    let log = "(00.004859) Warn  (compel/src/lib/infect.c:132): Unable to interrupt task: 6971 (Operation not permitted)\n\
               (00.004881) Error (compel/src/lib/infect.c:262): Unseizable non-zombie 6971 found, state S, err -1/10\n";
    let process = Process { host: Some(6971), pid: 2, command: "gdbserver".to_owned() };
    let context = Context { processes: vec![process], ..Context::default() };
    let found = explain(Job::Dump, log.as_bytes(), &context).expect("it is known");
    assert_eq!(found.rule, "traced");
    assert!(found.cause.starts_with("process 2 (gdbserver) is traced"), "{}", found.cause);
    assert!(found.remedy.contains("/proc/6971/status"), "{}", found.remedy);
    // Without that line nobody knows more than that it could not be stopped.
    let alone = log.lines().nth(1).expect("the error");
    let found = explain(Job::Dump, alone.as_bytes(), &Context::default()).expect("it is known");
    assert_eq!(found.rule, "unseizable");
    assert!(found.cause.contains("state S"), "{}", found.cause);
}

#[test]
fn what_a_restored_process_said_first_is_the_cause() {
    let log = "(00.033190) Error (criu/cr-restore.c:1): 1234 exited, status=1\n\
               (00.033187)      7: Error (criu/files-reg.c:2353): Can't open file state/f on restore: No such file or directory\n\
               (00.033190)      7: Error (criu/files.c:1221): Unable to open fd=3 id=0x7\n\
               (00.034365) Error (criu/cr-restore.c:2331): Restoring FAILED.\n";
    let process = Process { host: None, pid: 7, command: "worker".to_owned() };
    let context = Context { processes: vec![process], ..Context::default() };
    let found = explain(Job::Restore, log.as_bytes(), &context).expect("it is known");
    assert_eq!(
        found.cause,
        "the file /state/f is missing, which process 7 (worker) had open at the checkpoint"
    );
}

#[test]
fn an_echo_is_no_cause() {
    let log = "(00.1)      7: Error (criu/new.c:1): something that no rule knows\n\
               (00.1)      7: Error (criu/files.c:1221): Unable to open fd=3 id=0x7\n";
    assert_eq!(explain(Job::Restore, log.as_bytes(), &Context::default()), None);
    let echo = log.lines().nth(1).expect("the echo");
    let found = explain(Job::Restore, echo.as_bytes(), &Context::default()).expect("all there is");
    assert_eq!(found.rule, "descriptor-not-given");
}

#[test]
fn a_mount_is_named_as_the_container_knows_it() {
    let log = "(00.1)      1: Error (criu/mount-v2.c:634): mnt-v2: Can't stat mountpoint \
               /tmp/.criu.mntns.MzKbZO/mnt-0000000191/more/of it: No such file or directory\n";
    let found = explain(Job::Restore, log.as_bytes(), &Context::default()).expect("it is known");
    assert!(found.cause.ends_with("is missing: /more/of it"), "{}", found.cause);
}

#[test]
fn what_a_container_named_cannot_steer_a_terminal() {
    let log = b"(00.1) Dumping task (pid: 5 comm: \x1b[2J)\n\
                (00.1) Error (a.c:1): Can't create link remap for /a\x1b]0;x\x07. Use link-remap option.\n";
    let found = explain(Job::Dump, log, &Context::default()).expect("it is known");
    let shown = format!("{}{}{}", found.cause, found.remedy, found.evidence.line);
    assert!(shown.chars().all(|c| !c.is_control()), "{shown:?}");
}

#[test]
fn a_log_of_nothing_but_errors_is_no_burden() {
    let line = "(00.1) Error (a.c:1): Can't dump file ".to_owned() + &"{x}( [".repeat(2000) + "\n";
    let log = line.repeat(300);
    let found = explain(Job::Dump, log.as_bytes(), &Context::default());
    assert_eq!(found, None);
    assert_eq!(explain(Job::Dump, b"", &Context::default()), None);
}

#[test]
fn errors_of_others_stay_as_they_are() {
    let error = || Error::new(ErrorKind::System, "open it").with_hint("look");
    let same = explained(error(), || panic!("nobody asks"));
    assert_eq!((same.chain(), same.hint()), (error().chain(), Some("look")));
}
