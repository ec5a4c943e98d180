//! A map that never holds more than it may: the one container for what strangers make grow.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

/// A cache of at most `capacity` entries, in two generations.
///
/// New and used entries live in the young generation. When that is half of the capacity, it becomes
/// the old one and what was old goes. So an entry that is used once in every `capacity / 2`
/// insertions stays, and each operation costs one or two look-ups.
pub struct BoundedMap<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    generation: usize,
}

impl<K: Eq + Hash, V> BoundedMap<K, V> {
    /// An empty map for at most `capacity` entries (at least two).
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), generation: (capacity / 2).max(1) }
    }

    /// The entry of `key`, which thereby counts as used.
    pub fn get<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        if !self.young.contains_key(key) {
            let (owned, value) = self.old.remove_entry(key)?;
            self.insert(owned, value);
        }
        self.young.get(key)
    }

    /// Puts `value` under `key` and drops what is then too old.
    pub fn insert(&mut self, key: K, value: V) {
        self.old.remove(&key);
        if self.young.len() >= self.generation && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }

    /// Takes the entry of `key` out.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        self.young.remove(key).or_else(|| self.old.remove(key))
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.young.len().saturating_add(self.old.len())
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_never_holds_more_than_its_capacity() {
        for capacity in [0, 1, 2, 3, 10, 101] {
            let mut map = BoundedMap::new(capacity);
            for key in 0..1_000 {
                map.insert(key, key);
                map.get(&(key / 2));
                assert!(map.len() <= capacity.max(2), "{} of {capacity}", map.len());
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
    fn the_last_value_of_a_key_counts_in_whichever_generation_it_was() {
        let mut map = BoundedMap::new(4);
        for key in 0..3 {
            map.insert(key, 0);
        }
        map.insert(0, 1);
        assert_eq!(map.get(&0), Some(&1));
        assert_eq!(map.remove(&0), Some(1));
        assert_eq!(map.get(&0), None);
    }
}
