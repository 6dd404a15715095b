//! Accuracy, macro F1 and confusion matrix of a classifier.

use serde::Serialize;

/// A confusion matrix: how many rows of each class were predicted as which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confusion {
    classes: usize,
    /// Row after row of the matrix.
    counts: Vec<u64>,
}

impl Confusion {
    /// Of `classes`, and no rows yet.
    pub fn new(classes: usize) -> Self {
        Self { classes, counts: vec![0; classes * classes] }
    }

    /// From the counts of `classes`, row after row of the matrix.
    pub fn from_counts(classes: usize, counts: Vec<u64>) -> Self {
        Self { classes, counts }
    }

    /// Counts a row of class `class` that was predicted as `predicted`.
    pub fn add(&mut self, class: usize, predicted: usize) {
        if let Some(count) = self.counts.get_mut(class * self.classes + predicted) {
            *count += 1;
        }
    }

    /// The counts, row after row of the matrix.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// Rows.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The fraction of rows whose prediction is right.
    pub fn accuracy(&self) -> f64 {
        let right: u64 =
            (0..self.classes).map(|class| self.counts[class * (self.classes + 1)]).sum();
        right as f64 / self.total().max(1) as f64
    }

    /// The mean over the classes of `2 right / (rows + predictions)`, the harmonic mean of
    /// precision and recall; 0 for a class without rows and predictions
    /// (`f1_score(average="macro")` of scikit-learn).
    pub fn macro_f1(&self) -> f64 {
        let of_class = |class: usize| {
            let is: u64 = self.counts[class * self.classes..][..self.classes].iter().sum();
            let taken: u64 = self.counts.iter().skip(class).step_by(self.classes).sum();
            2.0 * self.counts[class * (self.classes + 1)] as f64 / (is + taken).max(1) as f64
        };
        (0..self.classes).map(of_class).sum::<f64>() / self.classes.max(1) as f64
    }

    /// With the names of the classes.
    pub fn report(&self, labels: &[String]) -> ClassReport {
        ClassReport {
            accuracy: self.accuracy(),
            macro_f1: self.macro_f1(),
            labels: labels.to_vec(),
            confusion: self.counts.chunks(self.classes.max(1)).map(<[u64]>::to_vec).collect(),
        }
    }
}

/// How the rows of the validation data were classified.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClassReport {
    /// The fraction of rows whose prediction is right.
    pub accuracy: f64,
    /// The mean over the classes of the harmonic mean of precision and recall.
    pub macro_f1: f64,
    /// The classes.
    pub labels: Vec<String>,
    /// For each class, how many of its rows were predicted as each.
    pub confusion: Vec<Vec<u64>>,
}

impl std::fmt::Display for ClassReport {
    /// Two numbers and the matrix: a line for each class, a column for each prediction.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "accuracy {:.4}, macro F1 {:.4}", self.accuracy, self.macro_f1)?;
        let width = self.labels.iter().map(|label| label.chars().count()).max().unwrap_or(0).max(6);
        write!(f, "{:>width$}", "is \\ as")?;
        self.labels.iter().try_for_each(|label| write!(f, " {label:>width$}"))?;
        for (label, row) in self.labels.iter().zip(&self.confusion) {
            write!(f, "\n{label:>width$}")?;
            row.iter().try_for_each(|count| write!(f, " {count:>width$}"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accuracy_and_f1_are_those_of_scikit_learn() {
        // y_true = [0, 0, 0, 1, 1, 2], y_pred = [0, 0, 1, 1, 2, 1]: f1_score(average=None) is [0.8,
        // 0.4, 0.0].
        let mut confusion = Confusion::new(3);
        for (is, taken) in [(0, 0), (0, 0), (0, 1), (1, 1), (1, 2), (2, 1)] {
            confusion.add(is, taken);
        }
        assert_eq!(confusion.counts(), [2, 1, 0, 0, 1, 1, 0, 1, 0]);
        assert!(
            (confusion.accuracy() - 0.5).abs() < 1e-12
                && (confusion.macro_f1() - 0.4).abs() < 1e-12
        );
        let names = ["ham", "spam", "eggs"].map(str::to_owned);
        let shown = confusion.report(&names).to_string();
        assert_eq!(
            shown,
            "accuracy 0.5000, macro F1 0.4000\nis \\ as    ham   spam   eggs\n   ham      2      1      0\n  spam      0      1      1\n  eggs      0      1      0"
        );
        assert_eq!(
            (Confusion::new(2).accuracy(), Confusion::new(2).macro_f1()),
            (0.0, 0.0),
            "of no rows"
        );
    }
}
