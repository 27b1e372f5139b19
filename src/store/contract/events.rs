//! Tests of events: each exactly once, in the order of commits, and lost ones reported.

use crate::Event;
use crate::store::Change;

use super::StoreFactory;
use super::tools::*;

fn switched(to: &str) -> Event {
    Event::CurrentUserChanged { from: None, to: Some(id(to)) }
}

pub(super) fn events_follow_commit_order(place: &dyn StoreFactory) {
    let (one, other) = (place.open(), place.open());
    commit(&*one, &[Change::Emit(switched("a")), put(user("a", 1)), Change::Emit(switched("b"))]);
    commit(&*other, &[Change::Emit(switched("c"))]);
    commit(&*one, &[Change::Location(None)]);
    catch_up(place);
    for store in [one, other, place.open()] {
        let recent = store.recent(Some(0), soon()).unwrap();
        let events = [(1, switched("a")), (1, switched("b")), (2, switched("c"))];
        assert_eq!(recent.events, events);
        assert_eq!((recent.number, recent.lagged), (3, false));
        assert_eq!(store.recent(Some(1), soon()).unwrap().events, events[2..]);
        let recent = store.recent(Some(3), soon()).unwrap();
        assert_eq!((recent.events.len(), recent.lagged), (0, false));
        assert_eq!(store.recent(None, soon()).unwrap().events, []);
    }
}

pub(super) fn events_of_commit_stay_together(place: &dyn StoreFactory) {
    let store = place.open();
    let events = ["a", "b", "c"].map(|to| Change::Emit(switched(to)));
    let mut oldest = 1;
    while oldest == 1 {
        let last = commit(&*store, &events);
        assert!(last < 5_000, "nothing is ever forgotten");
        let received = store.recent(Some(0), soon()).unwrap().events;
        oldest = received.first().unwrap().0;
        let numbers = received.iter().map(|(number, _)| *number);
        assert!(numbers.eq((oldest..=last).flat_map(|number| [number; 3])), "from {oldest} on");
    }
}

pub(super) fn events_before_log_are_lagged(place: &dyn StoreFactory) {
    let store = place.open();
    // The store decides how many commits it logs: at least 64, and not without limit.
    let mut last = 0;
    while last < 64 || !store.recent(Some(0), soon()).unwrap().lagged {
        last = commit(&*store, &[Change::Emit(switched(&last.to_string()))]);
        assert!(last < 5_000, "nothing is ever forgotten");
    }
    let recent = store.recent(Some(0), soon()).unwrap();
    assert_eq!(recent.events.last().unwrap(), &(last, switched(&(last - 1).to_string())));
    let recent = store.recent(Some(last - 10), soon()).unwrap();
    assert_eq!((recent.events.len(), recent.lagged), (10, false));
}

pub(super) fn higher_number_is_lagged(place: &dyn StoreFactory) {
    let store = place.open();
    log_in(&*store, "ada");
    let recent = store.recent(Some(7), soon()).unwrap();
    assert_eq!((recent.number, recent.lagged), (1, true));
}

pub(super) fn events_alone_are_commit(place: &dyn StoreFactory) {
    let store = place.open();
    assert_eq!(commit(&*store, &[Change::Emit(switched("a"))]), 1);
    assert_eq!(store.recent(Some(0), soon()).unwrap().events, [(1, switched("a"))]);
}
