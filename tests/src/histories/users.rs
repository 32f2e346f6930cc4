//! Users: each does one thing after another, through the host that it likes at present.

use super::answers;
use super::dice::Dice;
use super::record::{Key, Outcome, Record, Recorder};
use crate::Host;
use crate::linearizability::object::Input;
use anyhow::{Context, Result, bail};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use swarm_api::backend::{Create, Update};
use swarm_api::grpc::Client;
use swarm_api::model::{
    Kind, NetworkSpec, NodeChange, Object, Query, Read, ServiceChange, ServiceSpec, TaskSpec,
};
use swarm_api::{Backend, Error};

/// How long a user waits for an answer; then it knows nothing. Longer than an agent looks for a leader.
const PATIENCE: Duration = Duration::from_secs(7);
/// Between two things that a user does.
const PAUSE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(30));
/// Before a user that cannot connect tries again.
const RETRY: Duration = Duration::from_millis(100);

/// One host, as users reach it.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) name: String,
    socket: String,
}

impl Place {
    pub(super) fn of(host: &Host) -> Self {
        Self {
            name: host.name.clone(),
            socket: host.run_dir().join("cluster.sock").display().to_string(),
        }
    }

    /// A connection to its agent, if that answers soon.
    pub(super) async fn connect(&self) -> Option<Client> {
        let connecting = Client::connect(&self.socket);
        tokio::time::timeout(Duration::from_secs(2), connecting)
            .await
            .ok()?
            .ok()
    }
}

/// One user.
pub(super) struct User {
    number: usize,
    places: Vec<Place>,
    at: usize,
    client: Option<Client>,
    recorder: Arc<Recorder>,
    dice: Dice,
}

impl User {
    pub(super) fn new(
        number: usize,
        places: Vec<Place>,
        recorder: Arc<Recorder>,
        dice: Dice,
    ) -> Self {
        Self {
            at: number % places.len(),
            number,
            places,
            client: None,
            recorder,
            dice,
        }
    }

    /// Works until it is told to stop.
    pub(super) async fn work(mut self, stop: Arc<AtomicBool>) {
        while !stop.load(Ordering::SeqCst) {
            if self.dice.percent(4) {
                self.go_elsewhere();
            }
            let Some(client) = self.client().await else {
                if self.dice.percent(30) {
                    self.go_elsewhere();
                }
                tokio::time::sleep(RETRY).await;
                continue;
            };
            self.one(&client).await;
            tokio::time::sleep(self.dice.time(PAUSE.0, PAUSE.1)).await;
        }
    }

    fn go_elsewhere(&mut self) {
        let places = self.places.len() as u64;
        self.at = usize::try_from(self.dice.below(places)).unwrap_or_default();
        self.client = None;
    }

    async fn client(&mut self) -> Option<Client> {
        if self.client.is_none() {
            self.client = self.places[self.at].connect().await;
        }
        self.client.clone()
    }

    async fn one(&mut self, client: &Client) {
        let keys = Arc::clone(&self.recorder.keys);
        let count = keys.len() as u64;
        let key = usize::try_from(self.dice.below(count)).unwrap_or_default();
        let value = self.dice.below(5);
        // What is changed seldom is what a stale answer is soonest wrong about.
        let rests = self.recorder.keys[key].is_quiet() && !self.dice.percent(4);
        let choice = if rests { 99 } else { self.dice.below(100) };
        let read = if self.dice.percent(12) {
            Read::Stale
        } else {
            Read::Linearizable
        };
        match choice {
            0..18 if !matches!(keys[key], Key::Label { .. }) => {
                self.change(client, key, Input::Create(value)).await;
            }
            18..45 if !matches!(keys[key], Key::Network { .. }) => {
                self.change(client, key, Input::Update(value)).await;
            }
            45..58 if !matches!(keys[key], Key::Label { .. }) => {
                self.change(client, key, Input::Remove).await;
            }
            58..68 => self.list(client, read).await,
            _ => self.read(client, key, read).await,
        }
    }

    async fn change(&mut self, client: &Client, key: usize, input: Input) {
        let target = self.recorder.keys[key].clone();
        // A network has no value.
        let input = match (&target, input) {
            (Key::Network { .. }, Input::Create(_)) => Input::Create(0),
            (_, input) => input,
        };
        let called = self.now();
        let done = tokio::time::timeout(PATIENCE, carry_out(client, &target, &input)).await;
        let outcome = match done {
            Err(_) => Outcome::Unknown,
            Ok(answer) => answers::of_change(&input, answer, label(&target)),
        };
        self.record(key, input, called, outcome);
    }

    async fn read(&mut self, client: &Client, key: usize, read: Read) {
        let target = self.recorder.keys[key].clone();
        let (kind, name) = named(&target);
        let called = self.now();
        let asked = client.get(kind, name.to_owned(), read);
        let outcome = match tokio::time::timeout(PATIENCE, asked).await {
            Err(_) => Outcome::Unknown,
            // Not there, as far as this node knows: nothing to compare with.
            Ok(Err(Error::NotFound(_))) if read == Read::Stale => Outcome::Unknown,
            Ok(answer) => answers::of_read(answer, label(&target)),
        };
        self.record(key, Input::Read, called, outcome);
    }

    /// All objects of a kind at once: a read of each of them.
    async fn list(&mut self, client: &Client, read: Read) {
        let kind = *self
            .dice
            .one(&[Kind::Service, Kind::Service, Kind::Network, Kind::Node]);
        let query = Query {
            read,
            ..Query::of(kind)
        };
        let called = self.now();
        let Ok(Ok(answer)) = tokio::time::timeout(PATIENCE, client.list(query)).await else {
            self.client = None;
            return;
        };
        let keys = Arc::clone(&self.recorder.keys);
        for (key, target) in keys.iter().enumerate() {
            let (of, name) = named(target);
            if of == kind {
                let outcome =
                    answers::of_list(&answer.value, answer.freshness, name, label(target));
                self.record(key, Input::Read, called, outcome);
            }
        }
    }

    /// The time, and the life of the agent.
    fn now(&self) -> (u64, u64) {
        let life = self.recorder.lives.of_host(self.at);
        (self.recorder.clock.now(), life)
    }

    fn record(&mut self, key: usize, input: Input, (called, life): (u64, u64), outcome: Outcome) {
        if outcome == Outcome::Unknown {
            // It may be the connection: the next one is a new one.
            self.client = None;
        }
        let life = Some(life).filter(|life| *life == self.recorder.lives.of_host(self.at));
        self.recorder.add(Record {
            user: self.number,
            host: self.at,
            life,
            key,
            input,
            called,
            returned: self.recorder.clock.now(),
            outcome,
        });
    }
}

async fn carry_out(client: &Client, target: &Key, input: &Input) -> Result<Option<Object>, Error> {
    let (kind, name) = named(target);
    let name = name.to_owned();
    match (input, target) {
        (Input::Create(value), Key::Service { placed, .. }) => {
            let spec = service(&name, *value, *placed);
            client.create(Create::Service(spec)).await.map(Some)
        }
        (Input::Create(_), _) => {
            let spec = NetworkSpec { name, subnet: None };
            client.create(Create::Network(spec)).await.map(Some)
        }
        (Input::Update(value), Key::Label { node, label }) => {
            let change = NodeChange {
                set_labels: [(label.clone(), value.to_string())].into(),
                ..NodeChange::default()
            };
            client
                .update(Update::Node(node.clone(), change))
                .await
                .map(Some)
        }
        (Input::Update(value), _) => {
            let change = ServiceChange {
                replicas: u32::try_from(*value).ok(),
            };
            client.update(Update::Service(name, change)).await.map(Some)
        }
        (Input::Remove, _) => client.remove(kind, name, true).await.map(|()| None),
        (Input::Read | Input::Gone, _) => {
            let object = client.get(kind, name, Read::Linearizable).await?;
            Ok(Some(object.value))
        }
    }
}

fn service(name: &str, replicas: u64, placed: bool) -> ServiceSpec {
    let constraint = if placed {
        "node.name!=nowhere"
    } else {
        "node.name==nowhere"
    };
    ServiceSpec {
        name: name.into(),
        replicas: u32::try_from(replicas).unwrap_or_default(),
        task: TaskSpec {
            image: "whoami".into(),
            constraints: constraint.parse().into_iter().collect(),
            ..TaskSpec::default()
        },
        ..ServiceSpec::default()
    }
}

fn named(key: &Key) -> (Kind, &str) {
    match key {
        Key::Service { name, .. } => (Kind::Service, name),
        Key::Network { name } => (Kind::Network, name),
        Key::Label { node, .. } => (Kind::Node, node),
    }
}

fn label(key: &Key) -> &str {
    match key {
        Key::Label { label, .. } => label,
        _ => "",
    }
}

/// Reads every object through every host, when all is calm again, and makes a last service that watchers wait for.
pub(super) async fn look_everywhere(
    places: &[Place],
    recorder: &Arc<Recorder>,
    marker: &str,
) -> Result<()> {
    let user = |n: usize| {
        User::new(
            1000 + n,
            places.to_vec(),
            Arc::clone(recorder),
            Dice::new(0),
        )
    };
    for (n, place) in places.iter().enumerate() {
        let mut user = user(n);
        user.at = n;
        let client = user
            .client()
            .await
            .with_context(|| format!("{} does not answer", place.name))?;
        for key in 0..recorder.keys.len() {
            user.read(&client, key, Read::Linearizable).await;
        }
    }
    let mut user = user(0);
    let client = user
        .client()
        .await
        .context("the first host does not answer")?;
    let marker = service(marker, 0, false);
    match tokio::time::timeout(PATIENCE, client.create(Create::Service(marker))).await {
        Ok(Ok(_)) => Ok(()),
        other => bail!("the last change was not made: {other:?}"),
    }
}

/// Up to where the log has come.
pub(super) async fn index(place: &Place) -> Result<u64> {
    let client = place
        .connect()
        .await
        .context("the first host does not answer")?;
    let list = client.list(Query::of(Kind::Service)).await?;
    Ok(list.freshness.index)
}
