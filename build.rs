// SPDX-License-Identifier: Apache-2.0
//! Turns our own `.proto` files into Rust, without a `protoc` on the user's machine.

fn main() {
    println!("cargo:rerun-if-changed=proto");
    protobuf_codegen::Codegen::new()
        .pure()
        .include("proto")
        .input("proto/criu_stats.proto")
        .cargo_out_dir("proto")
        .run_from_script();
}
