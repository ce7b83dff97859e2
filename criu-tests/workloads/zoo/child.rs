// SPDX-License-Identifier: Apache-2.0
//! A second process of an exhibit: it makes its part of the object and then answers questions about it, over two pipes.

use std::io::{BufRead as _, BufReader, PipeReader, PipeWriter, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::Mutex;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{Pid, close};

use crate::lifecycle::{Checked, During as _, PATIENCE, expect_eq};
use crate::sys;

/// What a child answers.
pub(crate) type Answer = Result<String, String>;

static CHILDREN: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// The children that are the exhibit's own: nobody else may reap them.
pub(super) fn all() -> Vec<Pid> {
    CHILDREN.lock().map(|list| list.clone()).unwrap_or_default()
}

/// Leaves a child to its exhibit, which alone reaps it.
pub(super) fn keep(pid: Pid) {
    if let Ok(mut list) = CHILDREN.lock() {
        list.push(pid);
    }
}

/// A process that answers. It ends when its parent does not ask any more.
pub(crate) struct Child {
    pid: Pid,
    questions: PipeWriter,
    answers: BufReader<PipeReader>,
}

impl Child {
    /// Forks; `make` runs in the child and gives what answers there. Comes back when it has.
    ///
    /// The process must have one thread only.
    pub(crate) fn start<F: FnMut(&str) -> Answer>(
        make: impl FnOnce() -> Result<F, String>,
    ) -> Result<Self, String> {
        let (asked, questions) = std::io::pipe().during("pipe")?;
        let (answers, answering) = std::io::pipe().during("pipe")?;
        let parents = [questions.as_raw_fd(), answers.as_raw_fd()];
        let pid = sys::fork(|| {
            // With the parent's ends open this process would never see that its parent is gone.
            let closed = parents.into_iter().try_for_each(close).during("close");
            i32::from(closed.and_then(|()| serve(make, asked, answering)).is_err())
        })
        .during("fork")?;
        keep(pid);
        let mut child = Self { pid, questions, answers: BufReader::new(answers) };
        child.hear().map(|_| child)
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// Asks, and gives the answer.
    pub(crate) fn ask(&mut self, question: &str) -> Answer {
        self.put(question)?;
        self.hear().map_err(|why| format!("{question}: {why}"))
    }

    /// Asks what needs no answer but that all is well.
    pub(crate) fn check(&mut self, question: &str) -> Checked {
        self.ask(question).map(drop)
    }

    /// Asks, and compares the answer.
    pub(crate) fn expect(&mut self, question: &str, answer: &str) -> Checked {
        expect_eq(question, self.ask(question)?.as_str(), answer)
    }

    /// Asks, and does not wait for the answer.
    pub(crate) fn put(&mut self, question: &str) -> Checked {
        writeln!(self.questions, "{question}").during("ask the child")
    }

    /// Whether there is something to hear.
    pub(crate) fn has_answered(&self) -> Result<bool, String> {
        self.answers_within(PollTimeout::ZERO)
    }

    fn answers_within(&self, timeout: PollTimeout) -> Result<bool, String> {
        let mut polled = [PollFd::new(self.answers.get_ref().as_fd(), PollFlags::POLLIN)];
        loop {
            match poll(&mut polled, timeout) {
                // CRIU does not go on with a poll(2) that it interrupted.
                Err(nix::errno::Errno::EINTR) => {}
                ready => return ready.map(|ready| ready > 0).during("poll"),
            }
        }
    }

    /// Waits for the answer.
    pub(crate) fn hear(&mut self) -> Answer {
        if !self.answers_within(PollTimeout::try_from(PATIENCE).during("poll")?)? {
            return Err("the child does not answer".to_owned());
        }
        let mut line = String::new();
        self.answers.read_line(&mut line).during("hear the child")?;
        match (line.strip_prefix('+'), line.strip_prefix('-')) {
            (Some(answer), _) => Ok(answer.trim_end().to_owned()),
            (_, Some(why)) => Err(format!("child: {}", why.trim_end())),
            _ => Err(format!("the child ended or answers {line:?}")),
        }
    }
}

/// The child's life: says what came of `make`, then answers line by line until nobody asks.
fn serve<F: FnMut(&str) -> Answer>(
    make: impl FnOnce() -> Result<F, String>,
    asked: PipeReader,
    mut answering: PipeWriter,
) -> Checked {
    let mut say = |answer: &Answer| {
        let (sign, text) = answer.as_ref().map_or_else(|why| ('-', why), |text| ('+', text));
        writeln!(answering, "{sign}{}", text.replace('\n', " ")).during("answer")
    };
    let made = make();
    say(&made.as_ref().map(|_| String::new()).map_err(String::clone))?;
    let mut answer = made?;
    for question in BufReader::new(asked).lines() {
        say(&answer(&question.during("hear the parent")?))?;
    }
    Ok(())
}
