//! Draws the bits of each component of a real matrix, and the energy that they follow from, as SVG.
//!
//! `cargo run --release -p loract-compression --example bits_over_components > docs/bits.svg`

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use tch::{Kind, Tensor};

use loract_compression::coded::{Basis, Coded, Coding, Rate};

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 46.0;
const BOTTOM: f64 = 36.0;
/// Orders of magnitude of energy that fit.
const ORDERS: f64 = 5.0;

fn main() -> Result<(), Box<dyn Error>> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures/activations/activations.safetensors");
    let matrix = Tensor::read_safetensors(file)?
        .into_iter()
        .find(|(name, _)| name == "smollm2.l15.layer_in.b0");
    let (_, matrix) = matrix.ok_or("the fixture holds no smollm2.l15.layer_in.b0")?;
    let basis = Arc::new(Basis::from_matrix(&matrix.f_to_kind(Kind::Float)?)?);
    let variances = basis.variances()?;
    let components = variances.len() as f64;
    let x = |component: usize| LEFT + (WIDTH - LEFT - 10.0) * component as f64 / components;
    let y = |share: f64| 14.0 + (HEIGHT - BOTTOM - 14.0) * (1.0 - share);
    println!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12" fill="#444">
<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>"##
    );
    for bits in (0..=8).step_by(2) {
        let at = y(f64::from(bits) / 8.0);
        println!(
            r##"<path d="M{LEFT} {at:.1}H{}" stroke="#ddd"/><text x="{}" y="{:.1}" text-anchor="end">{bits}</text>"##,
            WIDTH - 10.0,
            LEFT - 6.0,
            at + 4.0
        );
    }
    for (bits, fill) in [(4.0, "#9ecae1"), (2.0, "#3182bd")] {
        let code = Coded::new(
            &matrix,
            &basis,
            &Coding { rate: Rate::Bits(bits), ..Coding::default() },
            0,
        )?;
        let mut outline = format!("M{LEFT} {:.1}", y(0.0));
        for (component, width) in code.widths()?.into_iter().enumerate() {
            outline += &format!(
                "L{:.1} {:.1}H{:.1}",
                x(component),
                y(f64::from(width.min(8)) / 8.0),
                x(component + 1)
            );
        }
        println!(r#"<path d="{outline}V{:.1}Z" fill="{fill}" fill-opacity="0.85"/>"#, y(0.0));
    }
    let energy =
        |variance: f64| y((1.0 + (variance / variances[0]).max(1e-30).log10() / ORDERS).max(0.0));
    let line: Vec<String> = variances
        .iter()
        .enumerate()
        .map(|(at, variance)| format!("{:.1} {:.1}", x(at), energy(*variance)))
        .collect();
    println!(
        r##"<path d="M{}" fill="none" stroke="#e6550d" stroke-width="1.5"/>"##,
        line.join("L")
    );
    let last = HEIGHT - 10.0;
    println!(r#"<text x="{LEFT}" y="{last}">components, from the largest to the smallest</text>"#);
    println!(
        r##"<text x="{}" y="{last}" text-anchor="end"><tspan fill="#3182bd">bits at 2 an element</tspan>, <tspan fill="#6baed6">at 4</tspan>, <tspan fill="#e6550d">energy, {ORDERS} orders of magnitude</tspan></text>"##,
        WIDTH - 10.0
    );
    println!("</svg>");
    Ok(())
}
