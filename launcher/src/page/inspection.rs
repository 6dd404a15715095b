//! The page of an inspection: what becomes of the gradients, what each site loses by each method,
//! and all numbers.

use super::{
    axis::{Axis, Spread},
    config_tables,
    plot::{Drawing, Look, Plot, Series},
    render,
    table::Table,
};
use analysis::Inspection;
use config::units;
use minijinja::context;
use serde::{Deserialize, Serialize};

/// The page of what `loract inspect` has `found`, on the model `name`, with the configuration
/// `config`.
pub fn page(found: &Inspection, name: &str, config: &str) -> anyhow::Result<String> {
    written(&serde_json::from_value(serde_json::to_value(found)?)?, name, config)
}

/// An inspection as `loract inspect --json` prints it.
#[derive(Debug, Deserialize)]
struct Seen {
    batches: u64,
    tokens: u64,
    model_layers: usize,
    sites: Vec<Site>,
    gradients: Vec<Gradient>,
}

/// A site of one layer.
#[derive(Debug, Deserialize)]
struct Site {
    layer: usize,
    site: String,
    rows: i64,
    width: i64,
    optimum: Vec<Point>,
    methods: Vec<Coded>,
}

#[derive(Debug, Deserialize)]
struct Point {
    rank: usize,
    error: f64,
}

/// A method at a site.
#[derive(Debug, Deserialize)]
struct Coded {
    method: String,
    /// The most it was allowed.
    bits: f64,
    bits_per_element: f64,
    rank: Option<i64>,
    per_token_error: f64,
    relative_error: f64,
}

/// The gradients in one case, against the exact ones.
#[derive(Debug, Deserialize)]
struct Gradient {
    kind: String,
    sites: String,
    method: String,
    bits: Option<f64>,
    kept_bytes: f64,
    exact_bytes: f64,
    relative_error: f64,
    cosine: f64,
    layers: Vec<OfLayer>,
}

#[derive(Debug, Deserialize)]
struct OfLayer {
    layer: usize,
    relative_error: f64,
    cosine: f64,
}

fn written(seen: &Seen, name: &str, config: &str) -> anyhow::Result<String> {
    let looks = Looks::new(seen);
    let sites: Vec<Shown> =
        site_names(seen).into_iter().map(|site| shown(seen, site, &looks)).collect();
    let configured = seen.gradients.iter().find(|gradient| gradient.kind == "configured");
    render(
        "inspection.html",
        context! {
            name,
            config => config_tables(config),
            batches => if seen.batches == 1 { "1 batch".to_owned() } else { format!("{} batches", seen.batches) },
            tokens => units::rate(seen.tokens as f64),
            layers => seen.model_layers,
            configured => configured.map(|gradient| format!(
                "As configured ({}; {}), {} are saved of {}, and the gradients have a cosine of {:.4} with the exact ones.",
                gradient.sites, gradient.method, units::bytes(gradient.kept_bytes), units::bytes(gradient.exact_bytes), gradient.cosine
            )),
            methods => drawn([against_kept(seen, &looks, Measure::Cosine), against_kept(seen, &looks, Measure::Error)]),
            over_layers => drawn(over_layers(seen, &looks)),
            gradients => gradient_table(seen),
            gradient_layers => [layer_table(seen, Measure::Error), layer_table(seen, Measure::Cosine)],
            sites,
        },
    )
}

fn drawn(plots: impl IntoIterator<Item = Plot>) -> Vec<Drawing> {
    plots.into_iter().filter_map(|plot| plot.draw()).collect()
}

/// The colour of each family of methods, the same in every plot: `svd` and `svd, int8` share one,
/// and the second has dashes.
struct Looks {
    methods: Vec<String>,
}

impl Looks {
    fn new(seen: &Seen) -> Self {
        let of_sites = seen.sites.iter().flat_map(|site| &site.methods).map(|coded| &coded.method);
        let of_gradients = seen
            .gradients
            .iter()
            .filter(|gradient| gradient.kind == "method")
            .map(|gradient| &gradient.method);
        Self { methods: distinct(of_sites.chain(of_gradients).cloned()) }
    }

    fn look(&self, method: &str) -> Look {
        let family = |method: &str| method.split(',').next().unwrap_or_default().to_owned();
        let families = distinct(self.methods.iter().map(|method| family(method)));
        let look = Look::hue(
            families.iter().position(|known| *known == family(method)).unwrap_or_default(),
        );
        let first = self.methods.iter().find(|known| family(known) == family(method));
        if first.is_some_and(|first| first != method) { look.dashed() } else { look }
    }
}

/// Each once, in the order in which they come first.
fn distinct<T: PartialEq>(items: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut once = Vec::new();
    for item in items {
        if !once.contains(&item) {
            once.push(item);
        }
    }
    once
}

/// How far gradients are from the exact ones.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Measure {
    Cosine,
    Error,
}

impl Measure {
    fn of(self, gradient: &Gradient) -> f64 {
        if self == Self::Cosine { gradient.cosine } else { gradient.relative_error }
    }

    fn of_layer(self, layer: &OfLayer) -> f64 {
        if self == Self::Cosine { layer.cosine } else { layer.relative_error }
    }
}

/// A measure of the gradients over the bytes that each method keeps.
fn against_kept(seen: &Seen, looks: &Looks, measure: Measure) -> Plot {
    let of_kind =
        |kind: &'static str| seen.gradients.iter().filter(move |gradient| gradient.kind == kind);
    let most = of_kind("method")
        .chain(of_kind("configured"))
        .map(|gradient| gradient.kept_bytes)
        .fold(0.0, f64::max);
    let (unit, size) = units::unit_of_bytes(most);
    let point = |gradient: &Gradient| (gradient.kept_bytes / size, measure.of(gradient));
    let of_method = |method: &String| {
        let mut points: Vec<_> =
            of_kind("method").filter(|gradient| gradient.method == *method).map(point).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        Series::new(method, points, looks.look(method).marked())
    };
    let mut series: Vec<Series> =
        looks.methods.iter().map(of_method).filter(|series| !series.points.is_empty()).collect();
    series.extend(
        of_kind("configured")
            .map(|gradient| Series::new("as configured", [point(gradient)], Look::ink())),
    );
    let (title, explains, y) = match measure {
        Measure::Cosine => (
            "Direction of the gradients, by method",
            "1 means that a step goes exactly the way it would without compression, 0 that it has nothing to do with it: the best methods are \
             at the top left, with much of the direction for few bytes.",
            Axis::new(Spread::Even, "cosine with the exact gradients"),
        ),
        Measure::Error => (
            "Error of the gradients, by method",
            "How long the difference from the exact gradients is, as a share of their own length: the best methods are at the bottom left, \
             with little error for few bytes.",
            Axis::new(Spread::Log, "relative error of the gradients"),
        ),
    };
    let x = Axis::new(Spread::Log, format!("saved for the backward pass, {unit}"));
    Plot { title: title.into(), explains: explains.into(), x, y, series }
}

/// The gradients' error over the layers: each site alone, then the methods at each number of bits.
fn over_layers(seen: &Seen, looks: &Looks) -> Vec<Plot> {
    let of_kind =
        |kind: &'static str| seen.gradients.iter().filter(move |gradient| gradient.kind == kind);
    let configured =
        of_kind("configured").map(|gradient| line("as configured", gradient, Look::ink().dashed()));
    let alone = of_kind("site")
        .enumerate()
        .map(|(index, gradient)| line(&gradient.sites, gradient, Look::hue(index)));
    let mut plots = vec![layer_plot(
        "Each site alone, layer by layer",
        "Which part of the model suffers when a single site is compressed in the run's own way: gradients of early layers gather the \
         errors of all later layers.",
        configured.chain(alone).collect(),
    )];
    let levels = levels(seen);
    for (index, &level) in levels.iter().enumerate() {
        let next = levels.get(index + 1).copied().unwrap_or(f64::INFINITY);
        let from = if index == 0 { 0.0 } else { level };
        let methods = seen
            .gradients
            .iter()
            .filter(|gradient| gradient.bits.is_some_and(|bits| from <= bits && bits < next));
        let mut drawn: Vec<&str> = Vec::new();
        let lines = methods.map(|gradient| {
            let bits = gradient.bits.unwrap_or(level);
            let name = if bits == level {
                gradient.method.clone()
            } else {
                format!("{}, {bits} bits", gradient.method)
            };
            let look = looks.look(&gradient.method);
            // One method in two sizes of its own.
            let look = if drawn.contains(&gradient.method.as_str()) { look.dashed() } else { look };
            drawn.push(&gradient.method);
            line(&name, gradient, look)
        });
        plots.push(layer_plot(
            &format!("Methods at {level} bits per element, layer by layer"),
            "The same for each method on the run's own sites, each with as many components as these bits pay for.",
            lines.collect(),
        ));
    }
    plots
}

/// The numbers of bits at which several methods were compared, in order.
fn levels(seen: &Seen) -> Vec<f64> {
    let bits = || seen.gradients.iter().filter_map(|gradient| gradient.bits);
    let mut levels =
        distinct(bits().filter(|level| bits().filter(|bits| bits == level).count() > 1));
    levels.sort_by(f64::total_cmp);
    levels
}

fn line(name: &str, gradient: &Gradient, look: Look) -> Series {
    let points = gradient.layers.iter().map(|layer| (layer.layer as f64, layer.relative_error));
    Series::new(name, points, look.marked())
}

fn layer_plot(title: &str, explains: &str, series: Vec<Series>) -> Plot {
    let y = Axis::new(Spread::Log, "relative error of the layer's gradients");
    Plot {
        title: title.into(),
        explains: explains.into(),
        x: Axis::new(Spread::Even, "layer, from the first"),
        y,
        series,
    }
}

/// One site, in all layers shown.
#[derive(Serialize)]
struct Shown {
    name: String,
    shape: String,
    plots: Vec<Drawing>,
    tables: Vec<Table>,
}

fn site_names(seen: &Seen) -> Vec<&str> {
    distinct(seen.sites.iter().map(|site| site.site.as_str()))
}

fn shown(seen: &Seen, name: &str, looks: &Looks) -> Shown {
    let layers: Vec<&Site> = seen.sites.iter().filter(|site| site.site == name).collect();
    let shape = layers
        .first()
        .map(|site| format!("{} tokens × {}", units::rate(site.rows as f64), site.width))
        .unwrap_or_default();
    Shown {
        name: name.to_owned(),
        shape,
        plots: drawn([optimum(&layers), by_bits(&layers, looks)]),
        tables: vec![
            optimum_table(&layers),
            method_table("Error of a token", &layers, |coded| coded.per_token_error),
            method_table("Relative error of the matrix", &layers, |coded| coded.relative_error),
        ],
    }
}

fn optimum(layers: &[&Site]) -> Plot {
    let series = layers.iter().enumerate().map(|(index, site)| {
        let points = site.optimum.iter().map(|point| (point.rank as f64, point.error));
        Series::new(format!("layer {}", site.layer), points, Look::shade(index, layers.len()))
    });
    Plot {
        title: "The least error of any rank".into(),
        explains: "The smallest error of a token at a number of components: a curve that falls early is a site that low rank \
                   suits, a flat one is a site to quantise or to keep exactly."
            .into(),
        x: Axis::new(Spread::Log, "rank: components saved"),
        y: Axis::new(Spread::FromZero, "least error of a token"),
        series: series.collect(),
    }
}

fn by_bits(layers: &[&Site], looks: &Looks) -> Plot {
    let of_method = |method: &String| {
        let bits = distinct(
            layers
                .iter()
                .flat_map(|site| &site.methods)
                .filter(|coded| coded.method == *method)
                .map(|coded| coded.bits),
        );
        let mut points: Vec<_> =
            bits.into_iter().filter_map(|bits| mean_over(layers, method, bits)).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        Series::new(method, points, looks.look(method).marked())
    };
    Plot {
        title: "Every method at equal size".into(),
        explains: "What each method loses for the bits it takes, mean over the layers shown; of two at the same place from left to right, \
                   the lower one is better."
            .into(),
        x: Axis::new(Spread::Log, "bits per element, all of the code counted"),
        y: Axis::new(Spread::Log, "error of a token"),
        series: looks.methods.iter().map(of_method).filter(|series| !series.points.is_empty()).collect(),
    }
}

/// Bits taken and error of a token, mean over layers.
fn mean_over(layers: &[&Site], method: &str, bits: f64) -> Option<(f64, f64)> {
    let found: Vec<&Coded> = layers.iter().filter_map(|site| coded(site, method, bits)).collect();
    let mean = |of: fn(&Coded) -> f64| {
        found.iter().map(|coded| of(coded)).sum::<f64>() / found.len() as f64
    };
    (!found.is_empty())
        .then(|| (mean(|coded| coded.bits_per_element), mean(|coded| coded.per_token_error)))
}

fn coded<'a>(site: &'a Site, method: &str, bits: f64) -> Option<&'a Coded> {
    site.methods.iter().find(|coded| coded.method == method && coded.bits == bits)
}

fn optimum_table(layers: &[&Site]) -> Table {
    let mut table = Table::new(
        "Least error of a token, by rank",
        ["rank".to_owned()].into_iter().chain(layer_names(layers)),
        0,
    );
    let ranks = distinct(layers.iter().flat_map(|site| &site.optimum).map(|point| point.rank));
    table.rows.extend(ranks.into_iter().map(|rank| {
        let error = |site: &&Site| {
            site.optimum
                .iter()
                .find(|point| point.rank == rank)
                .map_or(NONE.to_owned(), |point| error(point.error))
        };
        [rank.to_string()].into_iter().chain(layers.iter().map(error)).collect()
    }));
    table
}

fn method_table(caption: &str, layers: &[&Site], value: fn(&Coded) -> f64) -> Table {
    let columns = ["method", "bits allowed", "bits taken", "rank"]
        .map(str::to_owned)
        .into_iter()
        .chain(layer_names(layers));
    let mut table = Table::new(caption, columns, 1);
    let keys = distinct(
        layers
            .iter()
            .flat_map(|site| &site.methods)
            .map(|coded| (coded.method.clone(), coded.bits)),
    );
    for (method, bits) in keys {
        let found: Vec<Option<&Coded>> =
            layers.iter().map(|site| coded(site, &method, bits)).collect();
        let any = found.iter().flatten().next();
        let mut row = vec![method, number(bits)];
        row.push(any.map_or(NONE.to_owned(), |coded| format!("{:.3}", coded.bits_per_element)));
        row.push(any.and_then(|coded| coded.rank).map_or(NONE.to_owned(), |rank| rank.to_string()));
        row.extend(
            found
                .into_iter()
                .map(|coded| coded.map_or(NONE.to_owned(), |coded| error(value(coded)))),
        );
        table.rows.push(row);
    }
    table
}

fn layer_names(layers: &[&Site]) -> impl Iterator<Item = String> {
    layers.iter().map(|site| format!("layer {}", site.layer))
}

fn gradient_table(seen: &Seen) -> Table {
    let columns = [
        "sites",
        "method",
        "bits allowed",
        "saved for backward",
        "uncompressed",
        "relative error",
        "cosine",
    ];
    let mut table = Table::new("", columns, 2);
    table.rows.extend(seen.gradients.iter().map(|gradient| {
        let [sites, method, bits] = case(gradient);
        let bytes = [gradient.kept_bytes, gradient.exact_bytes].map(units::bytes);
        let measures = [error(gradient.relative_error), cosine(gradient.cosine)];
        [sites, method, bits].into_iter().chain(bytes).chain(measures).collect()
    }));
    table
}

fn layer_table(seen: &Seen, measure: Measure) -> Table {
    let most =
        seen.gradients.iter().map(|gradient| gradient.layers.len()).max().unwrap_or_default();
    let columns = ["sites", "method", "bits"]
        .map(str::to_owned)
        .into_iter()
        .chain((0..most).map(|layer| layer.to_string()));
    let (caption, written): (_, fn(f64) -> String) = match measure {
        Measure::Cosine => ("Cosine with the exact gradients, by layer", cosine),
        Measure::Error => ("Relative error of the gradients, by layer", error),
    };
    let mut table = Table::new(caption, columns, 2);
    table.rows.extend(seen.gradients.iter().map(|gradient| {
        let layers = (0..most).map(|index| {
            gradient
                .layers
                .get(index)
                .map_or(NONE.to_owned(), |layer| written(measure.of_layer(layer)))
        });
        case(gradient).into_iter().chain(layers).collect()
    }));
    table
}

/// Sites, method and bits.
fn case(gradient: &Gradient) -> [String; 3] {
    let sites = if gradient.kind == "configured" {
        format!("{} (as configured)", gradient.sites)
    } else {
        gradient.sites.clone()
    };
    [sites, gradient.method.clone(), gradient.bits.map_or(NONE.to_owned(), number)]
}

/// In a cell without a value.
const NONE: &str = "–";

fn error(value: f64) -> String {
    format!("{value:.4}")
}

fn cosine(value: f64) -> String {
    format!("{value:.5}")
}

fn number(value: f64) -> String {
    format!("{value}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::{Value, json};

    /// Two layers, one site, three methods.
    fn seen() -> Seen {
        let methods = |layer: f64| -> Vec<Value> {
            let coded = |method: &str, bits: f64, error: f64| {
                let mut coded = json!({"method": method, "bits": bits, "bits_per_element": bits, "rank": 3, "relative_error": 0.5});
                coded["per_token_error"] = json!(error + layer);
                coded
            };
            vec![
                coded("svd", 2.0, 0.5),
                coded("svd", 4.0, 0.25),
                coded("svd, int8", 2.0, 0.25),
                coded("quantized <int4>", 4.5, 0.125),
            ]
        };
        let site = |layer: f64| {
            let optimum = json!([{"rank": 1, "error": 0.75}, {"rank": 2, "error": 0.0}]);
            json!({"layer": layer as u64, "site": "act (up)", "rows": 1234, "width": 8, "optimum": optimum, "methods": methods(layer)})
        };
        let gradient = |kind: &str, method: &str, bits: Option<f64>| {
            let layers = json!([{"layer": 0, "relative_error": 0.5, "cosine": 0.9}]);
            json!({"kind": kind, "sites": "layer", "method": method, "bits": bits, "kept_bytes": 5e6, "exact_bytes": 9e6,
                   "relative_error": 0.5, "cosine": 0.9, "layers": layers})
        };
        let gradients = [
            gradient("configured", "qb", None),
            gradient("site", "qb", None),
            gradient("method", "svd", Some(2.0)),
            gradient("method", "svd, int8", Some(2.0)),
            gradient("method", "svd", Some(4.0)),
            gradient("method", "svd, int8", Some(4.0)),
            gradient("method", "quantized <int4>", Some(4.5)),
        ];
        let seen = json!({"batches": 1, "tokens": 1234, "model_layers": 2, "sites": [site(0.0), site(1.0)], "gradients": gradients});
        serde_json::from_value(seen).unwrap()
    }

    #[test]
    fn a_page_shows_every_plot_and_escapes_every_name() {
        let page = written(&seen(), "a <b> model", "[run]\n").unwrap();
        assert_eq!(page.matches("<figure").count(), 2 + 3 + 2);
        assert!(
            page.contains("a &lt;b&gt; model")
                && page.contains("quantized &lt;int4&gt;, 4.5 bits")
                && !page.contains("<int4>")
        );
        assert!(page.contains("act (up)") && page.contains("1 234 tokens × 8"));
    }

    #[test]
    fn methods_of_a_family_share_their_colour_and_differ_in_dashes() {
        let looks = Looks::new(&seen());
        assert_eq!(looks.look("svd"), Look::hue(0));
        assert_eq!(looks.look("svd, int8"), Look::hue(0).dashed());
        assert_eq!(looks.look("quantized <int4>"), Look::hue(1));
    }

    #[test]
    fn no_two_methods_of_an_inspection_look_alike() {
        let names = "svd|svd, int8|qb norm|qb uniform (the paper)|rowspace|rowspace, int8|rsvd, 1 power iteration|nystrom|quantized int4|\
                     quantized int8|coded";
        let looks = Looks { methods: names.split('|').map(str::to_owned).collect() };
        let all: Vec<Look> = looks.methods.iter().map(|method| looks.look(method)).collect();
        assert_eq!(distinct(all.clone()).len(), all.len(), "{all:?}");
    }

    #[test]
    fn methods_of_their_own_size_stand_with_the_level_below() {
        let seen = seen();
        assert_eq!(levels(&seen), [2.0, 4.0]);
        let plots = over_layers(&seen, &Looks::new(&seen));
        let names =
            |plot: &Plot| plot.series.iter().map(|series| series.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&plots[1]), ["svd", "svd, int8"]);
        assert_eq!(names(&plots[2]), ["svd", "svd, int8", "quantized <int4>, 4.5 bits"]);
    }

    #[test]
    fn errors_are_means_over_the_layers_shown() {
        let seen = seen();
        let layers: Vec<&Site> = seen.sites.iter().collect();
        assert_eq!(mean_over(&layers, "svd", 2.0), Some((2.0, 1.0)));
        assert_eq!(mean_over(&layers, "svd", 3.0), None);
        let table = method_table("", &layers, |coded| coded.per_token_error);
        assert_eq!(table.rows[0], ["svd", "2", "2.000", "3", "0.5000", "1.5000"]);
    }
}
