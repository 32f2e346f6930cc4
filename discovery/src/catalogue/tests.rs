use super::*;
use proptest::prelude::*;

fn endpoint(service: u8, slot: u8, case: bool) -> Endpoint {
    let name = if case {
        format!("SVC{service}")
    } else {
        format!("svc{service}")
    };
    Endpoint {
        task_id: format!("id-{service}-{slot}"),
        task: format!("{name}.{slot}"),
        service: Some(name),
        node: 1,
        node_name: "a".to_owned(),
        addresses: vec![Address {
            network: Some(format!("net{}", slot % 2)),
            ip: IpAddr::from([10, service, 0, slot]),
        }],
        ports: Vec::new(),
    }
}

proptest! {
    #[test]
    fn every_live_task_is_found_and_nothing_else(tasks in prop::collection::btree_map((0u8..6, 0u8..40), any::<bool>(), 0..60)) {
        let endpoints: Vec<Endpoint> = tasks.iter().map(|(&(service, slot), &case)| endpoint(service, slot, case)).collect();
        let catalogue = Catalogue::new(Contents { endpoints: endpoints.clone(), services: vec!["empty".to_owned()], ..Contents::default() });
        for e in &endpoints {
            prop_assert_eq!(catalogue.task(&e.task), Some(e));
            prop_assert_eq!(catalogue.task(&e.task_id.to_uppercase()), Some(e));
            prop_assert_eq!(catalogue.task_at(e.addresses[0].ip), Some(e));
            prop_assert!(catalogue.service(e.service.as_deref().unwrap()).unwrap().contains(&e));
        }
        let total: usize = (0..6).filter_map(|s| catalogue.service(&format!("Svc{s}"))).map(|t| t.len()).sum();
        prop_assert_eq!(total, endpoints.len());
        prop_assert_eq!(catalogue.service("EMPTY"), Some(vec![]));
        prop_assert_eq!(catalogue.service("other"), None);
    }
}

#[test]
fn a_task_is_seen_only_from_its_own_networks() {
    let mut e = endpoint(1, 1, false);
    assert_eq!(e.slot(), "1");
    assert_eq!(e.visible(Some("net1")).count(), 1);
    assert_eq!(e.visible(Some("net0")).count(), 0);
    assert_eq!(e.visible(None).count(), 1);
    e.addresses[0].network = None;
    assert_eq!(e.visible(Some("net0")).count(), 1);
    e.service = None;
    assert_eq!(e.slot(), "svc1.1");
}

#[test]
fn readers_see_the_newest_catalogue() {
    let cell = CatalogueCell::default();
    assert_eq!(cell.load().index(), 0);
    let old = cell.load();
    cell.store(Catalogue::new(Contents {
        index: 7,
        stale: true,
        ..Contents::default()
    }));
    assert_eq!(
        (cell.load().index(), cell.load().stale(), old.index()),
        (7, true, 0)
    );
}
