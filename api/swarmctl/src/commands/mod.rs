//! Carries out one command.

mod change;
mod copy;
mod enter;
mod image;
mod local;
mod show;
mod streams;
mod usage;

use crate::cli::{
    Cli, Command, ImageCommand, NetworkCommand, NodeCommand, ServiceCommand, TokenCommand,
};
use crate::context::{Context, out};
use crate::failure;
use crate::pull;
use anyhow::Result;
use clap::CommandFactory;
use swarm_api::backend::{PullOptions, PullPolicy};
use swarm_api::model::Kind;

/// Carries it out; returns the exit code.
pub(crate) async fn execute(cli: Cli) -> Result<i32> {
    let context = &Context::new(cli.global);
    match cli.command {
        Command::Run(args) => return crate::run::run(context, *args).await,
        Command::Exec(args) => return streams::exec(context, args).await,
        Command::Attach {
            replay,
            no_stdin,
            task,
        } => return streams::attach(context, task, replay, no_stdin).await,
        Command::Cp {
            archive,
            follow_link,
            source,
            target,
        } => {
            let options = copy::Options {
                follow: follow_link,
                archive,
            };
            copy::copy(context, &source, &target, options).await?;
        }
        Command::Logs {
            follow,
            tail,
            since,
            timestamps,
            name,
        } => {
            let options = swarm_api::backend::LogOptions {
                follow,
                tail,
                since,
            };
            streams::logs(context, name, options, timestamps).await?;
        }
        Command::Stats { no_stream, tasks } => streams::stats(context, tasks, !no_stream).await?,
        Command::Events { since } => streams::events(context, since).await?,
        Command::Init { advertise_addr } => enter::init(context, advertise_addr).await?,
        Command::Join {
            token,
            advertise_addr,
            address,
        } => enter::join(context, address, token, advertise_addr).await?,
        Command::Leave { force } => enter::leave(context, force).await?,
        Command::Token(TokenCommand::Create { role, ttl }) => {
            enter::create_token(context, role, ttl).await?;
        }
        Command::Token(TokenCommand::Ls) => enter::list_tokens(context).await?,
        Command::Token(TokenCommand::Rm { ids }) => {
            return enter::remove_tokens(context, ids).await;
        }
        Command::Status => show::status(context).await?,
        Command::Version => return show::version(context).await,
        Command::Ps { all, node, service } => show::tasks(context, all, node, service).await?,
        Command::Inspect { name } => show::inspect_any(context, &name).await?,
        Command::Lookup { name } => show::lookup(context, name).await?,
        Command::Stop { time, names } => return change::stop(context, names, time).await,
        Command::Kill { signal, tasks } => return change::kill(context, tasks, signal).await,
        Command::Rm { force, names } => return change::remove_any(context, names, force).await,
        Command::Wait { tasks } => return change::wait(context, tasks).await,
        Command::Node(command) => return node(context, command).await,
        Command::Service(command) => return service(context, command).await,
        Command::Image(command) => return image(context, command).await,
        Command::Commit(args) => image::commit(context, args).await?,
        Command::Df { verbose } => return usage::df(context, verbose).await,
        Command::Network(command) => return network(context, command).await,
        Command::Completion { shell } => {
            // Not straight to standard output: clap_complete panics where that is closed.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "swarmctl", &mut script);
            out(&String::from_utf8_lossy(&script))?;
        }
    }
    Ok(0)
}

async fn node(context: &Context, command: NodeCommand) -> Result<i32> {
    match command {
        NodeCommand::Ls => show::list(context, Kind::Node).await?,
        NodeCommand::Inspect { names } => return show::inspect(context, Kind::Node, names).await,
        NodeCommand::Update {
            availability,
            label,
            label_rm,
            name,
        } => {
            let change = swarm_api::model::NodeChange {
                availability,
                set_labels: label.into_iter().collect(),
                remove_labels: label_rm,
            };
            change::update_node(context, name, change).await?;
        }
        NodeCommand::Rm { force, names } => {
            return change::remove(context, Kind::Node, names, force).await;
        }
    }
    Ok(0)
}

async fn service(context: &Context, command: ServiceCommand) -> Result<i32> {
    match command {
        ServiceCommand::Ls => show::list(context, Kind::Service).await?,
        ServiceCommand::Inspect { names } => {
            return show::inspect(context, Kind::Service, names).await;
        }
        ServiceCommand::Scale { scales } => return change::scale(context, scales).await,
        ServiceCommand::Rm { names } => {
            return change::remove(context, Kind::Service, names, true).await;
        }
    }
    Ok(0)
}

async fn image(context: &Context, command: ImageCommand) -> Result<i32> {
    match command {
        ImageCommand::Import(args) => image::import(context, args).await?,
        ImageCommand::Pull { all_nodes, names } => {
            let client = context.client().await?;
            let options = PullOptions {
                policy: PullPolicy::Always,
                all_nodes,
                digest: None,
            };
            return each(names, async |name: String| {
                let image = pull::pull(&client, &name, options.clone()).await?;
                context.print(&image, |i| i.reference.to_string())
            })
            .await;
        }
        ImageCommand::Load { name, file } => image::load(context, name, &file).await?,
        ImageCommand::Save { file, names } => image::save(context, &file, names).await?,
        ImageCommand::Push { name, to } => image::push(context, name, to).await?,
        ImageCommand::Tag { name, to } => image::tag(context, name, to).await?,
        ImageCommand::History { no_trunc, name } => {
            usage::history(context, name, no_trunc).await?;
        }
        ImageCommand::Prune { force } => return image::prune(context, force).await,
        ImageCommand::Ls => show::list(context, Kind::Image).await?,
        ImageCommand::Inspect { names } => return show::inspect(context, Kind::Image, names).await,
        ImageCommand::Rm { names } => {
            return change::remove(context, Kind::Image, names, false).await;
        }
    }
    Ok(0)
}

async fn network(context: &Context, command: NetworkCommand) -> Result<i32> {
    match command {
        NetworkCommand::Ls => show::list(context, Kind::Network).await?,
        NetworkCommand::Inspect { names } => {
            return show::inspect(context, Kind::Network, names).await;
        }
        NetworkCommand::Create { subnet, name } => {
            change::create_network(context, name, subnet).await?;
        }
        NetworkCommand::Rm { names } => {
            return change::remove(context, Kind::Network, names, false).await;
        }
    }
    Ok(0)
}

/// Does the same for each name. What fails is said and the others are still done; the exit code is then 1.
pub(crate) async fn each<T>(
    items: Vec<T>,
    mut act: impl AsyncFnMut(T) -> Result<()>,
) -> Result<i32> {
    let mut code = 0;
    for item in items {
        if let Err(error) = act(item).await {
            code = failure::report(&error);
        }
    }
    Ok(code)
}
