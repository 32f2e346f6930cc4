use super::*;
use crate::command::Change;
use crate::testing::{World, spec};
use swarm_api::model::Restart;

fn world() -> (World, Service) {
    let mut w = World::new(2);
    let mut web = spec("web", 11, Restart::OnFailure);
    web.ports = vec!["8080:80".parse().unwrap()];
    let web = w.create(web);
    w.create(spec("api", 1, Restart::Never));
    w.settle();
    (w, web)
}

fn tasks(w: &World, query: &Query) -> Vec<Task> {
    let task = |o| match o {
        Object::Task(t) => t,
        other => panic!("{other:?}"),
    };
    w.state.list(query).unwrap().into_iter().map(task).collect()
}

#[test]
fn tasks_are_listed_by_service_and_slot_with_their_nodes() {
    let (mut w, web) = world();
    let mut query = Query::of(Kind::Task);
    let names: Vec<String> = tasks(&w, &query).into_iter().map(|t| t.name).collect();
    assert_eq!(names[0], "api.1");
    assert_eq!((names[2].as_str(), names[11].as_str()), ("web.2", "web.11"));
    query.node = Some("host2".into());
    assert!(tasks(&w, &query).iter().all(|t| t.node_name == "host2"));
    query.node = Some("ghost".into());
    assert!(
        w.state
            .list(&query)
            .unwrap_err()
            .to_string()
            .contains("ghost")
    );
    // Ended ones only with `all`; of a service that is not there, none.
    query = Query::of(Kind::Task);
    query.service = Some("api".into());
    w.ends(&w.state.find_task("api").unwrap().id.clone(), 1);
    w.settle();
    assert!(tasks(&w, &query).is_empty());
    query.all = true;
    assert_eq!(tasks(&w, &query).len(), 1);
    query.service = Some("ghost".into());
    assert!(tasks(&w, &query).is_empty());
    let services = w.state.list(&Query::of(Kind::Service)).unwrap();
    let running = |o: &Object| match o {
        Object::Service(s) => s.running,
        _ => 0,
    };
    assert_eq!(services.iter().map(running).collect::<Vec<_>>(), [0, 11]);
    assert_eq!(w.state.tasks_of_service(&web.id).len(), 11);
}

#[test]
fn a_task_is_found_by_name_id_prefix_and_lone_service() {
    let (mut w, _) = world();
    let api = w.state.find_task("api").unwrap().clone();
    assert_eq!(w.state.find_task("api.1").unwrap().id, api.id);
    assert_eq!(w.state.find_task(api.id.as_str()).unwrap().id, api.id);
    assert_eq!(w.state.find_task(&api.id.as_str()[..8]).unwrap().id, api.id);
    let several = w.state.find_task("web").unwrap_err();
    assert!(
        matches!(&several, Error::Invalid(why) if why.contains("web.1") && why.contains("3 more"))
    );
    for ghost in ["ghost", "ghost.1", "web.12", ""] {
        let error = w.state.find_task(ghost).unwrap_err();
        assert!(matches!(&error, Error::NotFound(why) if why.contains(ghost)));
    }
    // Of one name, the one that lives; or else the newest.
    w.ends(&w.state.find_task("web.3").unwrap().id.clone(), 1);
    w.settle();
    let next = w.state.find_task("web.3").unwrap().clone();
    assert_eq!(next.attempt, 1);
    w.now = next.not_before;
    w.settle();
    assert_eq!(w.state.find_task("web.3").unwrap().id, next.id);
}

#[test]
fn objects_are_found_by_name_and_id() {
    let (w, web) = world();
    for (kind, name) in [
        (Kind::Node, "host1".to_owned()),
        (Kind::Node, w.state.nodes.keys().next().unwrap().to_string()),
        (Kind::Service, web.id.to_string()),
        (Kind::Image, "web".into()),
        (Kind::Image, "web:latest".into()),
        (Kind::Network, "default".into()),
        (Kind::Task, "web.1".into()),
    ] {
        w.state.get(kind, &name).unwrap();
    }
    for kind in [
        Kind::Node,
        Kind::Service,
        Kind::Image,
        Kind::Network,
        Kind::Task,
    ] {
        let error = w.state.get(kind, "ghost").unwrap_err();
        assert!(matches!(&error, Error::NotFound(why) if why.contains("ghost")));
    }
    // Ids of small node numbers have a long prefix in common.
    let error = w.state.get(Kind::Node, "aaaa").unwrap_err();
    assert!(
        matches!(&error, Error::Invalid(why) if why.contains("host1") && why.contains("host2"))
    );
}

#[test]
fn a_lookup_finds_what_runs_behind_a_service_a_task_or_a_node() {
    let (mut w, web) = world();
    let found = w.state.lookup("web").unwrap();
    assert_eq!(found.endpoints.len(), 11);
    assert_eq!(found.endpoints[0].ports[0].target, 80);
    assert_eq!(w.state.lookup("web.2").unwrap().endpoints.len(), 1);
    let both = ["host1", "host2"].map(|n| w.state.lookup(n).unwrap().endpoints.len());
    assert_eq!(both.iter().sum::<usize>(), 12);
    w.scale(&web, 0);
    w.settle();
    assert!(w.state.lookup("web").unwrap().endpoints.is_empty());
    w.ok(Change::RemoveService(web.id));
    w.settle();
    assert!(
        w.state
            .lookup("web")
            .unwrap_err()
            .to_string()
            .contains("web")
    );
}
