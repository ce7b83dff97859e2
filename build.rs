// SPDX-License-Identifier: Apache-2.0
//! Turns our own `.proto` files into Rust, without a `protoc` on the user's machine.

use protobuf_codegen::{Codegen, Customize};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=proto");
    Codegen::new()
        .pure()
        .include("proto")
        .input("proto/criu_stats.proto")
        // Messages only: nobody asks them for their own description.
        .customize(Customize::default().lite_runtime(true).generate_accessors(false))
        .cargo_out_dir("proto")
        .run_from_script();
}
