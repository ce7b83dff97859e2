// SPDX-License-Identifier: Apache-2.0
//! How CRIU keeps packets away with iptables: in a network namespace of the container's by a chain, in one that the host's
//! processes use by rules for each connection, which its log tells. Finds them and removes them; a chain or a rule that is not
//! as CRIU makes it is somebody else's.

use std::ffi::OsString;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use super::find::search_path;
use crate::sys::command::{self, Ending, Outcome, ShortCommand};
use crate::sys::namespace::in_network_namespace;
use crate::{Context, Error, ErrorKind, Result};

/// The chain's name, in both families.
pub const CHAIN: &str = "CRIU";

/// Its rules as iptables lists them: what CRIU itself sends is let through.
const RULES: [&str; 3] = ["-N CRIU", "-A CRIU -m mark --mark 0xc114 -j ACCEPT", "-A CRIU -j DROP"];

/// What takes the chain away, all at once.
const REMOVAL: &str = "*filter\n-D INPUT -j CRIU\n-D OUTPUT -j CRIU\n-F CRIU\n-X CRIU\nCOMMIT\n";

/// IPv4 and IPv6.
const PROGRAMS: [&str; 2] = ["iptables", "ip6tables"];

/// Another program may hold the lock of iptables.
const PATIENCE: Duration = Duration::from_secs(20);

/// Whether the namespace has CRIU's chain. Without the program there is none.
///
/// # Errors
/// When the namespace cannot be entered, or the program fails in another way.
pub fn has_chain(namespace: &(impl AsFd + Sync)) -> Result<bool> {
    for program in PROGRAMS {
        if has_chain_of(namespace, program)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn has_chain_of(namespace: &(impl AsFd + Sync), program: &str) -> Result<bool> {
    match run(namespace, program, &["-w", "-S", CHAIN], b"") {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        listed => Ok(is_chain(&listed.context(|| format!("start {program}"))?.stdout)),
    }
}

/// Removes CRIU's chain. Tells whether there was one.
///
/// # Errors
/// When it is there and cannot be removed.
pub fn remove_chain(namespace: &(impl AsFd + Sync)) -> Result<bool> {
    let mut removed = false;
    for program in PROGRAMS {
        if has_chain_of(namespace, program)? {
            let restore = format!("{program}-restore");
            let outcome = run(namespace, &restore, &["-w", "--noflush"], REMOVAL.as_bytes());
            let outcome = outcome.context(|| format!("start {restore}"))?;
            if outcome.ending != Ending::Exit(0) {
                return Err(refused(&restore, &outcome));
            }
            removed = true;
        }
    }
    Ok(removed)
}

/// Removes the rules for single connections of the run with this log. Tells whether there was one.
///
/// # Errors
/// When the program cannot be started. A rule that is not there is none.
pub fn remove_rules(namespace: &(impl AsFd + Sync), log: &[u8]) -> Result<bool> {
    let mut removed = false;
    for (program, rule) in rules_of_run(log) {
        let args: Vec<&str> =
            ["-w", "-t", "filter", "-D"].into_iter().chain(rule.iter().map(String::as_str)).collect();
        let outcome = run(namespace, program, &args, b"").context(|| format!("start {program}"))?;
        match outcome.ending {
            Ending::Exit(0) => removed = true,
            // CRIU or somebody else has removed it.
            Ending::Exit(1) => {}
            _ => return Err(refused(program, &outcome)),
        }
    }
    Ok(removed)
}

fn run(namespace: &(impl AsFd + Sync), program: &str, args: &[&str], input: &[u8]) -> io::Result<Outcome> {
    let command = ShortCommand {
        path: program.into(),
        args: [program].iter().chain(args).map(OsString::from).collect(),
        environment: Some(vec![("PATH".into(), search_path())]),
        directory: None,
        input,
        timeout: Some(PATIENCE),
    };
    in_network_namespace(namespace, || command::run(&command))?
}

fn refused(program: &str, outcome: &Outcome) -> Error {
    let said = String::from_utf8_lossy(&outcome.stderr);
    let message = format!("{program} has not removed criu's rules ({:?}): {}", outcome.ending, said.trim());
    Error::new(ErrorKind::System, message)
}

/// Whether a listing is that of a chain that CRIU has made.
fn is_chain(listed: &[u8]) -> bool {
    String::from_utf8_lossy(listed).lines().map(str::trim).eq(RULES)
}

/// The rules that CRIU has added: `Running iptables [iptables -t filter -A INPUT --protocol tcp … -j DROP]`. They are put
/// together anew, so that nothing else in a log reaches a command line.
fn rules_of_run(log: &[u8]) -> Vec<(&'static str, Vec<String>)> {
    let lines = log.split(|byte| *byte == b'\n').filter_map(|line| std::str::from_utf8(line).ok());
    let commands = lines.filter_map(|line| line.split_once("Running iptables [")?.1.strip_suffix(']'));
    commands.filter_map(rule).collect()
}

/// The program and the rule in one command of CRIU's; `None` of one that adds nothing.
fn rule(command: &str) -> Option<(&'static str, Vec<String>)> {
    let words: Vec<&str> = command.split_whitespace().collect();
    let after = |name: &str| Some(*words.get(words.iter().position(|word| *word == name)? + 1)?);
    let program = PROGRAMS.into_iter().find(|program| words.first() == Some(program))?;
    let chain = after("-A").or_else(|| after("-I")).filter(|chain| ["INPUT", "OUTPUT"].contains(chain))?;
    let address = |name| after(name)?.parse::<IpAddr>().ok();
    let port = |name| after(name)?.parse::<u16>().ok();
    let mut rule = vec![chain.to_owned(), "--protocol".into(), "tcp".into()];
    if words.contains(&"mark") {
        rule.extend(["-m", "mark", "!", "--mark", "0xc114"].map(str::to_owned));
    }
    let ends = [
        ("--source", address("--source")?.to_string()),
        ("--sport", port("--sport")?.to_string()),
        ("--destination", address("--destination")?.to_string()),
        ("--dport", port("--dport")?.to_string()),
        ("-j", after("-j").filter(|target| *target == "DROP")?.to_owned()),
    ];
    rule.extend(ends.into_iter().flat_map(|(name, value)| [name.to_owned(), value]));
    Some((program, rule))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_of_somebody_else_is_not_criu_s() {
        let whole = RULES.join("\n");
        assert!(is_chain(format!("{whole}\n").as_bytes()));
        for other in [
            "",
            "-N CRIU",
            "-N CRIU\n-A CRIU -j DROP",
            &format!("{whole}\n-A CRIU -s 10.0.0.1/32 -j ACCEPT"),
            &whole.replace("c114", "1"),
            &whole.replace("CRIU", "MINE"),
        ] {
            assert!(!is_chain(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn rules_are_those_that_the_log_tells() {
        let log = b"(00.1) CRIU run id = 1\n\
            (00.2) \tRunning iptables [iptables -w -t filter -A INPUT --protocol tcp -m mark ! --mark 0xC114 --source 10.0.0.1 --sport 80 --destination 10.0.0.2 --dport 4000 -j DROP]\n\
            (00.2) \tRunning iptables [ip6tables  -t filter -A OUTPUT --protocol tcp --source ::1 --sport 80 --destination ::2 --dport 4000 -j DROP]\n\
            (00.3) \tRunning iptables [iptables -w -t filter -D INPUT --protocol tcp --source 10.0.0.1 --sport 80 --destination 10.0.0.2 --dport 4000 -j DROP]\n\
            (00.3) \tRunning iptables [iptables -t filter -A FORWARD --protocol tcp --source 10.0.0.1 --sport 80 --destination 10.0.0.2 --dport 4000 -j DROP]\n\
            (00.3) \tRunning iptables [iptables -t filter -A INPUT --protocol tcp --source 10.0.0.1 --sport 80 --destination 10.0.0.2;reboot --dport 4000 -j DROP]\n\
            (00.3) \tRunning iptables [iptables -t filter -A INPUT --protocol tcp --source 10.0.0.1 --sport 80 --destination 10.0.0.2 --dport 4000 -j ACCEPT]\n\
            (00.3) \tRunning iptables [sh -A INPUT --protocol tcp --source 10.0.0.1 --sport 80 --destination 10.0.0.2 --dport 4000 -j DROP]\n\
            (00.3) \tRunning iptables [iptables -A";
        let rules: Vec<_> =
            rules_of_run(log).into_iter().map(|(program, rule)| (program, rule.join(" "))).collect();
        let first = "INPUT --protocol tcp -m mark ! --mark 0xc114 --source 10.0.0.1 --sport 80 --destination 10.0.0.2 --dport 4000 -j DROP";
        let second = "OUTPUT --protocol tcp --source ::1 --sport 80 --destination ::2 --dport 4000 -j DROP";
        assert_eq!(rules, [("iptables", first.to_owned()), ("ip6tables", second.to_owned())]);
    }
}
