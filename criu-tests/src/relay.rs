// SPDX-License-Identifier: Apache-2.0
//! The way between the two hosts of a migration, in the hands of a test: it stands still when a certain frame comes by, and the test says
//! what becomes of that frame and of the connection.
//!
//! ```text
//!   migrate to ── unix:relay.sock ──▶ Relay ── receive.sock ──▶ migrate receive
//!                                       │ reached: the frame that it was to wait for
//!                                       ◀ Deal: what becomes of it
//! ```
//! A connection keeps the order of what is said. So what comes late comes over one whose sender has closed it and has made another one.

use std::io::Write as _;
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, mpsc};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::migration::frame;

/// How long a connection lives on of which one direction is dead, until its ends are told.
const HALF_DEAD: Duration = Duration::from_millis(400);

/// How long a frame is under way that comes late, at most.
const LATE: Duration = Duration::from_secs(2);

/// Who says something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// `migrate to`.
    Source,
    /// `migrate receive`.
    Destination,
}

/// What becomes of a frame, and of the connection with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deal {
    /// It goes on.
    Pass,
    /// It is lost, and the connection breaks.
    Cut,
    /// It is lost with all that follows it in this direction; then the connection breaks.
    Lose,
    /// It goes on, and what is said in the other direction is lost from now on; then the connection breaks.
    LoseAnswers,
    /// It and what follows it go on, so much later.
    Delay(Duration),
    /// The connection breaks for who has said it, and it comes to the other one when a new connection has been made.
    Late,
}

/// The way, as long as it is there.
#[derive(Debug)]
pub struct Relay {
    /// Where it listens, as a destination of `migrate to`.
    pub at: String,
    /// Something comes when the frame that it was to wait for has come.
    pub reached: mpsc::Receiver<()>,
    deals: mpsc::Sender<Deal>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    way: Mutex<Way>,
    /// Something has happened.
    news: Condvar,
}

#[derive(Debug)]
struct Way {
    /// The frame to wait for: whose, and what is said.
    stop: Option<(End, String)>,
    reached: mpsc::Sender<()>,
    deals: Option<mpsc::Receiver<Deal>>,
    /// What has come by: in which connection, whose, and what it was.
    frames: Vec<(usize, End, String)>,
    over: bool,
}

impl Relay {
    /// Listens at one path and leads to whoever listens at the other one; waits for a frame of `stop.0` that says `stop.1`.
    ///
    /// # Panics
    /// When it cannot listen.
    pub fn between(here: &str, there: &str, stop: Option<(End, &str)>) -> Self {
        let listener = UnixListener::bind(here).expect("listen");
        let ((tell, reached), (deals, decided)) = (mpsc::channel(), mpsc::channel());
        let stop = stop.map(|(end, what)| (end, what.to_owned()));
        let way = Way { stop, reached: tell, deals: Some(decided), frames: Vec::new(), over: false };
        let shared = Arc::new(Shared { way: Mutex::new(way), news: Condvar::new() });
        let (there, of_thread) = (there.to_owned(), Arc::clone(&shared));
        thread::spawn(move || {
            for (number, client) in listener.incoming().enumerate() {
                let (Ok(client), false) = (client, of_thread.way().over) else { return };
                // Where nobody listens the client sees the end.
                if let Ok(server) = UnixStream::connect(&there) {
                    connect(&of_thread, number, &client, &server);
                }
            }
        });
        Self { at: format!("unix:{here}"), reached, deals, shared }
    }

    /// Says what becomes of the frame that was waited for.
    ///
    /// # Panics
    /// When that was said before.
    pub fn deal(&self, deal: Deal) {
        self.deals.send(deal).expect("a frame that is waited for");
    }

    /// All that has come by, for people.
    pub fn told(&self) -> String {
        let mut told = String::new();
        for (number, end, what) in &self.shared.way().frames {
            if !told.ends_with(&format!("{what} ")) {
                told += &format!("{number}{}{what} ", if *end == End::Source { ">" } else { "<" });
            }
        }
        told
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.way().over = true;
        self.shared.news.notify_all();
        // It sees that when somebody comes.
        let _ = UnixStream::connect(self.at.trim_start_matches("unix:"));
    }
}

impl Shared {
    fn way(&self) -> MutexGuard<'_, Way> {
        self.way.lock().expect("nobody panics with it")
    }

    /// Lets so much time pass, unless this is true before.
    fn pass(&self, most: Duration, until: impl Fn(&Way) -> bool) {
        let way = self.way();
        drop(self.news.wait_timeout_while(way, most, |way| !way.over && !until(way)));
    }

    /// What becomes of a frame.
    fn judge(&self, number: usize, end: End, what: &str) -> Deal {
        let deals = {
            let mut way = self.way();
            way.frames.push((number, end, what.to_owned()));
            self.news.notify_all();
            let waited_for = way.stop.as_ref().is_some_and(|stop| stop.0 == end && stop.1 == what);
            if !waited_for {
                return Deal::Pass;
            }
            way.stop = None;
            let _ = way.reached.send(());
            way.deals.take()
        };
        // A test that has ended says nothing.
        deals.and_then(|deals| deals.recv().ok()).unwrap_or(Deal::Pass)
    }
}

/// One direction of a connection.
struct Direction {
    shared: Arc<Shared>,
    number: usize,
    end: End,
    from: UnixStream,
    to: UnixStream,
    /// Whether what is said in either direction is lost, by who says it.
    lost: Arc<[AtomicBool; 2]>,
}

fn connect(shared: &Arc<Shared>, number: usize, source: &UnixStream, destination: &UnixStream) {
    let lost = Arc::new([AtomicBool::new(false), AtomicBool::new(false)]);
    for (end, from, to) in [(End::Source, source, destination), (End::Destination, destination, source)] {
        let clone = |stream: &UnixStream| stream.try_clone().expect("duplicate a socket");
        let (shared, lost) = (Arc::clone(shared), Arc::clone(&lost));
        let direction = Direction { shared, number, end, from: clone(from), to: clone(to), lost };
        thread::spawn(move || direction.carry());
    }
}

impl Direction {
    fn carry(mut self) {
        let own = usize::from(self.end == End::Destination);
        while let Some((kind, bytes)) = frame(&mut self.from) {
            let deal = self.shared.judge(self.number, self.end, &name(kind, &bytes));
            match deal {
                Deal::Pass => {}
                Deal::Delay(time) => self.shared.pass(time, |_| false),
                Deal::Cut => self.cut(),
                Deal::Lose => self.lose(own),
                Deal::LoseAnswers => self.lose(1 - own),
                Deal::Late => {
                    let _ = self.from.shutdown(Shutdown::Both);
                    let number = self.number;
                    let again = |frame: &(usize, End, String)| frame.0 > number && frame.2 == "resume";
                    self.shared.pass(LATE, |way| way.frames.iter().any(again));
                }
            }
            if !self.lost[own].load(Ordering::SeqCst) {
                self.say(kind, &bytes);
            }
        }
        let _ = self.to.shutdown(Shutdown::Write);
    }

    /// Who is gone does not hear it.
    fn say(&mut self, kind: u8, bytes: &[u8]) {
        let length = u32::try_from(bytes.len()).expect("as it came").to_le_bytes();
        let _ = self.to.write_all(&[&[kind], &length[..], bytes].concat());
    }

    fn cut(&self) {
        let _ = self.from.shutdown(Shutdown::Both);
        let _ = self.to.shutdown(Shutdown::Both);
    }

    fn lose(&self, whose: usize) {
        self.lost[whose].store(true, Ordering::SeqCst);
        let clone = |stream: &UnixStream| stream.try_clone().expect("duplicate a socket");
        let (shared, ends) = (Arc::clone(&self.shared), [clone(&self.from), clone(&self.to)]);
        thread::spawn(move || {
            shared.pass(HALF_DEAD, |_| false);
            ends.iter().for_each(|end| drop(end.shutdown(Shutdown::Both)));
        });
    }
}

/// What a frame says, in a word: that of the protocol.
fn name(kind: u8, bytes: &[u8]) -> String {
    match kind {
        1 => said(bytes).unwrap_or_else(|| "something else".to_owned()),
        2..=4 => "memory".to_owned(),
        5 => "archive".to_owned(),
        6 => "archive end".to_owned(),
        7 => "pages".to_owned(),
        8 => "memories".to_owned(),
        other => format!("a frame of kind {other}"),
    }
}

fn said(bytes: &[u8]) -> Option<String> {
    match serde_json::from_slice(bytes).ok()? {
        Value::String(word) => Some(word),
        Value::Object(said) => match said.get("handoff") {
            Some(message) => message["kind"].as_str().map(str::to_owned),
            None => said.keys().next().cloned(),
        },
        _ => None,
    }
}
