//! Lists, history, events.

use super::*;
use keelstone_store::Space;

const ORGS: [&str; 3] = ["urn:vcloud:org:a", "urn:vcloud:org:b", ""];

/// Thirty entities of four type versions in three orgs.
async fn filled() -> Bench {
    let bench = Bench::new().await;
    for id in ["acme:thing:1.1.0", "acme:thing:10.0.0", "acme:thing2:1.0.0"] {
        bench.register(&format!("urn:vcloud:type:{id}"), "{}").await.unwrap();
    }
    for number in 0..30 {
        let types =
            ["acme:thing:1.0.0", "acme:thing:1.1.0", "acme:thing:10.0.0", "acme:thing2:1.0.0"];
        let mut request = creation(&format!("{{\"number\": {number}}}"));
        request.type_id = format!("urn:vcloud:type:{}", types[number % 4]);
        request.org = ORGS[number % 3].to_owned();
        request.name = format!("n{}", number % 5);
        request.resolve = number % 2 == 0;
        request.uuid.clear();
        bench.create_with(request).await.unwrap();
    }
    bench
}

async fn pages(bench: &Bench, mut query: ListQuery) -> Vec<Entity> {
    let mut found = Vec::new();
    let mut revision = None;
    loop {
        let page = bench.entities.list(&query, deadline()).await.unwrap().value;
        assert_eq!(*revision.get_or_insert(page.revision), page.revision);
        assert!(page.entities.len() <= query.page_size.max(1) || query.page_size == 0);
        found.extend(page.entities);
        if page.next_page_token.is_empty() {
            return found;
        }
        query.page_token = page.next_page_token;
    }
}

#[tokio::test]
async fn lists_find_what_a_filter_would() {
    let bench = filled().await;
    let all = pages(&bench, ListQuery::default()).await;
    assert_eq!(all.len(), 30);
    let mut checked = 0;
    for types in ["", "thing", "thing:1", "thing:1.1", "thing:10.0.0", "thing2", "thing3"] {
        for org in ["", ORGS[0], "urn:vcloud:org:"] {
            for (name, state) in [("", None), ("n2", None), ("", Some(EntityState::Resolved))] {
                let query = ListQuery {
                    types: (!types.is_empty())
                        .then(|| format!("urn:vcloud:type:acme:{types}").parse().unwrap()),
                    org: (!org.is_empty()).then(|| org.to_owned()),
                    name: (!name.is_empty()).then(|| name.to_owned()),
                    state,
                    page_size: 3,
                    ..ListQuery::default()
                };
                let mut found = pages(&bench, query.clone()).await;
                let mut expected: Vec<Entity> = all.clone();
                expected.retain(|entity| {
                    query.types.as_ref().is_none_or(|types| types.matches(&entity.type_id))
                        && query.org.as_ref().is_none_or(|org| entity.org == *org)
                        && query.name.as_ref().is_none_or(|name| entity.name == *name)
                        && state.is_none_or(|state| entity.state == state)
                });
                found.sort_by_key(|entity| entity.id.to_string());
                expected.sort_by_key(|entity| entity.id.to_string());
                assert_eq!(found, expected, "{query:?}");
                checked += found.len();
            }
        }
    }
    assert!(checked > 100, "the filters found too little to prove anything: {checked}");
}

#[tokio::test]
async fn pages_are_of_one_revision() {
    let bench = filled().await;
    let before = pages(&bench, ListQuery { page_size: 7, ..ListQuery::default() }).await;
    for org in [None, Some(ORGS[0].to_owned())] {
        let mut query = ListQuery { page_size: 4, org, ..ListQuery::default() };
        let expected = pages(&bench, query.clone()).await;
        let first = bench.entities.list(&query, deadline()).await.unwrap().value;
        for entity in &before {
            if bench.get(&entity.id).await.is_ok() {
                let change = patch(&entity.id, Precondition::Unconditional, r#"{"later": true}"#);
                bench.write(change).await.unwrap();
            }
        }
        let last = expected.last().unwrap();
        bench.write(delete(&last.id, Precondition::Unconditional)).await.unwrap();
        query.page_token = first.next_page_token;
        let mut found = first.entities;
        found.extend(pages(&bench, query).await);
        assert_eq!(found, expected);
    }
}

#[tokio::test]
async fn tokens_are_checked() {
    let bench = filled().await;
    let query = ListQuery { page_size: 2, ..ListQuery::default() };
    let token = bench.entities.list(&query, deadline()).await.unwrap().value.next_page_token;
    let other = ListQuery {
        org: Some(ORGS[0].to_owned()),
        page_token: token.clone(),
        ..ListQuery::default()
    };
    let error = bench.entities.list(&other, deadline()).await.unwrap_err();
    assert_eq!((error.reason(), error.field()), ("page_token_invalid", "page_token"));
    bench
        .write(delete(&pages(&bench, query.clone()).await[0].id, Precondition::Unconditional))
        .await
        .unwrap();
    let revision = bench.head_revision();
    bench.solo().apply_command(Command::Compact { revision }).unwrap();
    let late = ListQuery { page_token: token, ..query };
    let error = bench.entities.list(&late, deadline()).await.unwrap_err();
    assert_eq!(error.reason(), "compacted", "{error}");
}

#[tokio::test]
async fn a_summary_has_no_documents() {
    let bench = filled().await;
    let listed = pages(&bench, ListQuery { summary: true, ..ListQuery::default() }).await;
    assert_eq!(listed.len(), 30);
    assert!(listed.iter().all(|entity| entity.document.is_empty() && !entity.name.is_empty()));
}

#[tokio::test]
async fn types_are_listed_by_prefix() {
    let bench = filled().await;
    let listed = async |vendor: &str, nss: &str, versions: &str| {
        let mut request = v1::TypeListRequest {
            vendor: vendor.to_owned(),
            nss: nss.to_owned(),
            version_prefix: versions.to_owned(),
            page_size: 1,
            summary: true,
            ..v1::TypeListRequest::default()
        };
        let mut found = Vec::new();
        loop {
            let query = wire::type_query(request.clone()).unwrap();
            let page = bench.entities.list_types(&query, deadline()).await.unwrap().value;
            found.extend(page.types.iter().map(|known| known.id.short()));
            assert!(page.types.iter().all(|known| known.schema.is_empty()));
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                return found.join(" ");
            }
        }
    };
    let all = "acme:thing2:1.0.0 acme:thing:1.0.0 acme:thing:1.1.0 acme:thing:10.0.0";
    assert_eq!(listed("", "", "").await, all);
    assert_eq!(listed("acme", "", "").await, all);
    assert_eq!(listed("acme", "thing", "").await, &all[18..]);
    assert_eq!(listed("acme", "thing", "1").await, "acme:thing:1.0.0 acme:thing:1.1.0");
    assert_eq!(listed("acme", "thing", "10.0.0").await, "acme:thing:10.0.0");
    assert_eq!(listed("ac", "", "").await, "");
}

#[tokio::test]
async fn history_is_kept_and_can_be_read_at_a_revision() {
    let bench = Bench::new().await;
    let first = bench.create(r#"{"size": 1}"#).await;
    let id = first.id.clone();
    for size in 2..6 {
        let body = format!("{{\"size\": {size}}}");
        bench.write(patch(&id, Precondition::Unconditional, &body)).await.unwrap();
    }
    bench.write(delete(&id, Precondition::Unconditional)).await.unwrap();
    let query = HistoryQuery { id: id.clone(), limit: 3, before: Revision::ZERO, summary: false };
    let linearizable = Consistency::Linearizable;
    let newest = bench.entities.history(&query, linearizable, deadline()).await.unwrap().value;
    assert!(newest.more);
    assert_eq!(newest.versions.len(), 3);
    assert_eq!(newest.versions[0].entity, None);
    assert_eq!(text(newest.versions[1].entity.as_ref().unwrap()), r#"{"size":5}"#);
    let older = HistoryQuery { before: newest.versions[2].revision, limit: 9, ..query.clone() };
    let older = bench.entities.history(&older, linearizable, deadline()).await.unwrap().value;
    assert_eq!(older.versions.len(), 3);
    assert!(!older.more);
    assert_eq!(older.versions[2].entity, Some(first.clone()));

    let at = bench.entities.get(&id, first.revision, linearizable, deadline()).await.unwrap();
    assert_eq!(at.value, first);
    assert_eq!(at.revision, bench.head_revision());
    let revision = bench.head_revision();
    let future = bench.entities.get(&id, revision.next(), linearizable, deadline()).await;
    assert_eq!(future.unwrap_err().reason(), "future_revision");
    bench.solo().apply_command(Command::Compact { revision }).unwrap();
    let gone = bench.entities.get(&id, first.revision, linearizable, deadline()).await;
    assert_eq!(gone.unwrap_err().reason(), "compacted");
    let unknown = HistoryQuery {
        id: EntityId::new(id.type_name().clone(), &UUID.replace('5', "6")).unwrap(),
        ..query
    };
    let unknown = bench.entities.history(&unknown, linearizable, deadline()).await;
    assert_eq!(unknown.unwrap_err().reason(), "entity_not_found");
}

#[tokio::test]
async fn events_tell_the_life_of_an_entity() {
    let bench = Bench::new().await;
    let from = bench.head_revision().next();
    let id = bench.create(r#"{"size": 1}"#).await.id;
    bench.write(patch(&id, Precondition::Unconditional, r#"{"size": 2}"#)).await.unwrap();
    bench.write(delete(&id, Precondition::Unconditional)).await.unwrap();
    let view = bench.solo().state().view().unwrap();
    let events = view.events_from(from, 100, 1 << 20).unwrap().unwrap();
    let told = |filter: EntityFilter| {
        let range = filter.range();
        let events = events.iter().filter(|event| range.contains(event.key.as_bytes()));
        let events = events.filter_map(|event| filter.event(event).unwrap());
        events.map(|event| (event.kind, text(&event.entity).to_owned())).collect::<Vec<_>>()
    };
    let all = told(EntityFilter::default());
    let expected = [
        (EntityEventKind::Created, r#"{"size": 1}"#),
        (EntityEventKind::Updated, r#"{"size":2}"#),
        (EntityEventKind::Deleted, r#"{"size":2}"#),
    ];
    assert_eq!(all, expected.map(|(kind, document)| (kind, document.to_owned())));
    let types = |text: &str| Some(text.parse().unwrap());
    let by_type =
        EntityFilter { types: types("urn:vcloud:type:acme:thing:1"), ..EntityFilter::default() };
    assert_eq!(told(by_type), all);
    let other =
        EntityFilter { types: types("urn:vcloud:type:acme:thing:2"), ..EntityFilter::default() };
    assert_eq!(told(other), []);
    assert_eq!(told(EntityFilter { id: Some(id), ..EntityFilter::default() }), all);
    let org =
        EntityFilter { org: Some("urn:vcloud:org:other".to_owned()), ..EntityFilter::default() };
    assert_eq!(told(org), []);
    let index = events.iter().filter(|event| event.key.is_in(Space::Entities)).count();
    assert!(index > 3, "index rows change too, and are not told");
}
