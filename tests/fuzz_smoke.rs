// SPDX-License-Identifier: Apache-2.0
//! The fuzz targets over their corpus, and over what a fixed seed makes of it: so many cases that all of them take seconds. `scripts/fuzz`
//! goes on from there with what libFuzzer finds.

#[path = "../fuzz/src/targets.rs"]
mod targets;

use std::fs;
use std::path::Path;

use targets::TARGETS;

/// Cases made of each file of the corpus.
const CASES: usize = 1000;
/// Longest case, in bytes.
const LONGEST: usize = 64 << 10;

/// xorshift64*: the same numbers each time.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end.max(1) as u64).expect("it is below a usize")
    }
}

/// Changes some places, in one of the ways in which readers are surprised.
fn changed(from: &[u8], other: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    const ODD: [&[u8]; 6] = [&[0], &[0xff], &[0x7f], &[0xff; 4], &[0; 8], &[0xff, 0xff, 0xff, 0x7f]];
    let mut bytes = from.to_vec();
    for _ in 0..=numbers.below(4) {
        let at = numbers.below(bytes.len() + 1);
        let length = numbers.below(32).min(bytes.len() - at);
        match numbers.below(7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << numbers.below(8),
            1 => {
                let odd = ODD[numbers.below(ODD.len())];
                let end = (at + odd.len()).min(bytes.len());
                bytes[at..end].copy_from_slice(&odd[..end - at]);
            }
            2 => drop(bytes.drain(at..at + length)),
            3 => {
                let again = bytes[at..at + length].to_vec();
                bytes.splice(at..at, again);
            }
            4 => bytes.truncate(at),
            5 => {
                let from = numbers.below(other.len() + 1);
                let piece = &other[from..(from + 512).min(other.len())];
                bytes.splice(at..at + length, piece.iter().copied());
            }
            _ => bytes.insert(at, numbers.below(256) as u8),
        }
        bytes.truncate(LONGEST);
    }
    bytes
}

/// Gives a target its corpus, and cases that are made of it.
#[track_caller]
fn target(name: &str) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let mut paths: Vec<_> =
        fs::read_dir(&corpus).expect("it has a corpus").map(|entry| entry.expect("list").path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} is empty", corpus.display());
    let seeds: Vec<Vec<u8>> = paths.iter().map(|path| fs::read(path).expect("read")).collect();
    let (_, run) = TARGETS.iter().find(|(known, _)| *known == name).expect("there is such a target");
    let mut numbers = Numbers(0x6d69_6772_6174_6531);
    for seed in &seeds {
        run(seed);
        for _ in 0..CASES {
            let other = &seeds[numbers.below(seeds.len())];
            run(&changed(seed, other, &mut numbers));
        }
    }
}

/// One test each, so that they run side by side and a failure has a name.
macro_rules! targets {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            target(stringify!($name));
        })*

        #[test]
        fn every_target_is_here() {
            let here = [$(stringify!($name)),*];
            let all: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
            assert_eq!(here[..], all[..]);
        }
    };
}

targets! { manifest archive packed foreign inspect envelope images pages config }
