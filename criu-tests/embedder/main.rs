// SPDX-License-Identifier: Apache-2.0
//! A program that uses the library, for what the command line does not offer.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use migrate::engine::{ContainerBuilder, Network, NetworkRoute, ProcessIo, StateRoot, init_if_requested};

type Done = Result<(), Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    init_if_requested();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        ["networks", root, id, bundle, networks, routes] => run_with(root, id, bundle, networks, routes),
        _ => Err("usage: embedder networks STATE_ROOT ID BUNDLE NETWORKS ROUTES".into()),
    };
    let Err(error) = done else { return ExitCode::SUCCESS };
    let text =
        error.downcast_ref::<migrate::Error>().map_or_else(|| error.to_string(), migrate::Error::chain);
    // Nobody is there to read it when this fails.
    let _ = writeln!(std::io::stderr(), "error: {text}");
    ExitCode::FAILURE
}

/// Starts a container with networks and routes in JSON, and leaves it running.
fn run_with(root: &str, id: &str, bundle: &str, networks: &str, routes: &str) -> Done {
    let networks: Vec<Network> = serde_json::from_str(networks)?;
    let routes: Vec<NetworkRoute> = serde_json::from_str(routes)?;
    let builder = ContainerBuilder::from_bundle(id.parse()?, Path::new(bundle)).io(ProcessIo::null()?);
    let builder = networks.into_iter().fold(builder, ContainerBuilder::network);
    let builder = routes.into_iter().fold(builder, ContainerBuilder::route);
    builder.create(&StateRoot::at(Path::new(root))?)?.start()?;
    Ok(())
}
