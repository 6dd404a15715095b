//! What the prepared data have, as a table, and how long the documents are.

use comfy_table::{CellAlignment, Table, presets};
use config::units;
use data::{Dataset, LengthBin};
use std::fmt::Write as _;

/// Samples, tokens, and what happened to the records: a column for each data set.
pub(super) fn table(train: &Dataset, eval: Option<&Dataset>) -> Table {
    let sets: Vec<&Dataset> = [Some(train), eval].into_iter().flatten().collect();
    let mut table = Table::new();
    let header = ["", "training", "validation"].into_iter().take(1 + sets.len());
    table.load_preset(presets::UTF8_FULL_CONDENSED).set_header(header);
    let mut row = |name: &str, value: &dyn Fn(&Dataset) -> String| {
        table.add_row([name.to_owned()].into_iter().chain(sets.iter().map(|set| value(set))));
    };
    let count = |count: usize| units::rate(count as f64);
    row("samples", &|set| count(set.len()));
    row("documents", &|set| count(set.documents()));
    row("tokens", &|set| units::rate(set.tokens() as f64));
    row("  trained", &|set| units::rate(set.targets() as f64));
    row("  not trained", &|set| units::rate((set.tokens() - set.targets()) as f64));
    row("longest sample", &|set| count(set.longest()));
    row("records read", &|set| count(set.report().records));
    row("  truncated", &|set| count(set.report().truncated));
    row("  left out: bad", &|set| count(set.report().skipped));
    row("  left out: too long", &|set| count(set.report().too_long));
    row("  left out: no trained token", &|set| count(set.report().dropped));
    row("split documents", &|set| match set.report().split {
        0 => "0".into(),
        split => format!("{}, into {}", count(split), count(set.report().pieces)),
    });
    table
        .column_iter_mut()
        .skip(1)
        .for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    table
}

/// Lines of a histogram, and the widest bar.
const LINES: usize = 12;
const WIDTH: u64 = 40;

/// The lengths of documents, one line for each bin, with a line where `sequence_length` lies.
pub(super) fn histogram(bins: &[LengthBin], sequence_length: Option<u64>) -> String {
    let bins = joined(bins, sequence_length);
    let most = bins.iter().map(|bin| bin.documents).max().unwrap_or(0).max(1);
    let labels: Vec<String> = bins.iter().map(label).collect();
    let counts: Vec<String> = bins.iter().map(|bin| units::rate(bin.documents as f64)).collect();
    let width = |texts: &[String]| texts.iter().map(|text| text.chars().count()).max().unwrap_or(0);
    let (of_labels, of_counts) = (width(&labels), width(&counts));
    let mark = sequence_length.map(|length| {
        format!(
            "{:─>1$} sequence_length {2}\n",
            "",
            of_labels + of_counts + 5,
            units::rate(length as f64)
        )
    });
    let mut out = String::new();
    let mut mark = mark.filter(|_| !bins.is_empty());
    for ((bin, label), count) in bins.iter().zip(labels).zip(counts) {
        if sequence_length.is_some_and(|length| bin.from > length) {
            out.push_str(&mark.take().unwrap_or_default());
        }
        let bar = match (bin.documents * WIDTH).div_euclid(most) {
            0 if bin.documents > 0 => "▏".to_owned(),
            blocks => "█".repeat(blocks as usize),
        };
        let _ = writeln!(
            out,
            "{}",
            format!("  {label:>of_labels$}  {count:>of_counts$} {bar}").trim_end()
        );
    }
    out.push_str(&mark.unwrap_or_default());
    out
}

/// Neighbours in one, until there are few enough; what is on two sides of the sequence length stays
/// apart.
fn joined(bins: &[LengthBin], sequence_length: Option<u64>) -> Vec<LengthBin> {
    let count = bins.len().div_ceil(LINES).max(1);
    let within =
        bins.partition_point(|bin| sequence_length.is_some_and(|length| bin.from <= length));
    let known = bins.partition_point(|bin| bin.to.is_some());
    let (short, rest) = bins.split_at(within.min(known));
    let (long, unknown) = rest.split_at(known - short.len());
    let join = |bins: &[LengthBin]| LengthBin {
        from: bins[0].from,
        to: bins[bins.len() - 1].to,
        documents: bins.iter().map(|bin| bin.documents).sum(),
    };
    [short, long, unknown].iter().flat_map(|bins| bins.chunks(count)).map(join).collect()
}

fn label(bin: &LengthBin) -> String {
    let number = |number: u64| units::rate(number as f64);
    match bin.to {
        Some(to) if to == bin.from => number(to),
        Some(to) => format!("{} to {}", number(bin.from), number(to)),
        None => "longer, truncated".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bin(from: u64, to: impl Into<Option<u64>>, documents: u64) -> LengthBin {
        LengthBin { from, to: to.into(), documents }
    }

    #[test]
    fn bars_are_aligned_and_the_sequence_length_is_marked() {
        let bins =
            [bin(5, 8, 2000), bin(9, 12, 1), bin(13, 16, 0), bin(17, 32, 500), bin(13, None, 100)];
        let expected = "         5 to 8  2 000 ████████████████████████████████████████\n        \
                        9 to 12      1 ▏\n\
                        ─────────────────────────── sequence_length 12\n       \
                        13 to 16      0\n       \
                        17 to 32    500 ██████████\n  \
                        longer, truncated    100 ██\n";
        let shown = histogram(&bins, Some(12));
        assert_eq!(
            shown.lines().map(str::trim).collect::<Vec<_>>(),
            expected.lines().map(str::trim).collect::<Vec<_>>()
        );
        let bar = |line: &str| line.chars().position(|character| "█▏".contains(character));
        let bars: Vec<usize> = shown.lines().filter_map(bar).collect();
        assert!(bars.len() == 4 && bars.iter().all(|&column| column == bars[0]), "{shown}");
    }

    #[test]
    fn many_bins_become_few_and_no_document_is_lost() {
        let bins: Vec<LengthBin> =
            (0..30).map(|exponent| bin((1 << exponent) + 1, 2 << exponent, exponent + 1)).collect();
        let joined = joined(&bins, Some(1 << 9));
        assert!(joined.len() <= LINES, "{joined:?}");
        assert_eq!(joined.iter().map(|bin| bin.documents).sum::<u64>(), 30 * 31 / 2);
        assert!(joined.iter().any(|bin| bin.to == Some(1 << 9)));
        assert!(joined.windows(2).all(|pair| pair[0].to.is_some_and(|to| to + 1 == pair[1].from)));
    }
}
