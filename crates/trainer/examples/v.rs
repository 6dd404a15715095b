//! tmp
fn main() { let a: Vec<String> = std::env::args().collect();
 for r in loract_trainer::verify(a[1].as_ref(), a[2].as_ref(), 1e-4).map_err(|e| e.to_string()).unwrap() { println!("{} {:.2e} {:.2e} {}", r.name, r.largest, r.relative, r.holds); } }
