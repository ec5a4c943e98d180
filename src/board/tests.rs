use super::*;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

/// Envoy's shared data as it behaves: versions are compared on slots that exist only.
#[derive(Default, Clone)]
struct Slots(Rc<RefCell<HashMap<String, Versioned>>>);

type Versioned = (Vec<u8>, u32);

impl Board for Slots {
    fn read(&self, slot: &str) -> Option<(Vec<u8>, u32)> {
        self.0.borrow().get(slot).cloned()
    }

    fn write(&self, slot: &str, bytes: &[u8], version: Option<u32>) -> bool {
        let mut slots = self.0.borrow_mut();
        let held = slots.get(slot).map(|(_, version)| *version);
        if held.is_some() && version.is_some() && held != version {
            return false;
        }
        slots.insert(slot.to_owned(), (bytes.to_vec(), held.unwrap_or(0) + 1));
        true
    }
}

/// What a claim says, less what is the board's own affair.
#[derive(Debug, PartialEq)]
enum Whose {
    Mine,
    Theirs(u64),
    Answered(u64),
}

/// A worker that speaks of one thing.
struct One {
    exchange: Exchange,
    place: Place,
}

impl One {
    fn claim(&self, seen: Option<UnixTime>, now: u64, until: u64) -> Whose {
        let answers = |posted: &Posted| Some(posted.at) > seen;
        match self.exchange.claim(&self.place, at(now), Some(at(until)), answers) {
            Claim::Mine => Whose::Mine,
            Claim::Theirs(turn) => Whose::Theirs(turn.until.as_millis()),
            Claim::Answered(posted) => Whose::Answered(posted.at.as_millis()),
        }
    }

    fn post_news(&self, now: u64) -> UnixTime {
        self.exchange.post_news(&self.place, None, b"keys", at(now)).at
    }

    fn post_failure(&self, now: u64) -> UnixTime {
        self.exchange.post_failure(&self.place, Fault::Outage, at(now)).at
    }

    fn news(&self, seen: Option<u64>) -> Option<News> {
        self.news_at(seen, 1_000_000)
    }

    fn news_at(&self, seen: Option<u64>, now: u64) -> Option<News> {
        self.exchange.news(&self.place, seen.map(at), at(now))
    }

    fn look(&self, seen: Option<u32>, now: u64) -> Option<View> {
        self.exchange.look(&self.place, seen, at(now))
    }
}

fn exchange(slots: &Slots, key: &str, me: u64) -> Exchange {
    Exchange::new(Box::new(slots.clone()), &Secret::new(key.to_owned()), me)
}

fn worker(slots: &Slots, key: &str, me: u64) -> One {
    let exchange = exchange(slots, key, me);
    One { place: exchange.place("jwks", "an issuer's"), exchange }
}

fn workers(slots: &Slots) -> [One; 2] {
    [1, 2].map(|me| worker(slots, "a key that is shared", me))
}

/// Two workers that speak of two things which share a slot.
fn neighbours(slots: &Slots) -> [One; 2] {
    [("one", 1), ("another", 2)].map(|(subject, me)| {
        let exchange = exchange(slots, "a key that is shared", me);
        exchange.lay("table", 1);
        One { place: exchange.seat("table", 1, subject), exchange }
    })
}

fn at(millis: u64) -> UnixTime {
    UnixTime::from_millis(millis)
}

fn posted(millis: u64) -> Posted {
    Posted { at: at(millis), max_age: None, body: b"keys".to_vec() }
}

#[test]
fn one_worker_asks_and_the_others_see_its_answer() {
    let [one, two] = workers(&Slots::default());
    assert_eq!(one.claim(None, 10, 20), Whose::Mine);
    assert_eq!(two.claim(None, 11, 21), Whose::Theirs(20));
    assert_eq!(two.news(None), None);
    assert_eq!(one.post_news(15), at(15));
    assert_eq!(two.news(None), Some(News::Answer(posted(15))));
    assert_eq!(two.news(Some(15)), None);
    assert_eq!(two.claim(None, 16, 26), Whose::Answered(15));
    assert_eq!(two.claim(Some(at(15)), 16, 26), Whose::Mine);
    // The answer stays there while the next one is asked for.
    assert_eq!(one.news(None), Some(News::Answer(posted(15))));
}

#[test]
fn a_turn_ends_by_itself_when_its_holder_dies() {
    let [one, two] = workers(&Slots::default());
    assert_eq!(one.claim(None, 10, 20), Whose::Mine);
    assert_eq!(two.claim(None, 19, 30), Whose::Theirs(20));
    assert!(two.look(None, 19).unwrap().theirs);
    assert!(!two.look(None, 20).unwrap().theirs);
    assert_eq!(two.claim(None, 20, 30), Whose::Mine);
    assert_eq!(one.claim(None, 21, 40), Whose::Theirs(30));
}

#[test]
fn a_turn_does_not_outlast_a_clock_that_is_set_back() {
    let [one, two] = workers(&Slots::default());
    assert_eq!(one.claim(None, 100_000, 100_010), Whose::Mine);
    assert_eq!(two.claim(None, 10, 20), Whose::Mine);
}

#[test]
fn what_is_posted_by_a_clock_set_back_is_news_all_the_same() {
    let [one, two] = workers(&Slots::default());
    assert_eq!(one.post_news(100), at(100));
    assert_eq!(one.post_news(15), at(101));
    assert_eq!(two.news(Some(100)), Some(News::Answer(posted(101))));
    assert_eq!(one.post_failure(16), at(102));
}

/// A turn that is taken ends the failure before it, but not that somebody has heard of it.
#[test]
fn what_is_posted_after_a_failure_is_news_though_the_clock_was_set_back() {
    let slots = Slots::default();
    let [one, two] = workers(&slots);
    let first = one.post_news(1_000);
    let heard = one.post_failure(10);
    assert!(heard > first);
    assert_eq!(one.claim(Some(heard), 11, 20), Whose::Mine);
    let second = one.post_news(12);
    assert!(second > heard, "{second:?} {heard:?}");
    assert_eq!(
        two.news(Some(heard.as_millis())),
        Some(News::Answer(Posted { at: second, ..posted(0) }))
    );
}

/// All that others were told was by a time that is yet to come, and then another plugin wrote over it.
#[test]
fn what_is_posted_where_all_was_written_over_is_news_though_the_clock_was_set_back() {
    let [one, two] = workers(&Slots::default());
    one.post_news(15);
    assert_eq!(two.news_at(Some(1_000), 20), Some(News::Answer(posted(15))));
    // Where the clock was not set back, it is something old that was put there again.
    assert_eq!(two.news_at(Some(1_000), 1_000), None);
    // What has been seen is not news, whatever its time.
    assert_eq!(two.news_at(Some(15), 10), None);
    let failed = one.post_failure(16);
    assert_eq!(two.news_at(Some(15), 10), Some(News::Failure(failed)));
    assert_eq!(two.news_at(Some(16), 10), None);
}

#[test]
fn a_failure_is_told_and_takes_no_answer_away() {
    let [one, two] = workers(&Slots::default());
    assert_eq!(one.post_failure(5), at(5));
    assert_eq!(two.news(None), Some(News::Failure(at(5))));
    assert_eq!(one.post_news(15), at(15));
    assert_eq!(one.claim(Some(at(15)), 16, 26), Whose::Mine);
    assert_eq!(one.post_failure(20), at(20));
    assert_eq!(two.news(None), Some(News::Answer(posted(15))));
    assert_eq!(two.news(Some(15)), Some(News::Failure(at(20))));
    assert_eq!(two.news(Some(20)), None);
    assert_eq!(two.claim(Some(at(20)), 21, 31), Whose::Mine);
}

#[test]
fn who_may_not_ask_waits_for_others_and_takes_no_turn() {
    let [one, two] = workers(&Slots::default());
    let claim = |until| two.exchange.claim(&two.place, at(11), until, |_| false);
    assert_eq!(claim(None), Claim::Mine, "it would be, but it was left there");
    assert_eq!(one.claim(None, 10, 20), Whose::Mine);
    assert!(matches!(claim(None), Claim::Theirs(turn) if turn.until == at(20)));
}

#[test]
fn a_late_failure_ends_nobody_elses_turn() {
    let [one, two] = workers(&Slots::default());
    assert_eq!(one.claim(None, 10, 20), Whose::Mine);
    assert_eq!(two.claim(None, 20, 30), Whose::Mine);
    let _ = one.post_failure(21);
    assert_eq!(one.claim(None, 22, 32), Whose::Theirs(30));
    // A late answer is an answer.
    let _ = one.post_news(23);
    assert_eq!(two.claim(None, 24, 34), Whose::Answered(23));
}

#[test]
fn who_posts_learns_whether_somebody_waits() {
    let [one, two] = workers(&Slots::default());
    assert_eq!(one.claim(None, 10, 20), Whose::Mine);
    assert!(!one.exchange.post(&one.place, &posted(11), at(11)).watched);
    assert_eq!(one.claim(Some(at(11)), 12, 22), Whose::Mine);
    assert_eq!(two.claim(Some(at(11)), 13, 23), Whose::Theirs(22));
    assert!(one.exchange.post(&one.place, &posted(14), at(14)).watched);
    assert!(!one.exchange.post(&one.place, &posted(15), at(15)).watched, "that was another turn");
}

#[test]
fn a_slot_is_looked_at_again_only_when_it_has_changed() {
    let [one, two] = workers(&Slots::default());
    assert_eq!(one.claim(None, 10, 20), Whose::Mine);
    let Claim::Theirs(Theirs { version, .. }) =
        two.exchange.claim(&two.place, at(11), Some(at(21)), |_| false)
    else {
        panic!("it is one's turn");
    };
    assert_eq!(two.look(Some(version), 12), None);
    let _ = one.post_news(13);
    let view = two.look(Some(version), 14).unwrap();
    assert_eq!((view.theirs, view.posted, view.failed), (false, Some(posted(13)), None));
}

#[test]
fn two_things_in_one_slot_take_turns_and_are_never_mistaken() {
    let slots = Slots::default();
    let [one, two] = neighbours(&slots);
    assert_eq!(one.claim(None, 10, 20), Whose::Mine);
    assert_eq!(two.claim(None, 11, 21), Whose::Mine, "it asks, and tells nobody");
    let _ = two.post_news(12);
    let _ = two.post_failure(12);
    assert_eq!(two.news(None), None, "it is the other one's turn still");
    let _ = one.post_news(13);
    assert_eq!(one.news(None), Some(News::Answer(posted(13))));
    assert_eq!(two.look(None, 14), Some(View::default()));
    let _ = two.post_news(15);
    assert_eq!(two.news(None), Some(News::Answer(posted(15))), "the later one stands");
    assert_eq!(one.news(None), None);
}

#[test]
fn a_table_is_laid_once_and_grows() {
    let slots = Slots::default();
    let one = exchange(&slots, "a key that is shared", 1);
    one.lay("table", 3);
    let count = slots.0.borrow().len();
    assert_eq!(count, 3 + 1, "and what says so");
    let seat = one.seat("table", 3, "x");
    let _ = one.post(&seat, &posted(1), at(1));
    one.lay("table", 3);
    one.lay("table", 5);
    one.lay("table", 2);
    assert_eq!(slots.0.borrow().len(), 5 + 1);
    assert_eq!(one.look(&seat, None, at(2)).unwrap().posted, Some(posted(1)), "nothing is lost");
    for subject in 0..100 {
        let seat = one.seat("table", 5, &subject.to_string());
        assert!(slots.0.borrow().contains_key(seat.slot()));
    }
}

#[test]
fn a_signed_text_is_of_one_subject_and_cannot_be_altered() {
    let slots = Slots::default();
    let [one, stranger] =
        ["a key that is shared", "a key of its own...."].map(|key| exchange(&slots, key, 1));
    let text = one.signed("u-1", b"record");
    assert_eq!(one.verified("u-1", &text), Some(b"record".to_vec()));
    assert_eq!(one.verified("u-2", &text), None);
    assert_eq!(stranger.verified("u-1", &text), None);
    for place in 0..text.len() {
        let mut altered = text.clone().into_bytes();
        altered[place] = if altered[place] == b'A' { b'B' } else { b'A' };
        let altered = String::from_utf8(altered).unwrap();
        assert_eq!(one.verified("u-1", &altered), None, "byte {place}");
        assert_eq!(one.verified("u-1", text.get(place + 1..).unwrap()), None, "from byte {place}");
    }
}

#[test]
fn what_another_plugin_wrote_is_nothing() {
    let slots = Slots::default();
    let one = worker(&slots, "a key that is shared", 1);
    let stranger = worker(&slots, "a key of its own....", 2);
    assert_eq!(one.post_news(15), at(15));
    let name = one.place.slot().to_owned();
    let (good, version) = slots.read(&name).unwrap();
    for place in 0..good.len() {
        let mut altered = good.clone();
        altered[place] ^= 1;
        slots.0.borrow_mut().insert(name.clone(), (altered, version));
        assert_eq!(one.news(None), None, "byte {place}");
    }
    for bytes in [&b""[..], b"x", &[0; 64], &good[1..]] {
        slots.0.borrow_mut().insert(name.clone(), (bytes.to_vec(), version));
        assert_eq!(one.news(None), None);
    }
    // A note of ours in another slot is not a note of that slot.
    let other = exchange(&slots, "a key that is shared", 1).place("jwks", "another issuer's");
    slots.0.borrow_mut().insert(other.slot().to_owned(), (good, 1));
    assert_eq!(one.exchange.news(&other, None, at(0)), None);
    assert_ne!(stranger.place.slot(), name);
    assert_eq!(one.claim(None, 1, 2), Whose::Mine);
}
