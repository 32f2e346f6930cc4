//! What tasks use: each node is asked once a round for all of its own.

use super::{Cluster, attach, names};
use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use swarm_api::backend::Stats;
use swarm_api::model::{Id, NodeId, TaskState};
use swarm_api::{BoxStream, Error, Result};
use swarm_cluster::State;
use tokio::time::{Interval, MissedTickBehavior};

/// What a node answers within; who does not is left out of the round.
const ANSWER: Duration = Duration::from_secs(2);
/// Between rounds.
const ROUND: Duration = Duration::from_secs(1);

impl Cluster {
    pub(super) async fn stats(
        &self,
        tasks: Vec<String>,
        follow: bool,
    ) -> Result<BoxStream<Result<Vec<Stats>>>> {
        self.fresh().await?;
        let wanted = wanted(&self.member.state(), &tasks)?;
        if !follow {
            let round = self.round(&wanted).await?;
            return Ok(stream::iter([Ok(round)]).boxed());
        }
        let mut pace = tokio::time::interval(ROUND);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let rounds = (self.clone(), wanted, pace);
        Ok(stream::unfold(rounds, next_round).boxed())
    }

    /// What every node says of the tasks that are wanted.
    async fn round(&self, wanted: &Wanted) -> Result<Vec<Stats>> {
        let by_node = running(&self.member.state(), wanted);
        let answers = by_node.into_iter().map(|(node, tasks)| async move {
            let answer = tokio::time::timeout(ANSWER, self.of_node(node, &tasks)).await;
            answer.unwrap_or_else(|_| Err(self.silent(node)))
        });
        collect(join_all(answers).await)
    }

    fn silent(&self, node: NodeId) -> Error {
        let state = self.member.state();
        let name = state.nodes.get(&node).map_or("", |n| &n.name);
        Error::Unavailable(format!(
            "node {name} cannot be reached: it did not answer within {} s",
            ANSWER.as_secs()
        ))
    }

    async fn of_node(&self, node: NodeId, tasks: &BTreeSet<Id>) -> Result<Vec<Stats>> {
        let on = self.backend_of(node).await?;
        // All of the node's are asked for: one that has just ended must not spoil the answer.
        let mut answer = on.open(on.backend.stats(Vec::new(), false)).await?;
        let mut found = answer.next().await.unwrap_or_else(|| Ok(Vec::new()))?;
        found.retain(|s| tasks.contains(&s.task_id));
        for row in &mut found {
            on.name().clone_into(&mut row.node_name);
        }
        Ok(found)
    }
}

/// Which tasks; all if none is named.
type Wanted = Option<BTreeSet<Id>>;

fn wanted(state: &State, names: &[String]) -> Result<Wanted> {
    if names.is_empty() {
        return Ok(None);
    }
    let ids = names.iter().map(|name| {
        let task = names::task(state, name)?;
        if task.status.state == TaskState::Running {
            Ok(task.id)
        } else {
            Err(attach::not_running(&task))
        }
    });
    ids.collect::<Result<_>>().map(Some)
}

fn running(state: &State, wanted: &Wanted) -> BTreeMap<NodeId, BTreeSet<Id>> {
    let mut by_node: BTreeMap<NodeId, BTreeSet<Id>> = BTreeMap::new();
    let running = (state.tasks.values())
        .filter(|t| t.status.state == TaskState::Running)
        .filter(|t| wanted.as_ref().is_none_or(|w| w.contains(&t.id)));
    for task in running {
        if let Some(node) = task.node {
            by_node.entry(node).or_default().insert(task.id.clone());
        }
    }
    by_node
}

/// All answers in the order of the tasks' names. An error only where nobody answered.
fn collect(answers: Vec<Result<Vec<Stats>>>) -> Result<Vec<Stats>> {
    let (mut found, mut failure, mut answered) = (Vec::new(), None, false);
    for answer in answers {
        match answer {
            Ok(rows) => {
                answered = true;
                found.extend(rows);
            }
            Err(why) => failure = Some(why),
        }
    }
    match failure {
        Some(why) if !answered => Err(why),
        _ => {
            found.sort_by(|a, b| (&a.task, &a.task_id).cmp(&(&b.task, &b.task_id)));
            Ok(found)
        }
    }
}

type Rounds = (Cluster, Wanted, Interval);

/// One round a second; the last is when none of the tasks that were named runs any more.
async fn next_round((cluster, wanted, mut pace): Rounds) -> Option<(Result<Vec<Stats>>, Rounds)> {
    pace.tick().await;
    if wanted.is_some() && running(&cluster.member.state(), &wanted).is_empty() {
        return None;
    }
    // A round in which nobody could be asked is an empty one: the next may do better.
    let round = cluster.round(&wanted).await.unwrap_or_default();
    Some((Ok(round), (cluster, wanted, pace)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(task: &str) -> Stats {
        Stats {
            task: task.into(),
            ..Stats::default()
        }
    }

    #[test]
    fn a_node_that_does_not_answer_is_left_out() {
        let silent = || Err(Error::Unavailable("node host2 cannot be reached".into()));
        let found = collect(vec![
            Ok(vec![row("web.2")]),
            silent(),
            Ok(vec![row("web.1")]),
        ])
        .unwrap();
        let names: Vec<_> = found.iter().map(|s| s.task.as_str()).collect();
        assert_eq!(names, ["web.1", "web.2"]);
        assert!(collect(vec![silent()]).is_err());
        assert!(collect(Vec::new()).unwrap().is_empty());
    }
}
