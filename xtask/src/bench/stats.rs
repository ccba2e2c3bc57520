//! Samples, and what is said of them.

use serde::Serialize;

/// Values of one figure, one a round.
#[derive(Clone, Debug, Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// One more round.
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// The middle one; 0 without any.
    pub fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        match (sorted.len(), sorted.len() / 2) {
            (0, _) => 0.0,
            (n, half) if n % 2 == 0 => f64::midpoint(sorted[half - 1], sorted[half]),
            (_, half) => sorted[half],
        }
    }

    /// Round by round, this less that.
    pub fn minus(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(a, b)| a - b).collect())
    }

    /// Round by round, this divided by that.
    pub fn per(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(a, b)| a / b).collect())
    }

    fn least(&self) -> f64 {
        self.0.iter().copied().fold(f64::INFINITY, f64::min)
    }

    fn most(&self) -> f64 {
        self.0.iter().copied().fold(f64::NEG_INFINITY, f64::max)
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

/// What a figure is held against.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// No more than this.
    AtMost(f64),
    /// No less than this.
    AtLeast(f64),
}

/// One figure.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// What was measured.
    pub name: String,
    /// In which unit.
    pub unit: &'static str,
    /// The middle of all rounds.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The most.
    pub max: f64,
    /// How many rounds.
    pub rounds: usize,
    /// What it is held against, if anything.
    pub goal: Option<Goal>,
    /// Whether the median reaches the goal.
    pub met: Option<bool>,
}

impl Figure {
    /// Sums up some samples.
    pub fn new(name: impl Into<String>, unit: &'static str, samples: &Samples) -> Self {
        Self {
            name: name.into(),
            unit,
            median: samples.median(),
            min: samples.least(),
            max: samples.most(),
            rounds: samples.0.len(),
            goal: None,
            met: None,
        }
    }

    /// Something that was measured once.
    pub fn single(name: impl Into<String>, unit: &'static str, value: f64) -> Self {
        Self::new(name, unit, &Samples(vec![value]))
    }

    /// Held against a bound from above.
    pub fn at_most(mut self, most: f64) -> Self {
        self.goal = Some(Goal::AtMost(most));
        self.met = Some(self.median <= most);
        self
    }

    /// Held against a bound from below.
    pub fn at_least(mut self, least: f64) -> Self {
        self.goal = Some(Goal::AtLeast(least));
        self.met = Some(self.median >= least);
        self
    }

    /// One row of a table.
    pub fn line(&self) -> String {
        let Self { name, unit, median, min, max, rounds, goal, met } = self;
        let spread = if *rounds > 1 {
            format!("  ({} … {})", number(*min), number(*max))
        } else {
            String::new()
        };
        let goal = match (goal, met) {
            (Some(Goal::AtMost(bound)), Some(met)) => {
                format!("  goal ≤ {}: {}", number(*bound), verdict(*met))
            }
            (Some(Goal::AtLeast(bound)), Some(met)) => {
                format!("  goal ≥ {}: {}", number(*bound), verdict(*met))
            }
            _ => String::new(),
        };
        format!("  {name:<58} {:>12} {unit:<9}{spread}{goal}", number(*median))
    }
}

const fn verdict(met: bool) -> &'static str {
    if met { "met" } else { "MISSED" }
}

/// A number with as many digits as mean something.
fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_spread() {
        let samples: Samples = [3.0, 1.0, 2.0].into_iter().collect();
        let figure = Figure::new("x", "ns", &samples).at_most(2.0);
        assert_eq!((figure.median, figure.min, figure.max), (2.0, 1.0, 3.0));
        assert_eq!(figure.met, Some(true));
        let even: Samples = [4.0, 1.0, 2.0, 3.0].into_iter().collect();
        assert_eq!(even.median(), 2.5);
        assert_eq!(even.minus(&samples).median(), 0.0);
    }
}
