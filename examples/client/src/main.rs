//! The client library in use: runs a service of two tasks, follows the events until both run, shows where they are,
//! and removes it again.
//!
//! `cargo run -p swarm-example-client [unix:///run/swarmd/cluster.sock]`

use futures_util::StreamExt;
use swarm_api::backend::Create;
use swarm_api::grpc::Client;
use swarm_api::model::{Kind, Read, ServiceSpec, TaskSpec};
use swarm_api::{Backend, Error, Result};

const NAME: &str = "example";
const TASKS: usize = 2;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let target = std::env::args().nth(1);
    let target = target.unwrap_or_else(|| "unix:///run/swarmd/cluster.sock".into());
    let cluster = Client::connect(&target).await?;

    // Watched from before it is made, so that nothing is missed.
    let mut events = cluster.watch(None).await?;
    let spec = ServiceSpec {
        name: NAME.into(),
        replicas: TASKS as u32,
        task: TaskSpec {
            image: "whoami".into(),
            ..TaskSpec::default()
        },
        ..ServiceSpec::default()
    };
    spec.validate()?;
    cluster.create(Create::Service(spec)).await?;

    loop {
        let found = cluster.lookup(NAME.into(), Read::Linearizable).await?.value;
        if found.endpoints.len() == TASKS {
            for endpoint in found.endpoints {
                println!(
                    "{} runs on {} at {:?}",
                    endpoint.task, endpoint.node_name, endpoint.addresses
                );
            }
            break;
        }
        // Something happened; it may have been one of ours.
        match events.next().await {
            Some(event) => drop(event?),
            None => return Err(Error::Unavailable("the events have ended".into())),
        }
    }
    cluster.remove(Kind::Service, NAME.into(), true).await
}
