// SPDX-License-Identifier: Apache-2.0
//! The conversation with systemd, with a bus of the test's own: recorded exchanges (systemd 252 and dbus-daemon 1.14, byte
//! for byte), and answers that a healthy systemd gives seldom.

use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use super::bus::{Address, Connection, Kind, Message, Value};
use super::client::Systemd;
use super::devices;
use super::properties::Property;
use crate::{Error, ErrorKind};

const AUTHENTICATION: &[u8] = b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n";

/// A bus that serves one connection.
struct Bus {
    address: Address,
    _directory: tempfile::TempDir,
    server: JoinHandle<()>,
}

impl Bus {
    fn start(serve: impl FnOnce(UnixStream) + Send + 'static) -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("bus");
        let listener = UnixListener::bind(&path).expect("bind");
        let server = std::thread::spawn(move || {
            let (socket, _) = listener.accept().expect("accept");
            socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket");
            serve(socket);
        });
        Self { address: Address::Path(path), _directory: directory, server }
    }

    /// One that plays the other side of a recorded exchange, and accepts nothing but this side of it.
    fn recorded(exchange: &'static str) -> Self {
        Self::start(move |mut socket| {
            for line in exchange.lines() {
                let (direction, hex) = line.split_once(' ').expect("a line of the recording");
                let bytes = unhex(hex);
                if direction == "<" {
                    socket.write_all(&bytes).expect("write");
                    continue;
                }
                let mut received = vec![0; bytes.len()];
                socket.read_exact(&mut received).expect("what was recorded is sent");
                assert_eq!(String::from_utf8_lossy(&received), String::from_utf8_lossy(&bytes));
                assert_eq!(received, bytes);
            }
        })
    }

    /// One that knows, for each call in turn, its name and the messages that follow it.
    fn scripted(script: Vec<(&'static str, Vec<Message>)>) -> Self {
        Self::start(move |mut socket| {
            let mut received = vec![0; AUTHENTICATION.len()];
            socket.read_exact(&mut received).expect("authentication");
            assert_eq!(received, AUTHENTICATION);
            socket.write_all(b"DATA\r\nOK 00\r\n").expect("write");
            for (member, answers) in script {
                let call = receive(&mut socket);
                assert_eq!(call.member.as_deref(), Some(member));
                for mut answer in answers {
                    answer.reply_to = (answer.kind != Kind::Signal).then_some(call.serial);
                    socket.write_all(&answer.to_bytes()).expect("write");
                }
            }
        })
    }

    fn systemd(&self) -> Systemd {
        Systemd::over(Connection::to_bus(&self.address).expect("it accepts"))
    }

    /// Whether all has come that was expected.
    fn finish(self) {
        self.server.join().expect("the exchange was as expected");
    }
}

fn unhex(hex: &str) -> Vec<u8> {
    let digits = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal");
    (0..hex.len()).step_by(2).map(digits).collect()
}

fn receive(socket: &mut UnixStream) -> Message {
    let mut bytes = vec![0; 16];
    socket.read_exact(&mut bytes).expect("a message");
    let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes")) as usize;
    let length = 16 + number(12).next_multiple_of(8) + number(4);
    bytes.resize(length, 0);
    socket.read_exact(&mut bytes[16..]).expect("the rest of it");
    Message::parse(&bytes).expect("well formed").expect("of a known kind")
}

fn returns(body: Vec<Value>) -> Message {
    Message { body, ..Message::new(Kind::Return, 1) }
}

fn refuses(name: &str) -> Message {
    let error = Some(format!("org.freedesktop.{name}"));
    Message { error, body: vec![Value::text("no, since…")], ..Message::new(Kind::Error, 1) }
}

fn job(number: u32) -> Value {
    Value::ObjectPath(format!("/org/freedesktop/systemd1/job/{number}"))
}

fn job_removed(number: u32, result: &str) -> Message {
    let body = vec![Value::Uint32(number), job(number), Value::text("x.scope"), Value::text(result)];
    let member = Some("JobRemoved".to_owned());
    Message { member, body, ..Message::new(Kind::Signal, 1) }
}

/// What comes before a unit is started or stopped.
fn listening() -> Vec<(&'static str, Vec<Message>)> {
    let nothing = || vec![returns(Vec::new())];
    vec![
        ("Hello", vec![returns(vec![Value::text(":1.1")])]),
        ("AddMatch", nothing()),
        ("Subscribe", vec![refuses("systemd1.AlreadySubscribed")]),
    ]
}

fn start(script: Vec<(&'static str, Vec<Message>)>) -> Result<(), Error> {
    let mut all = listening();
    all.extend(script);
    let bus = Bus::scripted(all);
    let started = bus.systemd().start("x.scope", &[Property::new("Slice", Value::text("a.slice"))]);
    bus.finish();
    started
}

#[test]
fn a_recorded_start() {
    let bus = Bus::recorded(include_str!("recorded/start.txt"));
    let mut systemd = bus.systemd();
    assert_eq!(systemd.control_group().expect("recorded"), PathBuf::new());
    let version = systemd.version().expect("recorded");
    assert_eq!(version, 252);
    let mut properties = vec![
        Property::new("Description", Value::text("libcontainer container rec")),
        Property::new("Slice", Value::text("system.slice")),
        Property::new("Delegate", Value::Bool(true)),
        Property::new("PIDs", Value::Array("u".to_owned(), vec![Value::Uint32(193)])),
    ];
    for accounting in ["MemoryAccounting", "CPUAccounting", "BlockIOAccounting", "TasksAccounting"] {
        properties.push(Property::new(accounting, Value::Bool(true)));
    }
    properties.push(Property::new("DefaultDependencies", Value::Bool(false)));
    properties.extend(devices::properties(&[], version));
    systemd.start("runc-rec.scope", &properties).expect("recorded");
    bus.finish();
}

#[test]
fn a_recorded_update() {
    let bus = Bus::recorded(include_str!("recorded/update.txt"));
    let mut systemd = bus.systemd();
    assert_eq!(systemd.version().expect("recorded"), 252);
    systemd.set("runc-rec.scope", &[Property::new("TasksMax", Value::Uint64(20))]).expect("recorded");
    bus.finish();
}

#[test]
fn a_recorded_stop_of_a_unit_that_has_ended_by_itself() {
    let bus = Bus::recorded(include_str!("recorded/stop.txt"));
    bus.systemd().stop("runc-rec.scope").expect("recorded");
    bus.finish();
}

#[test]
fn a_job_ends_when_its_own_signal_comes_even_before_the_answer() {
    start(vec![(
        "StartTransientUnit",
        vec![job_removed(6, "failed"), job_removed(7, "done"), returns(vec![job(7)])],
    )])
    .expect("job 7 is done");
}

#[test]
fn a_unit_that_has_failed_before_is_forgotten() {
    start(vec![
        ("StartTransientUnit", vec![refuses("systemd1.UnitExists")]),
        ("ResetFailedUnit", vec![returns(Vec::new())]),
        ("StartTransientUnit", vec![returns(vec![job(1)]), job_removed(1, "done")]),
    ])
    .expect("it was only a leftover");
    let error = start(vec![
        ("StartTransientUnit", vec![refuses("systemd1.UnitExists")]),
        ("ResetFailedUnit", vec![refuses("systemd1.NoSuchUnit")]),
        ("StartTransientUnit", vec![refuses("systemd1.UnitExists")]),
    ])
    .expect_err("it is another's");
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
}

#[test]
fn what_systemd_says_is_in_the_error() {
    let error = start(vec![
        ("StartTransientUnit", vec![returns(vec![job(1)]), job_removed(1, "failed")]),
        ("ResetFailedUnit", vec![returns(Vec::new())]),
    ])
    .expect_err("the job failed");
    assert_eq!(
        error.chain(),
        "unable to start unit \"x.scope\": error creating systemd unit `x.scope`: got `failed`"
    );
    let error = start(vec![("StartTransientUnit", vec![refuses("DBus.Error.AccessDenied")])])
        .expect_err("it is refused");
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(
        error.chain().contains("no, since… (org.freedesktop.DBus.Error.AccessDenied)"),
        "{}",
        error.chain()
    );
}

#[test]
fn a_bus_that_goes_away_is_an_error() {
    let error = start(vec![("StartTransientUnit", vec![returns(vec![job(1)])])]).expect_err("it hangs up");
    assert!(error.chain().contains("wait for the job /org/freedesktop/systemd1/job/1"), "{}", error.chain());
    let bus = Bus::start(|mut socket| {
        // A socket that is closed with something unread in it takes back what it has said.
        socket.read_exact(&mut [0; AUTHENTICATION.len()]).expect("we introduce ourselves");
        socket.write_all(b"REJECTED EXTERNAL\r\n").expect("write");
    });
    let error = Connection::to_bus(&bus.address).expect_err("we are rejected");
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    bus.finish();
    let nowhere = Address::Path(Path::new("/nonexistent/bus").to_owned());
    let error = Connection::to_bus(&nowhere).expect_err("nobody listens");
    assert!(error.chain().starts_with("connect to D-Bus at /nonexistent/bus"), "{}", error.chain());
}

#[test]
fn a_stop_waits_for_the_job_and_does_not_mind_how_it_ends() {
    for result in ["done", "canceled"] {
        let mut script = listening();
        script.push(("StopUnit", vec![returns(vec![job(3)]), job_removed(3, result)]));
        script.push(("ResetFailedUnit", vec![refuses("systemd1.NoSuchUnit")]));
        let bus = Bus::scripted(script);
        bus.systemd().stop("x.scope").expect(result);
        bus.finish();
    }
}
