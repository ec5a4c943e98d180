//! A map that never holds more than it may: the one container for what strangers make grow.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

/// A cache of at most `capacity` entries, of which half is for those that were used again.
///
/// An entry begins among those seen once and moves when it is first asked for. So a flood of entries
/// that nobody asks for again, be it a scan or an attack, pushes out only its like.
pub struct BoundedMap<K, V> {
    once: Generations<K, V>,
    again: Generations<K, V>,
}

impl<K: Eq + Hash, V> BoundedMap<K, V> {
    /// An empty map for at most `capacity` entries (at least four).
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let quarter = (capacity / 4).max(1);
        Self { once: Generations::new(quarter), again: Generations::new(quarter) }
    }

    /// The entry of `key`, which thereby counts as used.
    pub fn get<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        if let Some((key, value)) = self.once.take(key) {
            self.again.insert(key, value);
        }
        self.again.get(key)
    }

    /// The entry of `key`, which does not count as used.
    #[must_use]
    pub fn peek<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.once.peek(key).or_else(|| self.again.peek(key))
    }

    /// Puts `value` under `key`, and drops what there is then no room for.
    pub fn insert(&mut self, key: K, value: V) {
        if self.again.get(&key).is_some() {
            self.again.insert(key, value);
        } else {
            self.once.insert(key, value);
        }
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

/// At most twice `size` entries, in two generations.
///
/// New and used entries live in the young one. When that is full, it becomes the old one, and what was
/// old goes. So an entry that is used once in `size` insertions stays, and nothing has to be sorted.
struct Generations<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    size: usize,
}

impl<K: Eq + Hash, V> Generations<K, V> {
    fn new(size: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), size }
    }

    fn get<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        if !self.young.contains_key(key) {
            let (key, value) = self.old.remove_entry(key)?;
            self.insert(key, value);
        }
        self.young.get(key)
    }

    fn peek<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.young.get(key).or_else(|| self.old.get(key))
    }

    fn insert(&mut self, key: K, value: V) {
        self.old.remove(&key);
        if self.young.len() >= self.size && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }

    fn take<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> Option<(K, V)>
    where
        K: Borrow<Q>,
    {
        self.young.remove_entry(key).or_else(|| self.old.remove_entry(key))
    }

    fn len(&self) -> usize {
        self.young.len().saturating_add(self.old.len())
    }
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
