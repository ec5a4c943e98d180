//! Medians, and how far rounds lie apart.

/// The figures of several rounds.
#[derive(Clone, Debug, Default)]
pub struct Figures(Vec<f64>);

impl Figures {
    pub fn add(&mut self, figure: f64) {
        self.0.push(figure);
    }

    /// Half of the rounds lie below.
    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// Half of the rounds lie between these two.
    pub fn spread(&self) -> (f64, f64) {
        (self.quantile(0.25), self.quantile(0.75))
    }

    /// Round by round, how much more than `others`.
    pub fn above(&self, others: &Self) -> Self {
        Self(self.0.iter().zip(&others.0).map(|(own, other)| own - other).collect())
    }

    fn quantile(&self, part: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        let last = sorted.len().checked_sub(1).expect("figures of a round at least");
        // Between its two neighbours, where there is no such round.
        let place = last as f64 * part;
        let (low, high) = (place.floor() as usize, place.ceil() as usize);
        sorted[low] + (sorted[high] - sorted[low]) * place.fract()
    }
}
