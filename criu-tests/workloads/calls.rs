// SPDX-License-Identifier: Apache-2.0
//! `calls`: makes system calls by number and prints, as one JSON object, what each returned.
//!
//! `--call NUMBER[,ARGUMENT]…` (repeatable) takes plain integers; the key of the answer is that text. An argument `@` is
//! the address of an empty C string.

use std::collections::BTreeMap;
use std::io::Write as _;

use serde_json::{Value, json};

use crate::lifecycle::{Checked, During as _};
use crate::options::Options;

pub(crate) fn run(options: &Options) -> Checked {
    let mut seen: BTreeMap<String, Value> = BTreeMap::new();
    for text in options.values("call") {
        let mut numbers = [0_i64; 7];
        for (place, word) in numbers.iter_mut().zip(text.split(',')) {
            *place = match word {
                "@" => c"".as_ptr() as i64,
                word => word.parse().map_err(|e| format!("--call {text}: {e}"))?,
            };
        }
        let answer = match crate::sys::call(numbers) {
            Ok(result) => json!({ "result": result }),
            Err(e) => json!({ "errno": e.raw_os_error() }),
        };
        seen.insert(text.to_owned(), answer);
    }
    writeln!(std::io::stdout(), "{}", json!(seen)).during("write to stdout")
}
