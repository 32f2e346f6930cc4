//! What is refused, with what words; and that it changes nothing.

use crate::command::Change;
use crate::testing::{World, image, node, spec};
use swarm_api::Error;
use swarm_api::model::{
    Id, NetworkMode, NetworkSpec, NodeId, NodeRole, Object, Restart, TaskState, TaskStatus,
    Timestamp,
};

/// The error that the change is refused with. Nothing but the index changes.
fn refused(world: &mut World, change: Change, words: &[&str]) -> Error {
    let mut before = world.state.clone();
    let error = world.apply(change).unwrap_err();
    before.index = world.state.index;
    assert_eq!(before, world.state);
    for word in words {
        assert!(error.to_string().contains(word), "{error}");
    }
    error
}

#[test]
fn services_that_cannot_be_made_are_refused() {
    let mut w = World::new(2);
    let mut web = spec("web", 1, Restart::Always);
    web.ports = vec!["8080:80".parse().unwrap()];
    w.create(web.clone());
    let error = refused(&mut w, Change::CreateService(web.clone()), &["web"]);
    assert!(matches!(error, Error::AlreadyExists(_)));
    web.name = "two".into();
    let error = refused(&mut w, Change::CreateService(web.clone()), &["8080", "web"]);
    assert!(matches!(error, Error::Conflict(_)));
    web.ports.clear();
    web.task.image = "nginx".into();
    let error = refused(
        &mut w,
        Change::CreateService(web.clone()),
        &["nginx", "import"],
    );
    assert!(matches!(error, Error::NotFound(_)));
    web.task.image = "web:latest".into();
    web.task.network = NetworkMode::Cluster("blue".into());
    let error = refused(&mut w, Change::CreateService(web.clone()), &["blue"]);
    assert!(matches!(error, Error::NotFound(_)));
    web.task.network = NetworkMode::None;
    w.create(web);
}

#[test]
fn nodes_come_with_good_tokens_and_unique_names_and_go_when_they_are_down() {
    let mut w = World::new(2);
    w.ok(Change::AddToken {
        id: "t".into(),
        hash: [0; 32],
        role: NodeRole::Worker,
        expires_at: Timestamp(w.now.0 + 1000),
    });
    let join = |name: &str, role, token: &str| {
        let node = swarm_api::model::Node {
            name: name.into(),
            role,
            ..node(9)
        };
        let token = Some(token.into());
        Change::AddNode { node, token }
    };
    refused(
        &mut w,
        join("host9", NodeRole::Worker, "x"),
        &["token", "unknown"],
    );
    refused(&mut w, join("host9", NodeRole::Manager, "t"), &["workers"]);
    let error = refused(&mut w, join("host2", NodeRole::Worker, "t"), &["host2"]);
    assert!(matches!(error, Error::AlreadyExists(_)));
    w.ok(join("host9", NodeRole::Worker, "t"));
    w.wait(1000);
    let late = refused(&mut w, join("host9", NodeRole::Worker, "t"), &["expired"]);
    assert!(matches!(late, Error::Denied(_)));
    let (id, force) = (NodeId(9), false);
    let error = refused(&mut w, Change::RemoveNode { id, force }, &["host9"]);
    assert!(matches!(error, Error::Conflict(_)));
    w.ok(Change::NodeDown(id));
    w.ok(Change::RemoveNode { id, force });
    refused(&mut w, Change::NodeUp(id), &[]);
}

#[test]
fn what_is_in_use_stays() {
    let mut w = World::new(1);
    let subnet = Some("10.200.0.0/24".parse().unwrap());
    let name = "blue".to_owned();
    let blue = NetworkSpec { name, subnet };
    let Some(Object::Network(network)) = w.ok(Change::CreateNetwork(blue.clone())) else {
        panic!();
    };
    assert_eq!(network.vni, 2);
    refused(&mut w, Change::CreateNetwork(blue.clone()), &["blue"]);
    let overlapping = NetworkSpec {
        name: "red".into(),
        ..blue
    };
    refused(&mut w, Change::CreateNetwork(overlapping), &["blue"]);
    let mut service = spec("boxed", 1, Restart::Always);
    service.task.network = NetworkMode::Cluster("blue".into());
    service.task.image = "job".into();
    let service = w.create(service);
    w.settle();
    let address = w.running(&service)[0].addresses[0].to_string();
    assert!(address.starts_with("10.200.0."), "{address}");
    refused(
        &mut w,
        Change::RemoveNetwork(network.id.clone()),
        &["boxed"],
    );
    refused(&mut w, Change::RemoveImage("job".into()), &["boxed"]);
    refused(&mut w, Change::RemoveImage("nothing".into()), &["nothing"]);
    w.ok(Change::RemoveService(service.id.clone()));
    refused(&mut w, Change::RemoveImage("job".into()), &["boxed.1"]);
    w.settle();
    w.ok(Change::RemoveImage("job".into()));
    w.ok(Change::RemoveNetwork(network.id));
    let default = w.state.networks.keys().next().unwrap().clone();
    refused(&mut w, Change::RemoveNetwork(default), &["default"]);
}

#[test]
fn a_network_whose_addresses_are_used_up_says_so() {
    let mut w = World::new(2);
    let subnet = Some("10.200.0.0/29".parse().unwrap());
    let name = "tiny".to_owned();
    w.ok(Change::CreateNetwork(NetworkSpec { name, subnet }));
    let mut service = spec("boxed", 6, Restart::Always);
    service.task.network = NetworkMode::Cluster("tiny".into());
    let service = w.create(service);
    w.settle();
    assert_eq!(w.running(&service).len(), 4, "six addresses, two gateways");
    let tasks = w.tasks(&service);
    let waiting = tasks.iter().find(|t| t.node.is_none()).unwrap();
    assert!(waiting.status.message.contains("tiny"));
}

#[test]
fn old_and_foreign_reports_are_not_heard() {
    let mut w = World::new(2);
    let web = w.create(spec("web", 1, Restart::Always));
    w.settle();
    let task = w.running(&web)[0].clone();
    let (here, other) = (task.node.unwrap(), NodeId(3 - task.node.unwrap().0));
    let mut say = |node, state| {
        let status = TaskStatus {
            state,
            ..TaskStatus::default()
        };
        let statuses = vec![(task.id.clone(), status)];
        w.ok(Change::Report { node, statuses });
        w.state.tasks[&task.id].status.state
    };
    assert_eq!(say(here, TaskState::Starting), TaskState::Running);
    assert_eq!(say(other, TaskState::Failed), TaskState::Running);
    assert_eq!(say(here, TaskState::Failed), TaskState::Failed);
    assert_eq!(say(here, TaskState::Running), TaskState::Failed);
    let event = w.state.events.back().unwrap();
    assert_eq!(
        (event.name.as_str(), event.attributes["state"].as_str()),
        ("web.1", "failed")
    );
}

#[test]
fn an_image_of_other_content_is_on_the_node_that_has_it_only() {
    let mut w = World::new(2);
    let image = image("web");
    let put = |image: &swarm_api::model::Image, node| Change::PutImage {
        image: image.clone(),
        node: NodeId(node),
    };
    w.ok(put(&image, 2));
    assert_eq!(w.state.images["web:latest"].nodes.len(), 2);
    let other = swarm_api::model::Image {
        digest: "sha256:other".into(),
        ..image
    };
    w.ok(put(&other, 2));
    assert_eq!(w.state.images["web:latest"].nodes, [NodeId(2)].into());
}

#[test]
fn before_its_first_entry_a_cluster_takes_nothing() {
    let mut state = crate::State::default();
    let command = crate::Command {
        time: Timestamp(0),
        change: Change::RemoveService(Id::default()),
    };
    assert!(state.apply(1, &command).is_err());
}

#[test]
fn a_copy_goes_where_it_can_be_had_again_and_nobody_wants_it() {
    let mut w = World::new(2);
    let drop = |image: &swarm_api::model::Image, node| Change::DropImage {
        reference: image.reference.to_string(),
        digest: image.digest.clone(),
        node: NodeId(node),
    };
    let own = image("own");
    for node in [1, 2] {
        w.ok(Change::PutImage {
            image: own.clone(),
            node: NodeId(node),
        });
    }
    // The last copy of what no registry has stays, also where another is on a node that is down.
    w.ok(Change::NodeDown(NodeId(2)));
    refused(&mut w, drop(&own, 1), &["own", "no registry"]);
    w.ok(Change::NodeUp(NodeId(2)));
    w.ok(drop(&own, 1));
    refused(&mut w, drop(&own, 2), &["own"]);
    let mut other = own.clone();
    other.digest = "sha256:new".into();
    w.ok(drop(&other, 2));
    assert_eq!(w.state.images["own:latest"].nodes.len(), 1);
    // What is wanted stays under all of its names; what a registry has goes wholly.
    let mut pulled = image("pulled:1");
    pulled.manifest = Some("sha256:m".into());
    let pinned = swarm_api::model::Image {
        reference: "pulled:2".parse().unwrap(),
        ..pulled.clone()
    };
    for image in [&pulled, &pinned] {
        w.ok(Change::PutImage {
            image: image.clone(),
            node: NodeId(1),
        });
    }
    let mut web = spec("web", 1, Restart::Always);
    web.task.image = "pulled:2".into();
    let service = w.create(web);
    refused(&mut w, drop(&pulled, 1), &["pulled:1", "service web"]);
    w.ok(Change::RemoveService(service.id));
    w.ok(drop(&pulled, 1));
    assert!(!w.state.images.contains_key("pulled:1"));
}
