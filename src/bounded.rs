//! A map that never holds more than it may: the one container for what strangers make grow.

use std::hash::{BuildHasher, Hash, RandomState};

use hashbrown::{Equivalent, HashTable};

/// A cache of at most `capacity` entries, of which half is for those that were used again.
///
/// An entry begins among those seen once and moves when it is first asked for. So a flood of entries
/// that nobody asks for again, be it a scan or an attack, pushes out only its like.
///
/// Keys are hashed with a random seed, and a call hashes its key once: every request looks a long one up.
pub struct BoundedMap<K, V> {
    once: Generations<K, V>,
    again: Generations<K, V>,
    seed: RandomState,
}

impl<K: Eq + Hash, V> BoundedMap<K, V> {
    /// An empty map for at most `capacity` entries (at least four).
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let quarter = (capacity / 4).max(1);
        Self {
            once: Generations::new(quarter),
            again: Generations::new(quarter),
            seed: RandomState::new(),
        }
    }

    /// The entry of `key`, which thereby counts as used.
    pub fn get<Q: Hash + Equivalent<K> + ?Sized>(&mut self, key: &Q) -> Option<&V> {
        let hash = self.seed.hash_one(key);
        let place = match self.again.place(hash, key) {
            Some(place) => place,
            None => self.again.insert(self.once.take(hash, key)?),
        };
        self.again.at(place)
    }

    /// The entry of `key`, which does not count as used.
    #[must_use]
    pub fn peek<Q: Hash + Equivalent<K> + ?Sized>(&self, key: &Q) -> Option<&V> {
        let hash = self.seed.hash_one(key);
        self.once.peek(hash, key).or_else(|| self.again.peek(hash, key))
    }

    /// Puts `value` under `key`, and drops what there is then no room for.
    pub fn insert(&mut self, key: K, value: V) {
        let hash = self.seed.hash_one(&key);
        let was_used = self.again.peek(hash, &key).is_some();
        let to = if was_used { &mut self.again } else { &mut self.once };
        to.take(hash, &key);
        to.insert(Entry { hash, key, value });
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.once.len().saturating_add(self.again.len())
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

struct Entry<K, V> {
    /// So that a table that grows need not hash it again.
    hash: u64,
    key: K,
    value: V,
}

/// At most twice `size` entries, in two generations.
///
/// New and used entries live in the young one. When that is full, it becomes the old one, and what was
/// old goes. So an entry that is used once in `size` insertions stays, and nothing has to be sorted.
struct Generations<K, V> {
    young: HashTable<Entry<K, V>>,
    old: HashTable<Entry<K, V>>,
    size: usize,
}

impl<K, V> Generations<K, V> {
    fn new(size: usize) -> Self {
        Self { young: HashTable::new(), old: HashTable::new(), size }
    }

    /// Where an entry stands among the young, to whom it is put back if need be.
    fn place<Q: Equivalent<K> + ?Sized>(&mut self, hash: u64, key: &Q) -> Option<usize> {
        let place = self.young.find_bucket_index(hash, is(key));
        place.or_else(|| remove(&mut self.old, hash, key).map(|entry| self.insert(entry)))
    }

    fn at(&self, place: usize) -> Option<&V> {
        self.young.get_bucket(place).map(|entry| &entry.value)
    }

    fn peek<Q: Equivalent<K> + ?Sized>(&self, hash: u64, key: &Q) -> Option<&V> {
        let found = self.young.find(hash, is(key)).or_else(|| self.old.find(hash, is(key)));
        found.map(|entry| &entry.value)
    }

    /// Puts an entry among the young, of whom none has its key, and says where.
    fn insert(&mut self, entry: Entry<K, V>) -> usize {
        if self.young.len() >= self.size {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert_unique(entry.hash, entry, |entry| entry.hash).bucket_index()
    }

    fn take<Q: Equivalent<K> + ?Sized>(&mut self, hash: u64, key: &Q) -> Option<Entry<K, V>> {
        remove(&mut self.young, hash, key).or_else(|| remove(&mut self.old, hash, key))
    }

    fn len(&self) -> usize {
        self.young.len().saturating_add(self.old.len())
    }
}

fn is<Q: Equivalent<K> + ?Sized, K, V>(key: &Q) -> impl Fn(&Entry<K, V>) -> bool {
    move |entry| key.equivalent(&entry.key)
}

fn remove<Q: Equivalent<K> + ?Sized, K, V>(
    table: &mut HashTable<Entry<K, V>>,
    hash: u64,
    key: &Q,
) -> Option<Entry<K, V>> {
    let found = table.find_entry(hash, is(key)).ok()?;
    Some(found.remove().0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_never_holds_more_than_its_capacity() {
        for capacity in [0, 1, 2, 3, 4, 10, 101] {
            let mut map = BoundedMap::new(capacity);
            for key in 0..1_000 {
                map.insert(key, key);
                map.get(&(key / 2));
                map.get(&(key - 1));
                assert!(map.len() <= capacity.max(4), "{} of {capacity}", map.len());
            }
        }
    }

    #[test]
    fn an_entry_in_use_outlives_a_stream_of_new_ones() {
        let mut map = BoundedMap::new(8);
        map.insert(-1, "kept");
        for key in 0..1_000 {
            map.insert(key, "new");
            assert_eq!(map.get(&-1), Some(&"kept"));
        }
    }

    #[test]
    fn a_scan_does_not_empty_what_was_used_again() {
        let mut map = BoundedMap::new(40);
        for key in 0..10 {
            map.insert(key, "used");
            assert!(map.get(&key).is_some());
        }
        for key in 1_000..100_000 {
            map.insert(key, "scanned");
        }
        assert!((0..10).all(|key| map.get(&key) == Some(&"used")));
    }

    #[test]
    fn the_last_value_of_a_key_counts_wherever_it_was() {
        let mut map = BoundedMap::new(8);
        map.insert(0, 0);
        map.insert(0, 1);
        assert_eq!(map.get(&0), Some(&1));
        map.insert(0, 2);
        assert_eq!(map.get(&0), Some(&2));
        assert_eq!(map.len(), 1);
        for key in 1..4 {
            map.insert(key, 0);
            map.get(&key);
        }
        map.insert(0, 3);
        assert_eq!(map.get(&0), Some(&3));
    }
}
