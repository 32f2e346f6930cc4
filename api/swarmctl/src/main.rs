//! `swarmctl`: the command line of a cluster and of one host. It only knows the verbs (`swarm_api`), never how they
//! are carried out.

mod cli;
mod commands;
mod console;
mod context;
mod detach;
mod failure;
mod progress;
mod pull;
mod render;
mod run;
mod signals;
mod table;
mod terminal;

use clap::Parser;

fn main() {
    let cli = cli::Cli::parse();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(commands::execute(cli)),
        Err(why) => Err(anyhow::anyhow!("cannot start: {why}")),
    };
    let code = outcome.unwrap_or_else(|error| failure::report(&error));
    // Not a return: a thread may still wait for standard input, which nobody needs any more.
    std::process::exit(code);
}
